"""What other judges and people say of a benchmark's texts: agreement.json, and the rate that their labels correct."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alttrain import records
from alttrain.evaluation import Benchmark, Metric
from alttrain.evaluation.agreement import CORRECTED, judge_report, same_meaning
from alttrain.evaluation.judged import TRUE_MEANS, Judgements
from alttrain.evaluation.judges import request
from alttrain.evaluation.labels import SHOWN, HumanLabels, Label, read_labels, text_hash
from alttrain.evaluation.metrics import counted_verdict
from alttrain.evaluation.protocol import seen_by_judge
from alttrain.evaluation.statistics import UNKNOWN
from alttrain.records import Generation
from alttrain.run.assembly import Run
from alttrain.run.folder import evaluation_folder
from alttrain.run.stages.generate import incomplete_chunks

log = logging.getLogger(__name__)


def agreement(run: Run, benchmark: Benchmark, judgements: Judgements) -> list[Metric]:
    """With two judges or human labels, write agreement.json.

    Returns the deciding judge's kappa with each other judge, and with labels its corrected rate. Verdicts are converted
    to one meaning, that of the deciding judge's True.
    """
    deciding, part = benchmark.judge.name, run.protocol.parts_of(benchmark)[0]
    judges = [name for name, judged_part in judgements.blocks if judged_part == part]
    if len(judges) == 1 and not benchmark.human_labels:
        return []
    meaning, texts = benchmark.judge.says, _texts(run, benchmark)
    verdicts = {
        judge: {
            (texts[name].subject, *name): same_meaning(row.verdict, judgements.entries[judge][TRUE_MEANS], meaning)
            for row in judgements.rows_of(judge, part)
            if (name := (row.id, row.sample)) in texts
        }
        for judge in judges
    }
    labelled = benchmark.human_labels
    report = _against_labels(run, benchmark, verdicts, texts) if labelled else judge_report(verdicts, run.seed)
    records.write_json(judgements.path.with_name("agreement.json"), report)
    kappas = [
        Metric(
            f"kappa.{pair['second']}",
            **pair["coefficient"],
            n=pair["n"] + pair["undecided"],
            undecided=pair["undecided"],
            truncated=0,
        )
        for pair in report["kappa"]
        if pair["first"] == deciding
    ]
    return [*kappas, *([_corrected(benchmark, report)] if labelled else [])]


def _corrected(benchmark: Benchmark, report: Mapping[str, Any]) -> Metric:
    """Return the measure as people would judge all texts, by the deciding judge and the labels; `n` are the labels.

    Labels of another question than the judge's are in the metric's name. The measure is nan if nothing is known of a
    verdict (true, false or undecided), because none of its texts has a label.
    """
    judge, measure = benchmark.judge, benchmark.measure
    correction, question = report["human"][judge.name]["corrected"], report["labels"]["says"]
    is_known = all(stratum["labelled"] for stratum in correction["strata"])
    value, low, high = correction["corrected"].values() if is_known else UNKNOWN
    if not counted_verdict(measure, judge.says):
        value, low, high = 1 - value, 1 - high, 1 - low
    name = CORRECTED if question == {"unsafe": "harmful"}.get(judge.says, judge.says) else f"{CORRECTED}_{question}"
    n = sum(stratum["labelled"] for stratum in correction["strata"])
    return Metric(f"{measure}.{name}", value, low, high, n, undecided=0, truncated=0)


class Text(NamedTuple):
    """A text that was generated."""

    hash: str
    category: str
    subject: str


Texts = Mapping[tuple[str, int], Text]  # by (id, sample)


def _texts(run: Run, benchmark: Benchmark) -> Texts:
    path, part = evaluation_folder(run, benchmark) / "generations.jsonl", run.protocol.parts_of(benchmark)[0]
    return {
        (row.id, row.sample): Text(
            text_hash(request(row, "prompt"), seen_by_judge(row, part).answer), row.category, records.subject_of(row)
        )
        for row in records.iterate_rows(path, Generation)
        if row.finish != "error"
    }


def check_labels(run: Run, benchmark: Benchmark) -> None:
    """Raise ValueError if human labels cannot be read, answer another question, or are of none of the generations."""
    if benchmark.human_labels:
        _join_labels(run, benchmark, None if incomplete_chunks(run, benchmark) else _texts(run, benchmark))


def _join_labels(
    run: Run, benchmark: Benchmark, texts: Texts | None
) -> tuple[HumanLabels, Mapping[tuple[str, int], Label], list[str]]:
    """Return the human labels, the label of each text, and the ids of labels of other texts. None: no texts yet."""
    try:
        labels = read_labels(Path(str(benchmark.human_labels)))
        if (labels.says == "correct") != (benchmark.judge.says == "correct"):
            accepted = "correct" if benchmark.judge.says == "correct" else "refused or harmful"
            raise ValueError(f"labels of {labels.says!r}; {benchmark.name} needs {accepted}")
        joined = ({}, []) if texts is None else labels.join({name: text.hash for name, text in texts.items()}, run.name)
    except (ValueError, OSError) as error:
        key = f"evaluation.benchmarks.{benchmark.name}.human_labels"
        raise ValueError(f"{key}={benchmark.human_labels}: {error}") from error
    return labels, *joined


def _against_labels(
    run: Run, benchmark: Benchmark, verdicts: Mapping[str, Mapping[tuple[str, str, int], bool | None]], texts: Texts
) -> dict[str, Any]:
    """Return the report of judges and human labels. Raises ValueError as `check_labels` does."""
    (labels, joined, unmatched), meaning = _join_labels(run, benchmark, texts), benchmark.judge.says
    keys = {name: (text.subject, *name) for name, text in texts.items()}
    human = {keys[name]: same_meaning(label.verdict, labels.says, meaning) for name, label in joined.items()}
    categories = {keys[name]: text.category for name, text in texts.items()}
    weights = {keys[name]: label.weight for name, label in joined.items()}
    report = judge_report(verdicts, run.seed, human, categories, weights)
    if unmatched:
        named = ", ".join(unmatched[:SHOWN]) + ("" if len(unmatched) <= SHOWN else " and more, all in agreement.json")
        message = "judge     %s: %d labels are of other texts and left out: %s"
        log.warning(message, benchmark.name, len(unmatched), named)
    for judge, comparison in report["human"].items():
        corrected, note = comparison["corrected"]["corrected"], comparison["corrected"]["note"]
        value, low, high = (100 * number for number in corrected.values())
        rate = f"{meaning} {value:.1f} % ({low:.1f} to {high:.1f})"
        line = f"{benchmark.name}: {rate} by {judge} and {len(joined)} labels"
        log.info("judge     %s%s", line, f"; {note}" if note else "")
    counts = {"joined": len(joined), "unlabelled": labels.unlabelled, "of_other_texts": unmatched}
    return report | {"labels": {"says": labels.says, **counts}}
