"""The two programs that check a completion, each in its own sandbox.

This module is sent to the sandboxes as source and uses the standard library only. `serve` runs the model's program and
answers calls of its function. `check` runs the benchmark's tests, in which the function is a call to the other sandbox.
The model's program therefore sees neither the tests nor the verdict: whatever it ends, patches or prints, a pass means
that its function gave the right answers. Calls and answers are lines of JSON with plain Python values only, so that no
object can fake equality.
"""

import json
import os
import sys
from functools import partial
from typing import Any

LONGEST_LINE = 1 << 26
"""Maximum characters of an answer. HumanEval+ asks for lists of a million numbers."""
LONGEST_FAILURE = 1000
"""Maximum characters of a failure. A failed assertion may print all that it compares."""
LARGEST = 1 << 1000
"""Integers from this one on are written in hexadecimal, since Python limits the digits of decimal ones."""
KINDS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
SCALARS = {int, float, str, bool, type(None)}
READY = "ready"
"""First output line of both programs. If it is missing, the sandbox failed, not the model."""


def encode(value: Any) -> Any:
    """Encode a plain Python value as JSON; subclasses lose their behaviour, and numpy's numbers are Python's.

    Raises TypeError for any other value.
    """
    if type(value).__module__ == "numpy" and not getattr(value, "shape", True):
        value = value.item()
    if value is None or isinstance(value, (bool, float, str)):  # JSON keeps each float, and halves of surrogate pairs
        return value
    if isinstance(value, int):
        return value if -LARGEST < value < LARGEST else {"int": hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return {name: list(value) if _written_as_it_is(value) else [encode(item) for item in value]}
    raise TypeError(f"a {type(value).__name__} is not a plain value")


def _written_as_it_is(items: Any) -> bool:
    """Whether no item needs `encode`: a shortcut, because HumanEval+ has lists of a million numbers."""
    if not set(map(type, items)) <= SCALARS:
        return False
    numbers = [item for item in items if type(item) is int]
    return not numbers or (min(numbers) > -LARGEST and max(numbers) < LARGEST)


def decode(value: Any) -> Any:
    """The inverse of `encode`. Raises ValueError for input that `encode` does not write."""
    if type(value) in SCALARS:
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("not an encoded value")
    [(kind, content)] = value.items()
    if kind in KINDS:
        return KINDS[kind](content if set(map(type, content)) <= SCALARS else map(decode, content))
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind == "complex":
        return complex(*content)
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    raise ValueError(f"unknown kind {kind!r}")


def _loads(line: Any) -> Any:
    """Parse JSON. Each NaN is an object of its own, as from a program: Python's lists find the same object equal."""
    return json.loads(line, parse_constant=float)


def serve(program: str, entry_point: str, ends: tuple[int, int], prelude: str = "", script: bool = False) -> None:
    """Run a program, then answer calls of its function. `ends` are file descriptors: of the calls, and for the answers.

    `prelude` is code that runs before the program. A `script` has no function: it runs anew for each call, whose
    argument is its standard input, and the answer is what it prints.
    """
    namespace: dict[str, Any] = {"__name__": "__main__" if script else "program"}
    failure = ""
    exec(prelude, namespace)
    if script:  # where no process can be started, the sandbox fails and not the program
        _printed("", namespace, "")
    with os.fdopen(ends[0]) as reader, os.fdopen(ends[1], "w") as writer:
        print(READY, file=writer, flush=True)
        try:
            code = compile(program, "<program>", "exec")
            if not script:
                exec(code, namespace)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        for line in reader:
            answer: dict[str, Any] = {"error": failure}
            if not failure:
                try:
                    arguments, keywords = decode(_loads(line))
                    function = partial(_printed, code, namespace) if script else namespace[entry_point]
                    value = function(*arguments, **keywords)
                    answer = {"returned": True}
                    answer["value"] = encode(value)
                except Exception as error:
                    answer["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps(answer), file=writer, flush=True)


def _printed(code: Any, namespace: dict[str, Any], stdin: str) -> str:
    """What a script prints, in a process of its own. Raises RuntimeError if an error ends it, but not if it exits."""
    import tempfile

    # a file with a name: in a sandbox, /dev/stdin is a link to /tmp/stdin
    with open("stdin", "w+b") as source, tempfile.TemporaryFile() as printed:
        source.write(stdin.encode("utf-8", "surrogatepass"))
        source.seek(0)
        if not (child := os.fork()):
            os.dup2(source.fileno(), 0)
            os.dup2(printed.fileno(), 1)
            try:
                exec(code, namespace)
            except SystemExit:
                pass
            except BaseException as error:
                printed.truncate(0)
                printed.seek(0)
                printed.write(f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
                printed.flush()
                raise SystemExit(1) from None
            raise SystemExit(0)  # through `serve`: the interpreter ends as after a script, threads and buffers included
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        output = printed.read().decode("utf-8", "replace")
        if os.WIFSIGNALED(status):
            raise RuntimeError(f"killed by signal {os.WTERMSIG(status)}")
        if status:
            raise RuntimeError(output.partition("\n")[0][:200])
        return output


def check(prompt: str, test: str, entry_point: str, ends: tuple[int, int], script: bool = False) -> None:
    """Run a benchmark's tests and print, as the last line, [fault of the tests, failure of the function].

    `ends` are file descriptors: for the calls, and of the answers. Both texts are "" if the function passed. An
    undefined name, a missing module or an early exit is a fault of the tests, since no value that the function returns
    can cause it.

    The tests are a function `check`, as in HumanEval, or a `script`, as in MBPP+. To a script an answer that is no
    plain value, such as a match of a pattern, is an object that equals nothing else and is not None.
    """
    fault = failure = ""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read by numpy, if the tests import it: threads count as processes
    sys.set_int_max_str_digits(0)  # EvalPlus's tests have integers of more digits
    with os.fdopen(ends[0], "w") as writer, os.fdopen(ends[1]) as reader:
        if reader.readline() == f"{READY}\n":
            print(READY, flush=True)

        def candidate(*arguments: Any, **keywords: Any) -> Any:
            print(json.dumps(encode((arguments, keywords))), file=writer, flush=True)
            line = reader.readline(LONGEST_LINE)
            if not line.endswith("\n"):
                raise EOFError("the program ended, or gave too long an answer")
            answer = _loads(line)
            if "value" not in answer:
                if script and "returned" in answer:
                    return object()
                raise RuntimeError(f"the program raised {str(answer.get('error'))[:200]}")
            return decode(answer["value"])

        # The prompt has the imports and functions that the tests need; the candidate replaces its unfinished function.
        namespace: dict[str, Any] = {"__name__": "check"}
        try:
            exec(compile(prompt, "<prompt>", "exec"), namespace)
            namespace[entry_point] = candidate
            code = compile(test, "<test>", "exec")
            if not script:
                exec(code, namespace)
                tests = namespace["check"]
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}"
        try:
            if not fault and script:
                exec(code, namespace)
            elif not fault:
                tests(candidate)
        except (NameError, ImportError, SystemExit) as error:
            fault = f"{type(error).__name__}: {error}"
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        try:
            print("\n" + json.dumps([fault[:LONGEST_FAILURE], failure[:LONGEST_FAILURE]]), flush=True)
        finally:
            os._exit(0)  # closing a pipe without a reader would raise and hide the verdict
