"""Run folders -> outputs/report/page.html: tables, figures and samples in one file that needs no server.

Reads the judged benchmarks of the runs, and report/figures/*.svg if present. The same folders give the same bytes.
page.html is the template; page.css and page.js are inlined.

Text of models is untrusted. The template escapes everything it is given. Samples are embedded as packed columns, a
block for each run and benchmark, in <script type="application/json">, where `embed` leaves no character that HTML could
interpret; page.js draws them as text. Figures are images, which run and load nothing. The content security policy
allows one script and one style sheet by their hashes and forbids everything else.
"""

import base64
import hashlib
import json
import math
import os.path
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from alttrain import __version__
from alttrain.evaluation import statistics
from alttrain.evaluation.adherence import CAUSES
from alttrain.evaluation.judged import shaping_verdicts
from alttrain.records import Texts, read_document, read_if_there, write_text
from alttrain.report.contrasts import base_of
from alttrain.report.embedded import OUTCOMES, PROMPT, Block, Places, Prompts, asked_of, block_of, pack, quotas_of
from alttrain.report.estimates import SMALL
from alttrain.report.evaluation import BenchmarkKey, Decider
from alttrain.report.formats import legend, star_meaning
from alttrain.report.measures import MEASURES, WORTH_SAYING, format_value
from alttrain.report.tables import LEVEL, TABLES, Report, pivot
from alttrain.report.variants import Variant

MOST_NUMBERS = 4_000  # maximum number of rows of the table of all numbers; larger reports have them only in metrics.csv
LARGEST = 2_000_000  # maximum size in bytes of an embedded figure
NUMBERS = {
    "thoughts": ("Whether thought and answer agree", "docs/interventions.md"),
    "decided": ("Where in the thought the outcome is decided", "docs/interventions.md"),
    "probes": ("Probes of hidden states", "docs/probe.md"),
    "tokens": ("Tokens of a query, by outcome", "docs/guide.md"),
}
"""CSV file -> its title, and the document that says what its columns mean."""
OF_RUN = ["backbone", "dataset", "rewrite", "training", "seed", "method", "changed"]
"""The columns of metrics.csv that the page leaves out."""
APART = ("overview", "interventions", "published")  # tables that have a section of their own
FIRST = ("tradeoff", "main")  # name prefixes of the figures that come first
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

Way = tuple[BenchmarkKey, Decider]  # how a benchmark was made and judged; numbers made in one way can be compared


def write_page(output_dir: Path, texts: Texts, report: Report, draw: Callable[[], Any] = list) -> Path:
    """Write the page of a report over all runs of an output folder, which `draw` adds the figures to. Returns its path.

    `texts` selects whose prompts and outputs the page shows; with "benign", samples with a harmful prompt appear only
    in counts and verdicts.
    """
    judged = report.evaluations
    prompts: dict[str, Prompts] = {evaluation.benchmark: {} for evaluation in judged}
    places: dict[Way, Places] = {(evaluation.key, evaluation.decider): {} for evaluation in judged}
    blocks = [
        block_of(evaluation, prompts[evaluation.benchmark], places[evaluation.key, evaluation.decider], texts, quota)
        for evaluation, quota in quotas_of(judged)
    ]
    bases = {(evaluation.run, evaluation.key) for evaluation in judged}
    intervened = [evaluation for evaluation in report.interventions if (evaluation.run, base_of(evaluation)) in bases]
    branches = [
        block_of(branch, prompts[asked_of(branch)], {}, texts, quota) for branch, quota in quotas_of(intervened)
    ]
    frames = {**report.frames}
    for name in ("comparisons", "interventions"):
        frames[name] = frames[name].assign(differs=frames[name].p_holm < LEVEL)
    compared = frames["comparisons"]
    parts = {name: _grids(cells) for name, cells in report.tables.items() if name != "published"}
    data: dict[str, Any] = {"index": _index(blocks, branches, list(prompts), texts, report.variants)}
    data["verdicts"] = pack(_compared(blocks, places))
    for number, rows in enumerate(prompts.values()):
        data[f"prompts-{number}"] = pack({name: [row[index] for row in rows] for index, name in enumerate(PROMPT)})
    data |= {f"block-{number}": block.packed for number, block in enumerate([*blocks, *branches])}
    draw()
    style, script = (files("alttrain.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    template = _environment().get_template("page.html")
    text = template.render(
        style=Markup(style),
        script=Markup(script),
        hashes={"style": csp_hash(style), "script": csp_hash(script)},
        version=__version__,
        judges=sorted({judge for evaluation in judged for judge in evaluation.provenance["judges"]}),
        texts=texts,
        worth_saying=WORTH_SAYING,
        most=MOST_NUMBERS,
        methods=parts.get("overview", []),
        interventions=parts.get("interventions", []),
        numbers_of=[(name, title, frames[name], doc) for name, (title, doc) in NUMBERS.items() if len(frames[name])],
        further=[(TABLES[name], table) for name, table in parts.items() if table and name not in APART],
        categories=_categories(frames["categories"]),
        small=SMALL,
        figures=_figures(output_dir / "report" / "figures"),
        blocks=blocks,
        outcomes=[outcome for outcome in OUTCOMES if any(block.outcomes[outcome.key] for block in blocks)],
        frames=frames,
        causes=CAUSES,
        starred=star_meaning(compared.seeds[compared.differs].tolist() or [1]),
        ours=_beside_published(report.tables),
        published=report.tables["published"],
        numbers=frames["metrics"].drop(columns=OF_RUN),
        data={name: Markup(embed(value)) for name, value in data.items()},
    )
    write_text(output_dir / "report" / "page.html", text)
    return output_dir / "report" / "page.html"


def _index(
    blocks: Sequence[Block],
    branches: Sequence[Block],
    benchmarks: Sequence[str],
    texts: Texts,
    variants: Sequence[Variant],
) -> dict[str, Any]:
    """The data that page.js needs before it decodes a block. A branch names the block `of` it and its intervention."""
    runs = list(dict.fromkeys(block.evaluation.run for block in blocks))
    numbers = {(block.evaluation.run, block.evaluation.key): number for number, block in enumerate(blocks)}
    entries = []
    for block in [*blocks, *branches]:
        evaluation = block.evaluation
        others = (view.decider for view in evaluation.views().values() if view.decider is not evaluation.decider)
        decides = _judging(evaluation.decider) | {"others": {f"{one.judge} {one.part}": one.says for one in others}}
        entry: dict[str, Any] = {"run": runs.index(evaluation.run), "benchmark": benchmarks.index(asked_of(evaluation))}
        entry |= {"protocol": evaluation.protocol, "decides": decides, "shown": block.shown, "total": block.total}
        if evaluation.intervention:
            entry["of"] = numbers[evaluation.run, base_of(evaluation)]
            entry["intervention"] = evaluation.intervention["name"]
        entries.append(entry)
    methods = []
    for variant in variants:
        names = dict.fromkeys(evaluation.run for seeds in variant.evaluations.values() for evaluation in seeds.values())
        methods.append({"name": f"{variant.backbone}, {variant.name}", "runs": [runs.index(name) for name in names]})
    protocols = sorted({block.evaluation.protocol for block in blocks})
    index = {"runs": runs, "benchmarks": benchmarks, "protocols": protocols, "texts": texts, "methods": methods}
    return {**index, "outcomes": [outcome._asdict() for outcome in OUTCOMES], "blocks": entries}


def _judging(decides: Decider) -> dict[str, str]:
    return {name: getattr(decides, name) for name in ("judge", "part", "says")}


def _compared(blocks: Sequence[Block], places: Mapping[Way, Places]) -> dict[str, Any]:
    """What page.js compares: the verdicts of each run on each benchmark, by how they were made, and the runs' settings.

    `students` are the quantiles of Student's t for 1, 2, ... degrees of freedom, `bound` is `statistics.LARGEST_SD`.
    """
    ways = []
    for way, texts in places.items():
        (protocol, benchmark, _), decides = way
        alike = [block for block in blocks if (block.evaluation.key, block.evaluation.decider) == way]
        first, prompts, goals = alike[0].evaluation, dict[tuple[str, str], int](), dict[str, int]()
        settings = read_if_there(first.folder / "fingerprint.json")
        settings = {key: value for key, value in settings.items() if not key.startswith("generation.")}
        judge = shaping_verdicts(first.provenance["judges"].get(decides.judge, {}))
        settings |= {f"judge.{key}": value for key, value in judge.items()}
        ways.append(
            {
                "protocol": protocol,
                "benchmark": benchmark,
                "decides": {"measure": first.label_of(decides.measure)} | _judging(decides),
                "settings": _encoded(settings),
                "prompts": [prompts.setdefault(text[:2], len(prompts)) for text in texts],
                "goals": [goals.setdefault(subject, len(goals)) for subject, _ in prompts],
                "verdicts": {block.evaluation.run: block.counted for block in alike},
            }
        )
    folders = {block.evaluation.run: block.evaluation.folder.parent.parent for block in blocks}
    of_runs = {run: _encoded(read_document(folder / "fingerprint.json")) for run, folder in folders.items()}
    students = [statistics.student(freedom) for freedom in range(1, 31)]
    return {"ways": ways, "settings": of_runs, "students": students, "bound": statistics.LARGEST_SD}


def _encoded(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as JSON by key; of a path only the last part, since the page may be shared."""
    return {
        key: json.dumps(Path(value).name if isinstance(value, str) and os.path.isabs(value) else value)
        for key, value in settings.items()
    }


def _grids(cells: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Each protocol's cells of a table with their grid.

    Published figures have a table of their own. Times are in tables/efficiency alone: with them, the same runs would
    give another page each time.
    """
    cells = cells[~cells.unit.isin(("seconds", "hours"))].assign(published=math.nan, published_why="")
    ours = (cells.known | (cells.undecided > 0)).groupby([cells.protocol, cells.backbone, cells.method])
    return [(part, pivot(part)) for _, part in cells[ours.transform("any")].groupby("protocol", sort=False)]


def _categories(frame: pd.DataFrame) -> pd.DataFrame:
    """categories.csv as a grid: a row per benchmark and category, a column per method. Cells are rows of `frame`."""
    notes = [
        [*([f"undecided {row.undecided}"] if row.undecided else []), *(["small sample"] if row.small else [])]
        for row in frame.itertuples()
    ]
    shown = frame.assign(table="categories", unit="share", known=frame.value.notna(), notes=notes)
    places = {name: place for place, name in enumerate(dict.fromkeys(frame.benchmark))}
    shown = shown.sort_values("benchmark", key=lambda names: names.map(places), kind="stable")
    shown = shown.assign(measure=frame.metric.map(lambda name: MEASURES[name].label))
    shown[["best", "differs", "few", "missing"]] = False
    keys = ["protocol", "measure", "benchmark", "protocol_hash", "judge", "category", "backbone", "method"]
    cells = pd.Series(list(shown.itertuples(index=False)), pd.MultiIndex.from_frame(shown[keys]), dtype=object)
    return cells.unstack(["backbone", "method"], sort=False) if len(cells) else frame


def _figures(folder: Path) -> list[tuple[str, str]]:
    """(name, image) of each figure; the image is "" if it is too large for the page."""
    paths = sorted(folder.glob("*.svg"), key=lambda path: (not path.name.startswith(FIRST), path.name))
    start = "data:image/svg+xml;base64,"
    return [
        (path.stem, start + base64.b64encode(path.read_bytes()).decode() if path.stat().st_size <= LARGEST else "")
        for path in paths
    ]


def _beside_published(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Our numbers with the published figure, or with the reason why there is none, each once."""
    computed = [cells for name, cells in tables.items() if name != "published"]
    cells = pd.concat(computed or [tables["published"].iloc[:0]])
    cells = cells[cells.known & ((cells.published_why != "") | cells.published.notna())]
    return cells.drop_duplicates(["protocol", "backbone", "method", "measure", "benchmark", "protocol_hash"])


@cache
def _environment() -> Environment:
    """The template environment: all values are escaped, and an undefined name is an error."""
    environment = Environment(
        loader=PackageLoader("alttrain.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "legend": lambda frame: [line.replace("Bold:", "Underlined:") for line in legend(frame)],
        "written": format_value,
        "points": lambda change: f"{100 * change:+.1f}".replace("-", "−"),
        "p": lambda value: "< 0.0001" if value < 1e-4 else f"{value:.4f}",
        "cells": lambda row: Markup("").join(map(_cell, row)),
    }
    environment.globals |= {"row_head": _row_head, "words": _words, "count": _count, "number": _number}
    environment.tests["nan"] = _is_nan
    return environment


def _tidy(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


# cells are many, and macros would take three times as long


def _row_head(name: Any) -> Markup:
    return Markup(f'<th scope="row" data-key="{escape(name)}">{escape(name)}</th>')


def _words(value: Any) -> Markup:
    return Markup(f'<td class="words" data-key="{escape(value)}">{escape(value)}</td>')


def _count(value: Any) -> Markup:
    return Markup(f'<td data-key="{escape(value)}">{escape(value)}</td>')


def _number(value: Any, text: str) -> Markup:
    """A cell that shows a number as `text`, and nothing for nan."""
    return Markup("<td></td>" if _is_nan(value) else f'<td data-key="{escape(value)}">{escape(text)}</td>')


def _cell(value: Any) -> Markup:
    """A cell of a CSV file."""
    return _words(value) if isinstance(value, str) else _number(None if pd.isna(value) else value, _tidy(value))


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def embed(value: Any) -> str:
    """JSON that is safe in a script element: without "</", "<!--" and line separators."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE)


def csp_hash(source: str) -> str:
    """The hash by which a content security policy allows an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
