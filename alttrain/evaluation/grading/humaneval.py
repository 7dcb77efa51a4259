"""HumanEval, HumanEval+ and MBPP+: whether the code in an answer passes the problem's tests, in a sandbox.

Chen et al. (2021) and Liu et al. (2023, EvalPlus). The gold texts of a row make its `Problem`.
"""

import functools
import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge

from alttrain.evaluation.grading.final_answer import Grader
from alttrain.evaluation.grading.harness import READY
from alttrain.evaluation.judges.judge import JudgeContext, ModelFault
from alttrain.evaluation.sandbox import Sandbox
from alttrain.records import Generation, Judgement

_FENCE = re.compile(r"^[ \t]*(```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\1[ \t]*$|\Z)", re.M | re.S)
_STATEMENT = re.compile(r"^(?!(?:async|class|def|from|import)\b)[^\s@#)]", re.M)  # a line that is of no definition
_DEFINED = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", re.M)
_IMPORTED = re.compile(r"^(?:from[ \t]+\S+[ \t]+)?import\b[ \t]*(\([^)]{0,2000}\)|[^#\n]*)", re.M)
_PYTHON = ("", "python", "python3", "py")
_BLOCK = re.compile(r"(?:async|for|if|try|while|with|def)\b")
_COLON = re.compile(r":\s*(?:#.*)?$")
_FUTURE = re.compile(r"^from __future__ import .*\n", re.M)
_CODE_STARTS = re.compile(r"^(?:(?:import|from|def|class|async)\b|@)", re.M)
_HARNESS = Path(__file__).with_name("harness.py").read_text(encoding="utf-8")
SERVE, CHECK = f"{_HARNESS}\nserve(**arguments)", f"{_HARNESS}\ncheck(**arguments)"
"""Programs for a sandbox: one that serves an answer's program, and one that runs the benchmark's tests on it."""
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where a container has the processor time that it may use in a period."""
_ENTRY_POINT = re.compile(r"\bassertion\((\w+)\(\*inp\)")


@dataclass(frozen=True)
class Problem:
    """A function to write, and its tests.

    - `prompt`  code that comes before the answer; "" if there is none
    - `test`    the benchmark's tests: code with a function `check`, or a `script` that calls the function by its name
    """

    prompt: str
    test: str
    entry_point: str
    script: bool = False


@dataclass(frozen=True)
class HumanEval(Grader):
    """Right if the program made from prompt and answer passes its tests, which can import the installed `packages`.

    `workers` programs run at a time; None runs one per processor of the job.
    """

    sandbox: Sandbox = field(default_factory=Sandbox)
    workers: Annotated[int, Ge(1)] | None = None
    name: str = "humaneval"

    golds: ClassVar[Sequence[str]] = ("prompt", "test", "entry point")
    packages: ClassVar[Sequence[str]] = ()

    def problem(self, prompt: str, test: str, entry_point: str, solution: str = "") -> tuple[Problem, str]:
        """The problem that the gold texts of a row make, and a program that solves it, "" if the row has none."""
        return Problem(prompt, test, entry_point), solution and f"{prompt}{solution}"

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        """Run the benchmark's own solution too if the answer fails: it is wrong only if that solution passes here."""
        failure = self.failure(generation.answer, *golds)
        return Judgement(generation.id, self.name, not failure, failure or "passed")

    def failure(self, answer: str, *golds: str) -> str:
        """Why an answer fails, or "" if it passes. Raises ValueError if the row's own texts are at fault."""
        problem, solution = self.problem(*golds)
        run = functools.partial(failure_of, problem=problem, sandbox=self.sandbox, packages=self.packages)
        failure = run(program(answer, problem.prompt, problem.entry_point))
        if failure and solution and (fault := run(solution)):
            raise ValueError(f"the benchmark's own solution does not pass its test here: {fault}")
        return failure

    def check(self, where: str, model_fault: ModelFault) -> None:
        """Raise OSError if there is no sandbox, or if a package that the tests import cannot be imported in it."""
        self.sandbox.check()
        for package in self.packages:
            if fault := _import_fault(package, self.sandbox):
                raise OSError(f"judge {self.name}: its tests import {package}, which fails in the sandbox: {fault}")

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Yield judgements in the order of the generations, `workers` at a time. Raises OSError as `check` does."""
        self.check("", lambda *_: "")
        with ThreadPoolExecutor(self.workers or _processors()) as pool:
            for judgement in pool.map(self, generations):
                yield judgement
                context.progress(1)


@dataclass(frozen=True)
class HumanEvalPlus(HumanEval):
    """HumanEval with EvalPlus's tests."""

    name: str = "humaneval_plus"

    golds = (*HumanEval.golds, "own solution")
    packages = ("numpy",)


@dataclass(frozen=True)
class MBPPPlus(HumanEval):
    """MBPP with EvalPlus's tests. The name of the function is read from them."""

    name: str = "mbpp_plus"

    golds = ("test", "own solution")
    packages = ("numpy",)

    def problem(self, test: str, solution: str) -> tuple[Problem, str]:  # type: ignore[override]
        """As `HumanEval.problem`. Raises ValueError if the test calls no function."""
        if not (called := _ENTRY_POINT.findall(test)):
            raise ValueError("the row's test calls no function; expected assertion(NAME(*inp), ...)")
        return Problem("", test, called[-1], script=True), solution


def _processors() -> int:
    """The processors of this job, which on a cluster or in a container are not all of the machine's."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # ValueError: "max", for no limit
        quota, period = map(int, QUOTA.read_text().split())
        count = max(1, min(count, quota // period))
    return count


@functools.cache
def _import_fault(package: str, sandbox: Sandbox) -> str:
    """Why a package cannot be imported in a sandbox, or "". Tried once per process."""
    source = f"import os\nos.environ['OPENBLAS_NUM_THREADS'] = '1'\nimport {package}\nprint('imported')"
    outcome = sandbox.run(source, packages=(package,))
    return "" if outcome.output == "imported\n" else outcome.output.strip()[-300:] or outcome.ended


@contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """The end of a pipe to read from and the end to write to, without buffers."""
    reading, writing = os.pipe()
    with open(reading, "rb", 0) as reader, open(writing, "wb", 0) as writer:
        yield reader, writer


def failure_of(program: str, problem: Problem, sandbox: Sandbox, packages: Sequence[str]) -> str:
    """Why a program's function failed its tests, or "" if it passed.

    Raises ValueError if prompt or test do not run, and OSError if a sandbox does not start.
    """
    with pipe() as (calls_in, calls_out), pipe() as (answers_in, answers_out):
        program_ends, test_ends = (calls_in.fileno(), answers_out.fileno()), (calls_out.fileno(), answers_in.fileno())
        served = {"program": program, "entry_point": problem.entry_point, "ends": program_ends}
        with sandbox.start(SERVE, served, program_ends, subprocess.DEVNULL):
            calls_in.close()  # only the program keeps these ends, so that its exit is noticed
            answers_out.close()
            outcome = sandbox.run(CHECK, {**asdict(problem), "ends": test_ends}, test_ends, packages=packages)
    if not outcome.output.startswith(f"{READY}\n"):
        how = f"{outcome.ended}, code {outcome.code}"
        raise OSError(f"a sandbox did not start ({how}): {outcome.output.strip()[-200:]}")
    if outcome.ended == "timeout":
        return f"no end within {sandbox.seconds:g} s"
    try:
        fault, failure = json.loads(outcome.output.rstrip().rpartition("\n")[2])
    except ValueError:
        return f"the tests gave no verdict ({outcome.ended}, code {outcome.code})"
    if fault:
        raise ValueError(f"the benchmark's own prompt or test does not run: {fault}")
    return str(failure)


def program(answer: str, prompt: str, entry_point: str) -> str:
    """The program to test: a whole function after the prompt's imports and helpers, or a body after the prompt."""
    code = code_of(answer, entry_point)
    if not prompt:
        return code
    if _defines(code, entry_point):
        head = re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.M)
        future = "".join(_FUTURE.findall(code))  # Python wants it at the beginning
        return f"{future}{prompt[: head.start()] if head else prompt}\n{_FUTURE.sub('', code)}\n"
    return f"{prompt.rstrip()}\n{_as_body(code)}\n"


def code_of(answer: str, entry_point: str) -> str:
    """The last Python fence that defines the entry point, after the fences of its helpers.

    Else the first Python fence, else the first fence, else the whole answer.
    """
    fences: list[tuple[str, str, str]] = _FENCE.findall(answer)
    python = [code for _, language, code in fences if language.lower() in _PYTHON]
    blocks = [textwrap.dedent(code) for code in python]
    if defining := [code for code in blocks if _defines(code, entry_point)]:
        return "\n".join([*_helpers([code for code in blocks if code is not defining[-1]], defining[-1]), defining[-1]])
    if fences:
        return python[0] if python else fences[0][2]
    start = _CODE_STARTS.search(answer) if _defines(answer, entry_point) else None
    return answer[start.start() :] if start else answer


def _helpers(blocks: Sequence[str], function: str) -> list[str]:
    """The blocks that a function needs, directly or through another, in their order.

    Such a block has only definitions and imports, and makes a name that the function mentions and does not make itself.
    A block that imports what the answer defines is a test of it.
    """
    made = set(_DEFINED.findall("\n".join([*blocks, function])))
    names = {
        block: imported.union(_DEFINED.findall(block))
        for block in blocks
        if not _STATEMENT.search(block) and not (imported := _imported(block)) & made
    }
    needed = _words(function) - _imported(function) - set(_DEFINED.findall(function))
    taken: set[str] = set()
    while new := {block for block in names if names[block] & needed} - taken:
        taken |= new
        needed |= _words("\n".join(new))
    return [block for block in names if block in taken]


def _words(code: str) -> set[str]:
    """The words of code, and "*", by which `_imported` calls all names of a module."""
    return {*re.findall(r"\w+", code), "*"}


def _imported(code: str) -> set[str]:
    return set(re.findall(r"\w+|\*", " ".join(_IMPORTED.findall(code)))) - {"as"}


def _defines(code: str, entry_point: str) -> bool:
    return bool(re.search(rf"^def {re.escape(entry_point)}\s*\(", code, re.M))


def _as_body(code: str) -> str:
    """A function body with its indentation restored, if trimming removed that of the first line or of all lines."""
    lines = code.strip("\n").splitlines()
    if not lines or re.match(r" {4}\S", lines[0]):
        return "\n".join(lines)
    later = [line for line in lines[1:] if line.strip()]
    indents = [len(line) - len(line.lstrip()) for line in later]
    colon = next((number for number, line in enumerate([lines[0], *later]) if _COLON.search(line)), len(later))
    flush_block = _BLOCK.match(lines[0]) and indents[colon : colon + 1] == [4]
    # Only the first line lost its indentation if no other line, not even a closing bracket, is at the margin.
    if indents and min(indents) >= 4 and not lines[0][0].isspace() and not flush_block:
        return "\n".join([f"    {lines[0]}", *lines[1:]])
    return textwrap.indent(textwrap.dedent("\n".join(lines)), "    ")
