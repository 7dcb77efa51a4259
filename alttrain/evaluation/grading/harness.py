"""The two programs that check a completion, each in its own sandbox.

This module is sent to the sandboxes as source and uses the standard library only. `serve` runs the model's program and
answers calls of its function. `check` runs the benchmark's tests, in which the function is a call to the other sandbox.
The model's program therefore sees neither the tests nor the verdict: whatever it ends, patches or prints, a pass means
that its function gave the right answers. Calls and answers are lines of JSON with plain Python values only, so that no
object can fake equality.
"""

import json
import os
from typing import Any

LONGEST_LINE = 1 << 22
KINDS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
READERS: dict[str, Any] = {
    "int": lambda held: int(held, 16),
    "float": float.fromhex,
    "str": str,
    "bytes": bytes.fromhex,
}
READY = "ready"
"""First output line of both programs. If it is missing, the sandbox failed, not the model."""


def encode(value: Any) -> Any:
    """Encode a plain Python value as JSON; subclasses lose their behaviour. Raises TypeError for any other value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return {"int": hex(value)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, str):
        return {"str": str.__str__(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return {name: [encode(item) for item in value]}
    raise TypeError(f"a {type(value).__name__} is not a plain value")


def decode(value: Any) -> Any:
    """The inverse of `encode`. Raises ValueError for input that `encode` does not write."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("not an encoded value")
    [(kind, held)] = value.items()
    if kind in KINDS:
        return KINDS[kind](map(decode, held))
    if kind == "dict":
        return {decode(key): decode(item) for key, item in held}
    if kind == "complex":
        return complex(*map(float.fromhex, held))
    if kind not in READERS:
        raise ValueError(f"unknown kind {kind!r}")
    return READERS[kind](held)


def serve(program: str, entry_point: str, calls: int, answers: int) -> None:
    """Run a program, then answer calls of its function from file descriptor `calls` on `answers`."""
    namespace: dict[str, Any] = {"__name__": "program"}
    failure = ""
    with os.fdopen(calls) as reader, os.fdopen(answers, "w") as writer:
        print(READY, file=writer, flush=True)
        try:
            exec(compile(program, "<program>", "exec"), namespace)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        for line in reader:
            answer: dict[str, Any] = {"error": failure}
            if not failure:
                try:
                    arguments, named = decode(json.loads(line))
                    answer = {"value": encode(namespace[entry_point](*arguments, **named))}
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=writer, flush=True)


def check(prompt: str, test: str, entry_point: str, calls: int, answers: int) -> None:
    """Run a benchmark's tests and print, as the last line, [fault of the tests, failure of the function].

    Both are "" if the function passed. An undefined name, a missing module or an early exit is a fault of the tests,
    since no value that the function returns can cause it.
    """
    fault = failure = ""
    with os.fdopen(calls, "w") as writer, os.fdopen(answers) as reader:
        if reader.readline() == f"{READY}\n":
            print(READY, flush=True)

        def candidate(*arguments: Any, **named: Any) -> Any:
            print(json.dumps(encode((arguments, named))), file=writer, flush=True)
            line = reader.readline(LONGEST_LINE)
            if not line.endswith("\n"):
                raise EOFError("the program ended, or gave too long an answer")
            answer = json.loads(line)
            if "value" not in answer:
                raise RuntimeError(f"the program raised {str(answer.get('error'))[:200]}")
            return decode(answer["value"])

        # The prompt has the imports and functions that the tests need; the candidate replaces its unfinished function.
        namespace: dict[str, Any] = {"__name__": "check"}
        try:
            exec(compile(prompt, "<prompt>", "exec"), namespace)
            namespace[entry_point] = candidate
            exec(compile(test, "<test>", "exec"), namespace)
            tests = namespace["check"]
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}"
        try:
            if not fault:
                tests(candidate)
        except (NameError, ImportError, SystemExit) as error:
            fault = f"{type(error).__name__}: {error}"
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        try:
            print("\n" + json.dumps([fault, failure]), flush=True)
        finally:
            os._exit(0)  # closing a pipe without a reader would raise and hide the verdict
