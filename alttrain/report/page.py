"""Run folders -> outputs/report/page.html: tables, figures and samples in one file that needs no server.

Reads the judged benchmarks of the runs, and report/figures/*.svg if present. The same folders give the same bytes.
page.html is the template; page.css and page.js are inlined.

Text of models is untrusted. The template escapes everything it is given. Samples are embedded as data in
<script type="application/json">, where `embed` leaves no character that HTML could interpret, and page.js draws them as
text. Figures are images, which run and load nothing. The content security policy allows one script and one style sheet
by their hashes and forbids everything else.
"""

import base64
import hashlib
import json
import math
import os.path
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from alttrain import __version__
from alttrain.records import Texts, write_text
from alttrain.report.formats import legend, starred
from alttrain.report.measures import CAUSES, WORTH_SAYING, written
from alttrain.report.results import Evaluation, evaluations
from alttrain.report.samples import OUTCOMES, Block, Prompts, block
from alttrain.report.tables import LEVEL, Report, pivot, report_of

LIMIT = 10_000
"""Maximum number of samples on a page; if there are more, each run and benchmark contributes the same share."""
MOST_NUMBERS = 4_000
"""Maximum number of rows of the table of all numbers; larger reports have them only in metrics.csv."""
LARGEST = 2_000_000
"""Maximum size in bytes of an embedded figure."""
FIRST = ("tradeoff", "main")
"""Name prefixes of the figures that come first."""
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(output_dir: Path, texts: Texts = "all", made: Report | None = None) -> Path | None:
    """Write the page over all runs of an output folder. Returns its path, or None if no run was judged.

    `texts` selects whose prompts and outputs the page shows; with "benign", samples with a harmful prompt appear only
    in counts and verdicts. `made` is the report, if it is already computed.
    """
    made = made or report_of(evaluations(output_dir / "runs"))
    judged = made.judged
    if not judged:
        return None
    sizes = [int(one.judged["metrics"][0]["n"]) for one in judged]
    prompts, blocks = {one.benchmark: Prompts(texts) for one in judged}, []
    for one, size in zip(judged, sizes, strict=True):
        quota = size if sum(sizes) <= LIMIT else max(1, size * LIMIT // sum(sizes))
        blocks.append(block(one, prompts[one.benchmark], quota))
    shared = shared_start([one.run for one in judged])
    compared = made.compared.assign(differs=made.compared.p_holm < LEVEL)
    data: dict[str, Any] = {"index": _index(blocks, list(prompts), texts, len(shared))}
    data |= {f"prompts-{number}": one.packed for number, one in enumerate(prompts.values())}
    data |= {f"block-{number}": one.packed for number, one in enumerate(blocks)}
    style, script = (files("alttrain.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    template = _environment().get_template("page.html")
    text = template.render(
        style=Markup(style),
        script=Markup(script),
        hashes={"style": hashed(style), "script": hashed(script)},
        version=__version__,
        shared=shared,
        tiles=_tiles(judged, blocks),
        notes=_notes(blocks, texts, len(shared)),
        runs=pivot(made.runs),
        legend=[line.replace("Bold:", "Underlined:") for line in legend(made.runs)],
        figures=_figures(output_dir / "report" / "figures"),
        blocks=blocks,
        outcomes=[outcome for outcome in OUTCOMES if any(one.outcomes[outcome.key] for one in blocks)],
        structure=made.structure,
        causes=CAUSES,
        compared=compared,
        starred=starred(compared.seeds[compared.differs].tolist() or [1]),
        ours=_beside_published(made.tables),
        published=made.tables["published"],
        count_all=len(made.results),
        numbers=made.results[: len(made.results) if len(made.results) <= MOST_NUMBERS else 0],
        data={name: Markup(embed(value)) for name, value in data.items()},
    )
    write_text(output_dir / "report" / "page.html", text)
    return output_dir / "report" / "page.html"


def _index(blocks: Sequence[Block], benchmarks: Sequence[str], texts: Texts, shared: int) -> dict[str, Any]:
    """The data that page.js needs before it decodes a block."""
    runs = list(dict.fromkeys(one.evaluation.run for one in blocks))
    listed = []
    for one in blocks:
        of, decides = one.evaluation, one.evaluation.decides
        names = {"run": runs.index(of.run), "benchmark": benchmarks.index(of.benchmark)}
        told = decides and {name: getattr(decides, name) for name in ("measure", "judge", "part", "says")}
        listed.append({**names, "shown": one.shown, "total": one.total, "decides": told})
    names_of = {"runs": runs, "shared": shared, "benchmarks": benchmarks, "texts": texts}
    return {**names_of, "outcomes": [outcome._asdict() for outcome in OUTCOMES], "blocks": listed}


def _tiles(judged: Sequence[Evaluation], blocks: Sequence[Block]) -> list[tuple[str, int, str]]:
    """The tiles at the top of the page: (name, count, members)."""
    runs, benchmarks = {one.run for one in judged}, dict.fromkeys(one.benchmark for one in judged)
    judges = sorted({name for one in judged for name in one.provenance.get("judges", {})})
    protocols = sorted({one.protocol for one in judged} - {""})
    return [
        ("runs", len(runs), ", ".join(dict.fromkeys(str(one.names["backbone"]) for one in judged))),
        ("benchmarks", len(benchmarks), ", ".join(benchmarks)),
        ("samples", sum(one.total for one in blocks), "of all runs and benchmarks"),
        ("judges", len(judges), ", ".join(judges)),
        ("protocols", len(protocols), ", ".join(protocols)),
    ]


def _notes(blocks: Sequence[Block], texts: Texts, shared: int) -> list[str]:
    """Notes on the limits of the numbers."""
    made, judged = [], [one.evaluation for one in blocks]
    shown, total = sum(one.shown for one in blocks), sum(one.total for one in blocks)
    if shown < total:
        made.append(
            f"Showing {shown:,} of {total:,} samples: a random part of every run and benchmark, the same prompts in "
            "each run. Tables and counts are over all samples."
        )
    if texts != "all":
        whose = "all samples" if texts == "none" else "samples with a harmful prompt"
        made.append(f"The texts of {whose} were left out of this page; verdicts and counts were not.")

    def named(one: Evaluation) -> str:
        return f"{one.run[shared:]} on {one.benchmark}"

    def few(found: Sequence[str]) -> str:
        return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    for what, why in (("undecided", "that the judge could not decide"), ("truncated", "that the token cap cut")):
        metrics = [(named(one), one.judged["metrics"][0]) for one in judged]
        if many := [name for name, metric in metrics if metric[what] > WORTH_SAYING * metric["n"]]:
            made.append(f"{len(many)} of {len(judged)} evaluations have more than 5 % of samples {why}: {few(many)}.")
    contaminated = [(named(one), one.judged.get("contaminated")) for one in judged]
    if trained := [f"{name} ({len(prompts)})" for name, prompts in contaminated if prompts]:
        made.append(f"Prompts that were trained on: {few(trained)}.")
    if older := [named(one) for one in judged if not one.decides]:
        made.append(f"Judged by an older version, so without outcomes; judge again: {few(older)}.")
    protocols = sorted({one.protocol for one in judged})
    if len(protocols) > 1:
        made.append(f"Numbers of {len(protocols)} protocols, each in columns of its own: {', '.join(protocols)}.")
    return made


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
    found = pd.concat([own for name, own in tables.items() if name != "published"] or [tables["published"].iloc[:0]])
    found = found[found.known & ((found.published_why != "") | found.published.notna())]
    return found.drop_duplicates(["protocol", "backbone", "method", "measure", "benchmark", "protocol_hash"])


# --- how it is written ---


@cache
def _environment() -> Environment:
    """The template environment: all values are escaped, and an undefined name is an error."""
    made = Environment(
        loader=PackageLoader("alttrain.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"breakable": breakable, "urlencoded": urlencode, "written": written}
    made.filters["points"] = lambda change: f"{100 * change:+.1f}".replace("-", "−")
    made.filters["p"] = lambda value: "< 0.0001" if value < 1e-4 else f"{value:.4f}"
    made.filters["tidy"] = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    made.tests["nan"] = lambda value: value is None or (isinstance(value, float) and math.isnan(value))
    return made


def shared_start(runs: Sequence[str]) -> str:
    """The common prefix of the runs' names, in whole parts up to a hyphen; each name keeps at least one part."""
    same = os.path.commonprefix([*{*runs}]) if len({*runs}) > 1 else ""  # noqa: RUF071  of letters, not of folders
    return same[: same.rfind("-") + 1]


def breakable(name: str) -> Markup:
    """A long name that may break after its hyphens and underscores."""
    return Markup(re.sub(r"([-_/])", r"\1<wbr>", str(escape(name))))


def embed(value: Any) -> str:
    """JSON that is safe in a script element: without "</", "<!--" and line separators."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE)


def hashed(source: str) -> str:
    """The hash by which a content security policy allows an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
