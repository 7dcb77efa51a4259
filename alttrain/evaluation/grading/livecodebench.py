"""LiveCodeBench's code generation (Jain et al., 2024): programs tested by what they print, or by what they return.

Made as in github.com/LiveCodeBench/LiveCodeBench at 28fef95; the files named here are in its folder lcb_runner. The
tests are data: a sandbox has the program and the inputs, and what comes out is compared here.
"""

import base64
import json
import os
import pickletools
import select
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import islice
from tempfile import TemporaryFile
from typing import Any

import msgspec

from alttrain.evaluation.grading.harness import READY, _loads, decode, encode
from alttrain.evaluation.grading.humaneval import SERVE, HumanEval, pipe

LARGEST = 1 << 30
"""Maximum bytes of a row's private tests, decompressed."""
START_S = 60.0
"""Seconds that a sandbox may take to start."""
_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json"),
)
_PRELUDE = "\n".join(
    [
        "__import__('os').environ['OPENBLAS_NUM_THREADS'] = '1'",  # numpy's threads count as processes
        *(f"from {name} import *" for name in [*_MODULES, "builtins", "typing"]),
        *(f"import {name}" for name in _MODULES),
        "sys.setrecursionlimit(50_000)\nsys.set_int_max_str_digits(50_000)",
    ]
)
"""What a program finds imported, in this order, and its limits (import_string of evaluation/testing_util.py, and
evaluation/compute_code_generation_metrics.py)."""
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_FRAMING = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


class Case(msgspec.Struct):
    """A test: standard input and output; or the arguments of a function, one line of JSON each, and its value."""

    input: str
    output: str


class Metadata(msgspec.Struct):
    """What is known of a problem: the name of the function to write, if it is one."""

    func_name: str | None = None


@dataclass(frozen=True)
class LiveCodeBench(HumanEval):
    """Right if the program passes the public and the private tests. `sandbox.seconds` limits each test.

    The problem is a function if its metadata have `func_name`, else a script (run_test of evaluation/testing_util.py).
    """

    name: str = "livecodebench"

    golds = ("public tests", "private tests", "metadata")
    packages = ("numpy",)

    def failure(self, answer: str, *golds: str) -> str:
        *tests, metadata = golds
        try:
            function = msgspec.json.decode(metadata, type=Metadata).func_name
            if not (cases := [case for text in tests for case in _cases(text)]):
                raise ValueError("there are none")
            inputs = [[*map(json.loads, case.input.split("\n"))] if function else [case.input] for case in cases]
            outputs = [json.loads(case.output) if function else case.output for case in cases]
            calls = [json.dumps(encode((arguments, {}))) for arguments in inputs]
        except (ValueError, RecursionError, MemoryError, zlib.error) as error:
            raise ValueError(f"its tests cannot be read: {error}") from error
        if not (program := last_block(answer)):
            return "no block of code"
        if function and "class Solution" in program:  # compile_code of evaluation/testing_util.py
            program = f"{program}\n{function} = Solution().{function}"
        served = {"program": program, "entry_point": function or "", "prelude": _PRELUDE, "script": not function}
        with self._answers(served, calls) as answers:
            for number, (case, output) in enumerate(zip(cases, outputs, strict=True), 1):
                # an answer that is so much longer is wrong, and not kept
                line = answers.next(16 * len(case.output) + (1 << 16), self.sandbox.seconds)
                if fault := line if isinstance(line, str) else _fault(line, output, bool(function)):
                    return f"test {number} of {len(cases)}: {fault}"
        return ""

    @contextmanager
    def _answers(self, served: Mapping[str, Any], calls: Sequence[str]) -> Iterator["_Lines"]:
        """The answers of a program in a sandbox. Raises OSError if it does not start."""
        # processor time: the limit of a whole problem in evaluation/compute_code_generation_metrics.py
        limits = replace(self.sandbox, seconds=(self.sandbox.seconds + 1) * len(calls) + 5)
        with pipe() as (reader, writer), TemporaryFile() as file:
            file.writelines(f"{call}\n".encode() for call in calls)
            file.seek(0)
            ends = file.fileno(), writer.fileno()
            arguments = {**served, "ends": ends}
            with limits.start(SERVE, arguments, ends, subprocess.DEVNULL, packages=self.packages) as process:
                writer.close()  # only the program keeps this end, so that its exit is noticed
                lines = _Lines(reader.fileno())
                if lines.next(len(READY), START_S) != READY.encode():
                    raise OSError(f"a sandbox did not start (code {process.poll()})")
                yield lines


@dataclass
class _Lines:
    """Lines from a pipe into which a program may write anything, at any pace."""

    descriptor: int  # of the pipe's end to read from
    buffer: bytes = b""  # what was read and not returned yet

    def next(self, longest: int, seconds: float) -> bytes | str:
        """The next line without its end; or, as text, why there is none in time, or in about `longest` bytes."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        while (length := self.buffer.find(b"\n")) < 0 and len(self.buffer) <= longest:
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                return f"no end within {seconds:g} s"
            if not (chunk := os.read(self.descriptor, 1 << 20)):
                return "the program ended"
            self.buffer += chunk
        if length < 0:
            return "wrong answer, and too long"
        line, self.buffer = self.buffer[:length], self.buffer[length + 1 :]
        return line


def last_block(answer: str) -> str:
    """The lines between the last two that have a fence; "" if there are none (utils/extraction_utils.py)."""
    lines = answer.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def _cases(text: str) -> list[Case]:
    """Tests as JSON, or as such text pickled, compressed and in base64 (benchmarks/code_generation.py).

    Nothing is unpickled: the pickle must hold one string, which is read from it. Raises ValueError or zlib.error.
    """
    if not text.startswith("["):
        unpacking = zlib.decompressobj()
        pickled = unpacking.decompress(base64.b64decode(text), LARGEST)
        if not unpacking.eof:
            raise ValueError(f"they are cut, or have more than {LARGEST} bytes")
        steps = [(step.name, value) for step, value, _ in islice(pickletools.genops(pickled), 6)]
        strange = [name for name, _ in steps if name not in _STRINGS | _FRAMING]
        strings = [value for name, value in steps if name in _STRINGS]
        if strange or len(strings) != 1 or steps[-1][0] != "STOP":
            raise ValueError(f"the pickle is not one string: {' '.join(name for name, _ in steps)}")
        text = str(strings[0])
    return msgspec.json.decode(text, type=list[Case])


def _fault(line: bytes, expected: Any, function: bool) -> str:
    """What is wrong with an answer of `harness.serve`, or ""."""
    try:
        answer = _loads(line)
        if "value" not in answer:
            raised = str(answer["error"])[:200]
            return f"the program failed: {raised if function else raised.removeprefix('RuntimeError: ')}"
        _refuse_hashed(answer["value"])
        value = decode(answer["value"])
        plain = list(value) if isinstance(value, tuple) else value  # grade_call_based of evaluation/testing_util.py
        return "" if (plain == expected if function else same_output(value, expected)) else "wrong answer"
    except Exception:  # the program can write to the pipe itself
        return "no plain answer"


def _refuse_hashed(value: Any) -> None:
    """Raise ValueError for sets, and for keys that are no text. No test wants them, and equal hashes take hours."""
    for kind, content in value.items() if isinstance(value, dict) else ():
        if kind in ("set", "frozenset") or (kind == "dict" and not all(type(key) is str for key, _ in content)):
            raise ValueError(f"a {kind} of this kind equals no test's value")
        for item in content if isinstance(content, list) else ():
            for inner in item if isinstance(item, list) else (item,):
                _refuse_hashed(inner)


def same_output(printed: str, right: str) -> bool:
    """Whether two texts have the same stripped lines; a line may differ if its words are the same decimal numbers
    (grade_stdio of evaluation/testing_util.py)."""
    lines, expected = ([line.strip() for line in text.strip().split("\n")] for text in (printed, right))
    return len(lines) == len(expected) and all(map(_same_line, lines, expected))


def _same_line(line: str, expected: str) -> bool:
    if line == expected:
        return True
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:
        return False
