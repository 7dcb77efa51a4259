"""What stands at the head of the page: how much there is, and what a reader must know before trusting it."""

from collections.abc import Sequence

from alttrain.records import Texts
from alttrain.report.page.markup import Names, text
from alttrain.report.page.samples import Block
from alttrain.report.page.tables import WORTH_SAYING
from alttrain.report.runs import Evaluation


def tiles(judged: Sequence[Evaluation], blocks: Sequence[Block]) -> str:
    """Runs, benchmarks, samples, judges and protocols, as a list of terms."""
    runs = list(dict.fromkeys(one.run for one in judged))
    benchmarks = list(dict.fromkeys(one.benchmark for one in judged))
    judges = sorted({name for one in judged for name in one.judged.get("provenance", {}).get("judges", {})})
    protocols = sorted({one.protocol["protocol"] for one in judged} - {""})
    backbones = list(dict.fromkeys(str(one.names["backbone"]) for one in judged))
    counted = [
        ("runs", f"{len(runs):,}", ", ".join(backbones)),
        ("benchmarks", f"{len(benchmarks):,}", ", ".join(benchmarks)),
        ("samples", f"{sum(block.total for block in blocks):,}", "of all runs and benchmarks"),
        ("judges", f"{len(judges):,}", ", ".join(judges)),
        ("protocols", f"{len(protocols):,}", ", ".join(protocols)),
    ]
    items = "\n".join(
        f'<div><dt>{name}</dt><dd><b>{number}</b> <span title="{text(what)}">{text(what)}</span></dd></div>'
        for name, number, what in counted
    )
    return f'<dl class="tiles">\n{items}\n</dl>'


def notes(judged: Sequence[Evaluation], blocks: Sequence[Block], texts: Texts, names: Names) -> list[str]:
    """Sentences, as text; none where there is nothing to say."""
    made = []
    shown, total = sum(block.shown for block in blocks), sum(block.total for block in blocks)
    if shown < total:
        made.append(
            f"Showing {shown:,} of {total:,} samples: a random part of every run and benchmark, the same prompts in "
            "each run. Tables and counts are over all samples."
        )
    if texts != "all":
        whose = "all samples" if texts == "none" else "samples with a harmful prompt"
        made.append(f"The texts of {whose} were left out of this page; verdicts and counts were not.")
    made += _marked(judged, names, "undecided", "have more than 5 % of samples that the judge could not decide")
    made += _marked(judged, names, "truncated", "have more than 5 % of samples that the token cap cut")
    trained = [f"{_where(one, names)} ({len(found)})" for one in judged if (found := one.judged.get("contaminated"))]
    if trained:
        made.append(f"Prompts that were trained on: {_few(trained)}.")
    older = [_where(block.evaluation, names) for block in blocks if block.decides is None]
    if older:
        made.append(f"Judged by an older version, so without outcomes; judge again: {_few(older)}.")
    protocols = sorted({one.protocol["protocol"] for one in judged})
    if len(protocols) > 1:
        made.append(f"Numbers of {len(protocols)} protocols, each in columns of its own: {', '.join(protocols)}.")
    return made


def _marked(judged: Sequence[Evaluation], names: Names, what: str, sentence: str) -> list[str]:
    metrics = [(one, one.judged["metrics"][0]) for one in judged]
    found = [_where(one, names) for one, m in metrics if m[what] > WORTH_SAYING * m["n"]]
    return [f"{len(found)} of {len(judged)} evaluations {sentence}: {_few(found)}."] if found else []


def _where(one: Evaluation, names: Names) -> str:
    return f"{names.short(one.run)} on {one.benchmark}"


def _few(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
