"""HumanEval (Chen et al., 2021): whether the code in an answer passes the problem's tests, in a sandbox.

The gold texts of a row are the prompt, the test and the entry point, in this order.
"""

import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from alttrain.evaluation.grading.extraction import NO_ANSWER, no_gold
from alttrain.evaluation.grading.harness import READY
from alttrain.evaluation.judges.judge import JudgeContext, ModelFault, RowJudge
from alttrain.evaluation.sandbox import Sandbox
from alttrain.records import Generation, Judgement

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_PYTHON = ("", "python", "python3", "py")
_BLOCK = re.compile(r"(?:async|for|if|try|while|with|def)\b")
_COLON = re.compile(r":\s*(?:#.*)?$")
_CODE_STARTS = re.compile(r"^(?:(?:import|from|def|class|async)\b|@)", re.M)


@dataclass(frozen=True)
class HumanEval(RowJudge):
    """Right if the program made from prompt and answer passes its tests.

    `workers` programs run at a time; None runs one per CPU.
    """

    sandbox: Sandbox = field(default_factory=Sandbox)
    workers: Annotated[int, Ge(1)] | None = None
    name: str = "humaneval"

    says: Literal["correct"] = "correct"
    needs_gold = True

    def __call__(self, generation: Generation) -> Judgement:
        """Grade one answer; undecided, with an error, without the three gold texts."""
        if not generation.gold:
            return no_gold(generation, self.name)
        if len(generation.gold) != 3:
            error = f"the row has {len(generation.gold)} gold texts; expected prompt, test and entry point"
            return Judgement(generation.id, self.name, None, error=error)
        if not generation.answer.strip():
            return Judgement(generation.id, self.name, False, NO_ANSWER)
        prompt, test, entry_point = generation.gold
        code = program(generation.answer, prompt, entry_point)
        try:
            failure = failure_of(code, prompt, test, entry_point, self.sandbox)
        except ValueError as error:
            return Judgement(generation.id, self.name, None, error=f"row {generation.id}: {error}")
        return Judgement(generation.id, self.name, not failure, failure or "passed")

    def check(self, where: str, model_fault: ModelFault) -> None:
        """Raise OSError if there is no sandbox."""
        self.sandbox.check()

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Yield judgements in the order of the generations, `workers` at a time. Raises OSError without a sandbox."""
        self.sandbox.check()
        with ThreadPoolExecutor(self.workers or os.cpu_count() or 1) as pool:
            for judgement in pool.map(self, generations):
                yield judgement
                context.progress(1)


def failure_of(program: str, prompt: str, test: str, entry_point: str, sandbox: Sandbox) -> str:
    """Why a program's function failed its tests, or "" if it passed.

    Raises ValueError if prompt or test do not run, and OSError if a sandbox does not start.
    """
    harness = Path(__file__).with_name("harness.py").read_text(encoding="utf-8")
    ours: list[int] = []
    try:
        calls_in, calls_out = os.pipe()
        ours += [calls_in, calls_out]
        answers_in, answers_out = os.pipe()
        ours += [answers_in, answers_out]
        served = {"program": program, "entry_point": entry_point, "calls": calls_in, "answers": answers_out}
        checked: dict[str, str | int] = {"prompt": prompt, "test": test, "entry_point": entry_point}
        checked |= {"calls": calls_out, "answers": answers_in}
        with sandbox.started(f"{harness}\nserve(**arguments)", served, (calls_in, answers_out), subprocess.DEVNULL):
            for end in (calls_in, answers_out):  # only the program keeps these ends, so that its exit is noticed
                os.close(end)
                ours.remove(end)
            outcome = sandbox.run(f"{harness}\ncheck(**arguments)", checked, (calls_out, answers_in))
    finally:
        for end in ours:
            os.close(end)
    if not outcome.output.startswith(f"{READY}\n"):
        raise OSError(
            f"a sandbox did not start ({outcome.ended}, code {outcome.code}): {outcome.output.strip()[-200:]}"
        )
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
    if _defines(code, entry_point):
        head = re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.M)
        return f"{prompt[: head.start()] if head else prompt}\n{code}\n"
    return f"{prompt.rstrip()}\n{_as_body(code)}\n"


def code_of(answer: str, entry_point: str) -> str:
    """The last Python fence that defines the entry point, else the first fence, else the whole answer."""
    fences: list[tuple[str, str]] = _FENCE.findall(answer)
    whole = [textwrap.dedent(code) for language, code in fences if language.lower() in _PYTHON]
    defining = [code for code in whole if _defines(code, entry_point)]
    if defining:
        return defining[-1]
    if fences:
        return fences[0][1]
    start = _CODE_STARTS.search(answer) if _defines(answer, entry_point) else None
    return answer[start.start() :] if start else answer


def _defines(code: str, entry_point: str) -> bool:
    return bool(re.search(rf"^def {re.escape(entry_point)}\s*\(", code, re.M))


def _as_body(code: str) -> str:
    """A function body with its indentation restored, if trimming removed that of the first line or of all lines."""
    lines = code.strip("\n").splitlines()
    if not lines or re.match(r" {4}\S", lines[0]):
        return "\n".join(lines)
    rest = [line for line in lines[1:] if line.strip()]
    indents = [len(line) - len(line.lstrip()) for line in rest]
    colon = next((place for place, line in enumerate([lines[0], *rest]) if _COLON.search(line)), len(rest))
    flush_block = _BLOCK.match(lines[0]) and indents[colon : colon + 1] == [4]
    # Only the first line lost its indentation if no other line, not even a closing bracket, is at the margin.
    if indents and min(indents) >= 4 and not lines[0][0].isspace() and not flush_block:
        return "\n".join([f"    {lines[0]}", *lines[1:]])
    return textwrap.indent(textwrap.dedent("\n".join(lines)), "    ")
