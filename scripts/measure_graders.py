r"""How often the grader of mathematics is right, and what its own code adds to math-verify.

    python scripts/measure_graders.py                        # written variants, the development half
    python scripts/measure_graders.py --half held_back       # look once, at the end
    python scripts/measure_graders.py --data ../shared/data  # also MATH-500 and GSM8K, each gold in many wordings

Three graders are compared: ours; math-verify comparing the answer that ours found; math-verify, which also finds the
answer itself.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import math_verify
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alttrain.evaluation.grading import Maths
from alttrain.evaluation.grading.maths import gold_answer, written_answer
from alttrain.records import Generation

VARIANTS = Path(__file__).resolve().parents[1] / "tests" / "math_variants.jsonl"
Case = tuple[str, str, bool]
WORDINGS = (
    r"Thus \boxed{%s}.",
    "The answer is $%s$.",
    "**Final Answer**\n\\[\n%s\n\\]",
    r"We find $y=3$. The final answer is: $\boxed{%s}$. I hope it is correct.",
    r"**Answer:** \(%s\)",
    "Answer: %s",
    "Final Answer: The largest value of $v$ is $%s$.",
    "The value that we look for is $%s$.",
)
NOTATIONS: tuple[Callable[[str], str], ...] = (
    str,
    lambda gold: gold.replace(r"\frac", r"\dfrac").replace(r"^\circ", r"^{\circ}"),
    lambda gold: re.sub(r"(?<!\d)\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", gold),
    lambda gold: re.sub(r"(?<!\\left)\(", r"\\left(", re.sub(r"(?<!\\right)\)", r"\\right)", gold)),
    lambda gold: re.sub(r"^(-?\d+)$", r"\1.0", gold),
    lambda gold: re.sub(r"^(-?[\d.]+)$", r"\1\\text{ units}", gold),
    lambda gold: re.sub(r"^(-?[\d.]+)$", r"x = \1", gold),
)


def written(gold: str) -> Iterator[Case]:
    """A gold answer in every notation and wording, and wrong ones near it: each number changed, and the sign."""
    for form in dict.fromkeys(notation(gold) for notation in NOTATIONS):
        yield from ((gold, wording.replace("%s", form), True) for wording in WORDINGS)
    near = [gold[: m.start()] + str(int(m[0]) + 1) + gold[m.end() :] for m in re.finditer(r"(?<!\}\^)\d+", gold)]
    if re.fullmatch(r"[1-9][\d.]*", gold):
        near += [f"-{gold}", f"1{gold}", rf"{gold}\pi", f"{gold}x"]
    for place, wrong in enumerate([*near, f"{gold}, 99"]):
        yield gold, WORDINGS[place % len(WORDINGS)].replace("%s", wrong), False


def cases(half: str, data: Path | None) -> dict[str, list[Case]]:
    """The answers to grade, by source."""
    rows = [json.loads(line) for line in VARIANTS.read_text(encoding="utf-8").splitlines()]
    found = {f"written, {half}": [(r["gold"], r["answer"], r["right"]) for r in rows if r["half"] == half]}
    if data:
        for name in ("math500", "gsm8k"):
            lines = (data / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
            golds = [gold_answer(json.loads(line)["answer"]) for line in lines[half == "held_back" :: 2]]
            found[f"{name}, {half}"] = [case for gold in golds for case in written(gold)]
    return found


def ours(gold: str, answer: str) -> bool:
    """Our grader, as benchmarks use it."""
    return Maths()(Generation("g", "", "benign", "", (gold,), answer, "", answer, True, "stop", 1, 1)).verdict is True


def compared_by_math_verify(gold: str, answer: str) -> bool:
    """We find the answer, and math-verify compares it."""
    return bool(math_verify.verify(*(math_verify.parse(f"${text}$") for text in (gold, written_answer(answer)))))


def math_verify_alone(gold: str, answer: str) -> bool:
    """math-verify finds the answer and compares it."""
    return bool(math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(answer)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("development", "held_back"), default="development")
    parser.add_argument("--data", type=Path, help="folder with math500/ and gsm8k/, as upstream writes them")
    parser.add_argument("--misses", metavar="GRADER", help="print what this one gets wrong")
    options = parser.parse_args()
    table = Table("cases", "grader", "accuracy", "right accepted", "wrong rejected")
    for source, graded in cases(options.half, options.data).items():
        for grader in (ours, compared_by_math_verify, math_verify_alone):
            hits: Counter[bool] = Counter()
            for gold, answer, right in track(
                graded, f"{source}: {grader.__name__}", transient=True, disable=not sys.stderr.isatty()
            ):
                hit = grader(gold, answer) is right
                hits[right] += hit
                if options.misses and not hit and grader.__name__ == options.misses:
                    print(json.dumps({"gold": gold, "answer": answer, "right": right}, ensure_ascii=False))
            count = Counter(right for _, _, right in graded)
            shares = (f"{hits[kind]}/{count[kind]}" for kind in (True, False))
            table.add_row(source, grader.__name__, f"{hits.total() / len(graded):.1%}", *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
