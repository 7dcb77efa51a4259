"""The two programs that check a completion, each in its own sandbox.

This module is sent to the sandboxes as source and uses the standard library only. `serve` runs the model's program and
answers calls of its function. `check` runs the benchmark's tests, in which the function is a call to the other sandbox.
The model's program therefore sees neither the tests nor the verdict: whatever it ends, patches or prints, a pass means
that its function gave the right answers. Calls and answers are lines with Python literals, so that no object can fake
equality.
"""

import ast
import json
import os
from contextlib import suppress
from types import CodeType
from typing import Any

LONGEST_LINE = 1 << 22
READY = "ready"
"""First output line of both programs. If it is missing, the sandbox failed, not the model."""


def plain(value: Any) -> Any:
    """The value as a literal can write it; subclasses of containers become plain. Raises TypeError for other types."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return kind(map(plain, value))
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    raise TypeError(f"a {type(value).__name__} is not a plain value")


def compiled(programs: list[str]) -> CodeType:
    """The first program that compiles. Raises the last one's SyntaxError if none does."""
    *others, last = programs
    for program in others:
        with suppress(SyntaxError):
            return compile(program, "<program>", "exec")
    return compile(last, "<program>", "exec")


def serve(programs: list[str], entry_point: str, calls: int, answers: int) -> None:
    """Run the first program that compiles. Answer calls of its function from descriptor `calls` on `answers`."""
    namespace: dict[str, Any] = {"__name__": "program"}
    failure = ""
    with os.fdopen(calls) as reader, os.fdopen(answers, "w") as writer:
        print(READY, file=writer, flush=True)
        try:
            exec(compiled(programs), namespace)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        for line in reader:
            answer = failure, None
            if not failure:
                try:
                    arguments, named = ast.literal_eval(line)
                    answer = "", plain(namespace[entry_point](*arguments, **named))
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}", None
            print(ascii(answer), file=writer, flush=True)


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
            print(ascii(plain((arguments, named))), file=writer, flush=True)
            line = reader.readline(LONGEST_LINE)
            if not line.endswith("\n"):
                raise EOFError("the program ended, or gave too long an answer")
            error, value = ast.literal_eval(line)
            if error:
                raise RuntimeError(f"the program raised {error[:200]}")
            return value

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
