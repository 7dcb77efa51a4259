"""HumanEval (Chen et al., 2021): whether the code in an answer passes the problem's tests, in a sandbox."""

import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from alttrain.evaluation.grading.extraction import NO_ANSWER
from alttrain.evaluation.grading.harness import READY
from alttrain.evaluation.judges.judge import JudgeContext, ModelFault, RowJudge
from alttrain.evaluation.sandbox import Sandbox
from alttrain.records import Generation, Judgement

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
_CODE_STARTS = re.compile(r"^(?:(?:import|from|def|class|async)\b|@)", re.M)


@dataclass(frozen=True)
class HumanEval(RowJudge):
    """Right if the program made from prompt and answer passes its tests.

    The gold texts of a row are the prompt, the test and the entry point. `workers` programs run at a time; None runs
    one per CPU.
    """

    sandbox: Sandbox = field(default_factory=Sandbox)
    workers: Annotated[int, Ge(1)] | None = None
    name: str = "humaneval"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Grade one answer; undecided, with an error, without the three gold texts."""
        if len(generation.gold) != 3:
            error = f"the row has {len(generation.gold)} gold texts; expected prompt, test and entry point"
            return Judgement(generation.id, self.name, None, error=error)
        if not generation.answer.strip():
            return Judgement(generation.id, self.name, False, NO_ANSWER)
        prompt, test, entry_point = generation.gold
        fault, failure = self._run(programs(generation.answer, prompt, entry_point), prompt, test, entry_point)
        if fault:
            error = f"row {generation.id}: the benchmark's own prompt or test does not run: {fault}"
            return Judgement(generation.id, self.name, None, error=error)
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

    def _run(self, programs: list[str], prompt: str, test: str, entry_point: str) -> tuple[str, str]:
        """(fault of the benchmark's prompt or test, failure of the program); "" for none.

        Raises OSError if a sandbox does not start.
        """
        harness = Path(__file__).with_name("harness.py").read_text(encoding="utf-8")
        with ExitStack() as opened:
            pipes = [opened.enter_context(open(end, "rb", 0)) for end in (*os.pipe(), *os.pipe())]
            calls_in, calls_out, answers_in, answers_out = (pipe.fileno() for pipe in pipes)
            served = {"programs": programs, "entry_point": entry_point, "calls": calls_in, "answers": answers_out}
            checked: dict[str, str | int] = {"prompt": prompt, "test": test, "entry_point": entry_point}
            checked |= {"calls": calls_out, "answers": answers_in}
            program = f"{harness}\nserve(**arguments)"
            with self.sandbox.started(program, served, (calls_in, answers_out), subprocess.DEVNULL):
                for end in (pipes[0], pipes[3]):  # only the program keeps these ends, so that its exit is noticed
                    end.close()
                outcome = self.sandbox.run(f"{harness}\ncheck(**arguments)", checked, (calls_out, answers_in))
        told = f"({outcome.ended}, code {outcome.code})"
        if not outcome.output.startswith(f"{READY}\n"):
            raise OSError(f"a sandbox did not start {told}: {outcome.output.strip()[-200:]}")
        if outcome.ended == "timeout":
            return "", f"no end within {self.sandbox.seconds:g} s"
        try:
            fault, failure = json.loads(outcome.output.rstrip().rpartition("\n")[2])
        except ValueError:
            return "", f"the tests gave no verdict {told}"
        return fault, failure


def programs(answer: str, prompt: str, entry_point: str) -> list[str]:
    """What the program may be, for the sandbox to run the first that compiles.

    A whole function follows the prompt's imports and helpers. A body follows the prompt: as it is, or with the
    indentation that trimming removed from its first line or from all lines.
    """
    code = code_of(answer, entry_point)
    if _defines(code, entry_point):
        head = re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.M)
        return [f"{prompt[: head.start()] if head else prompt}\n{code}\n"]
    code = code.strip("\n")
    bodies = (code, f"    {code}", textwrap.indent(textwrap.dedent(code), "    "))
    return [f"{prompt.rstrip()}\n{body}\n" for body in bodies]


def code_of(answer: str, entry_point: str) -> str:
    """The last Python fence that defines the entry point, else the first fence, else the whole answer."""
    fences: list[tuple[str, str]] = _FENCE.findall(answer)
    python = [textwrap.dedent(code) for language, code in fences if language.lower() in ("", "python", "python3", "py")]
    if defining := [code for code in python if _defines(code, entry_point)]:
        return defining[-1]
    if fences:
        return fences[0][1]
    start = _CODE_STARTS.search(answer) if _defines(answer, entry_point) else None
    return answer[start.start() :] if start else answer


def _defines(code: str, entry_point: str) -> bool:
    return bool(re.search(rf"^def {re.escape(entry_point)}\s*\(", code, re.M))
