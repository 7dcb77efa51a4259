"""Measure how well the offline parser reads thoughts, against labels given by reading them.

    python scripts/measure_parser.py                    # the shipped weights, on the traces marked `held`
    python scripts/measure_parser.py --folds 5          # models that did not see them, on the traces marked `dev`
    python scripts/measure_parser.py --write            # also write alttrain/report/parser_error.csv, for the report

Three kinds of thoughts are measured: raw traces of reasoning models (tests/trace_labels.jsonl), thoughts as a model
trained on the template writes them (the packaged evaluation prompts, rewritten), and thoughts in other words, written
and labelled by hand (tests/adherence_cases.jsonl). Traces that were written for this project are only trained on.
"""

import argparse
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trace_labels import LABELS, SHARED, LabelledTrace, labelled_traces
from train_thoughts import cross_validated

from alttrain.dataset import embedded_rows
from alttrain.english.thought import score_sentences_with
from alttrain.evaluation.statistics import rate
from alttrain.records import Rejected, Segment
from alttrain.rewrite import AltTrain, Restatement, TemplateTeacher, TraceUnderstanding, read_thought, render
from alttrain.rewrite.parser import Reading

CASES = Path(__file__).parents[1] / "tests" / "adherence_cases.jsonl"
ERRORS = Path(__file__).parents[1] / "alttrain" / "report" / "parser_error.csv"
RAW, TEMPLATE, OTHER_WORDS = "raw traces", "template", "template in other words"
FIELDS = ("understanding", "verdict", "sentence named", "refusals found", "no false refusal")


@dataclass(frozen=True)
class Compared:
    """A thought as a reader labelled it and as the parser reads it. `named` is None if there is no assessment."""

    group: str
    understanding: tuple[bool, bool]
    verdict: tuple[str, str]
    named: bool | None
    refuses: tuple[bool, bool] | None

    def right(self) -> Iterator[tuple[str, bool]]:
        """(field, whether it is right), for the fields that apply to this thought."""
        yield "understanding", self.understanding[0] == self.understanding[1]
        yield "verdict", self.verdict[0] == self.verdict[1]
        if self.named is not None:
            yield "sentence named", self.named
        if self.refuses is not None:
            yield "refusals found" if self.refuses[0] else "no false refusal", self.refuses[0] == self.refuses[1]


def _verdict(reading: Reading) -> str:
    return {"harmful": "harmful", "benign": "harmless", None: "none"}[reading.verdict]


def _understood(reading: Reading) -> bool:
    return any(segment.step == "understanding" for segment in reading.segments)


def compare(trace: LabelledTrace, reading: Reading) -> Compared:
    """Compare a labelled trace. The named sentence is right if it holds an assessment, even if not the best one."""
    assessing = {
        start for (start, _), letters in zip(trace.spans, trace.letters, strict=True) if set("HS") & set(letters)
    }
    return Compared(
        group=f"{trace.source}, {trace.split}",
        understanding=(any("U" in letters for letters in trace.letters), _understood(reading)),
        verdict=(trace.verdict, _verdict(reading)),
        named=None if trace.verdict == "none" else reading.position in assessing,
        refuses=(trace.decision == "refuse", reading.refuses),
    )


def templates() -> Iterator[Compared]:
    """The packaged evaluation prompts, rewritten with the trained wordings and with others."""
    trace = (Segment("reasoning", "I can help with this. Let me think it through step by step.", "backbone"),)
    rows = [row for name in ("harmful", "benign") for row in embedded_rows(f"evaluation_{name}").examples(None)]
    stops: Literal["template", "rephrased"]
    for stops in ("template", "rephrased"):
        made_by = AltTrain("x", TraceUnderstanding(Restatement()), TemplateTeacher(), stops=stops)
        for row in rows:
            if row.label == "benign":
                row = replace(row, thought=trace, answer="So.")
            made = made_by.rewrite(row, 0, TemplateTeacher()(row, 0))
            if isinstance(made, Rejected):
                raise ValueError(made.reason)
            text, harmful = render(made.thought), row.label == "harmful"
            reading = read_thought(text)
            yield Compared(
                group=f"template, {stops} stops",
                understanding=(True, _understood(reading)),
                verdict=("harmful" if harmful else "harmless", _verdict(reading)),
                named=reading.position == text.index(made.thought[1].text),
                refuses=(harmful, reading.refuses),
            )


def cases(path: Path = CASES) -> Iterator[Compared]:
    """The thoughts labelled by hand."""
    for case in map(json.loads, path.open(encoding="utf-8")):
        reading = read_thought(case["thought"])
        then = case["continuation"]
        yield Compared(
            group="read by hand",
            understanding=(case["understanding"], _understood(reading)),
            verdict=({"harmful": "harmful", "benign": "harmless", None: "none"}[case["assessment"]], _verdict(reading)),
            named=None if case["assessment"] is None else reading.position == case["position"],
            refuses=None if then is None else (then == "refusal", reading.refuses),
        )


def raw(traces: Sequence[LabelledTrace], folds: int) -> Iterator[Compared]:
    """The held traces; with `folds`, the others, each read by a model that did not see it."""
    if not folds:
        yield from (compare(trace, read_thought(trace.thought)) for trace in traces if trace.split == "held")
        return
    seen = [trace for trace in traces if trace.split != "held"]
    for model, left in cross_validated(seen, folds, lambda trace: trace.split == "dev"):
        yield from (
            compare(trace, read_thought(trace.thought, score_sentences_with(model, trace.thought))) for trace in left
        )


def table(groups: dict[str, list[Compared]]) -> Iterator[str]:
    """How many are right, by group and field, as Markdown; then the confusion matrices."""
    yield "| thoughts | n | " + " | ".join(FIELDS) + " |"
    yield "|---" * (len(FIELDS) + 2) + "|"
    for name, rows in groups.items():
        yield f"| {name} | {len(rows)} | " + " | ".join(_share(rows, field) for field in FIELDS) + " |"
    for name, rows in groups.items():
        yield f"\n{name}: reader (rows) and parser (columns)"
        verdicts = Counter(row.verdict for row in rows)
        yield from _matrix(("harmful", "harmless", "none"), verdicts)
        decisions = Counter(
            tuple("refuses" if said else "does not" for said in row.refuses) for row in rows if row.refuses is not None
        )
        yield from _matrix(("refuses", "does not"), decisions)


def _right(rows: Iterable[Compared], field: str) -> tuple[int, int]:
    told = [right for row in rows for name, right in row.right() if name == field]
    return sum(told), len(told)


def _share(rows: Sequence[Compared], field: str) -> str:
    right, n = _right(rows, field)
    return f"{right} of {n} ({100 * right / n:.1f} %)" if n else "-"


def _matrix(values: Sequence[str], counts: Counter[tuple[str, ...]]) -> Iterator[str]:
    yield "    " + " " * 10 + "".join(f"{value:>10}" for value in values)
    for said in values:
        yield f"    {said:<10}" + "".join(f"{counts[said, found]:>10}" for found in values)


def write(kinds: dict[str, list[Compared]], how: str) -> None:
    """The figures that the report shows."""
    with ERRORS.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["thoughts", "measured", "field", "right", "n", "low", "high"])
        for kind, rows in kinds.items():
            for field in FIELDS:
                right, n = _right(rows, field)
                if n:
                    share = rate(right, n)
                    measured = how if kind == RAW else "all"
                    out.writerow([kind, measured, field, right, n, f"{share.low:.3f}", f"{share.high:.3f}"])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--shared", type=Path, default=SHARED, help="data that the labels are joined with")
    parser.add_argument("--folds", type=int, default=0, help="cross-validate on the traces marked dev")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    kinds = {
        TEMPLATE: list(templates()),
        OTHER_WORDS: list(cases()),
        RAW: list(raw(labelled_traces(args.labels, args.shared), args.folds)),
    }
    groups: dict[str, list[Compared]] = defaultdict(list)
    for kind, rows in kinds.items():
        for row in rows:
            groups[row.group].append(row)
        if len({row.group for row in rows}) > 1:
            groups[f"all {kind}"] = rows
    print("\n".join(table(dict(groups))))
    if args.write:
        write(kinds, f"{args.folds}-fold cross-validation" if args.folds else "held back")


if __name__ == "__main__":
    main()
