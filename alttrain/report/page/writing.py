"""Run folders -> outputs/report/page.html, one file that opens from disk.

Reads run.json of every run folder, and metrics.json, generations.jsonl, judgements.jsonl and adherence.jsonl of every
judged benchmark; report/figures/*.svg where there are any. The same folders give the same bytes.

Two kinds of text go in: HTML made by `markup`, which escapes, and data in <script type="application/json">, in which
`embed` leaves no character that HTML could read. The policy in the head names the one script and the one style sheet by
their hashes and forbids all else, so that nothing a model wrote could run or load even if it were not escaped.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from alttrain import __version__
from alttrain.records import Texts, write_text
from alttrain.report.comparisons import Compared, comparisons
from alttrain.report.entries import Entry
from alttrain.report.page import tables
from alttrain.report.page.figures import figures
from alttrain.report.page.markup import Names, text
from alttrain.report.page.notes import notes, tiles
from alttrain.report.page.outcomes import OUTCOMES
from alttrain.report.page.samples import Block, Prompts, block
from alttrain.report.runs import Evaluation, cells_of, evaluations
from alttrain.report.structure import structures
from alttrain.report.tables import tables as made_tables
from alttrain.report.variants import variants

Made = tuple[Sequence[Evaluation], Sequence[Compared], Mapping[str, Sequence[Entry]]]
"""The judged benchmarks, the comparisons and the tables of a report."""
LIMIT = 10_000
"""Samples a page holds; of more, a part of every run and benchmark is taken."""
_SLOT = re.compile(r"<!--slot (\w+)-->")
_HEADING = re.compile(r'<section id="([\w-]+)"[^>]*>\s*<h2[^>]*>([^<]*)</h2>')
_UNSAFE = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(
    output_dir: Path,
    texts: Texts = "all",
    limit: int = LIMIT,
    seed: int = 0,
    made: Made | None = None,
) -> Path | None:
    """Write the page over all runs of an output folder; None where no run was judged.

    `texts` says whose prompts and outputs the page holds: with "benign" there is nothing of samples with a harmful
    prompt but their counts and verdicts. Of more than `limit` samples a part is taken, by `seed`. `made` is what the
    report made of the runs, where it is at hand.
    """
    if texts not in get_args(Texts):
        raise ValueError(f"texts={texts!r} is not known; accepted: {', '.join(get_args(Texts))}")
    judged = made[0] if made else evaluations(output_dir / "runs")
    if not judged:
        return None
    folder = output_dir / "report"
    prompts: dict[str, Prompts] = {}
    blocks = []
    for one, quota in zip(judged, _quotas(judged, limit), strict=True):
        blocks.append(block(one, prompts.setdefault(one.benchmark, Prompts(texts)), quota, seed))
    names = Names.of([one.run for one in judged])
    sections = "\n\n".join(filter(None, _sections(judged, blocks, made or _made(judged), names, folder / "figures")))
    head = tiles(judged, blocks), _list(notes(judged, blocks, texts, names))
    data: dict[str, Any] = {"index": _index(judged, blocks, list(prompts), texts, names)}
    data |= {f"prompts-{number}": one.packed for number, one in enumerate(prompts.values())}
    data |= {f"block-{number}": one.packed for number, one in enumerate(blocks)}
    write_text(folder / "page.html", _assembled(head, sections, data))
    return folder / "page.html"


def _quotas(judged: Sequence[Evaluation], limit: int) -> list[int]:
    """How many samples of each evaluation are embedded: the same share of each, and at least one."""
    sizes = [int(one.judged["metrics"][0]["n"]) for one in judged]
    total = sum(sizes)
    return sizes if total <= limit else [max(1, size * limit // total) for size in sizes]


def _made(judged: Sequence[Evaluation]) -> Made:
    found = variants(judged)
    compared, contrasts = comparisons(found)
    return judged, compared, made_tables(found, contrasts)


def _sections(
    judged: Sequence[Evaluation], blocks: Sequence[Block], made: Made, names: Names, drawn: Path
) -> list[str]:
    cells, (_, compared, entries) = cells_of(judged), made
    return [
        tables.results(cells, compared, names),
        figures(drawn, cells, names),
        tables.outcomes(blocks, names),
        tables.structure(structures(judged), names),
        tables.comparisons(compared, names),
        tables.published(entries),
        tables.numbers(cells, names),
    ]


def _index(
    judged: Sequence[Evaluation], blocks: Sequence[Block], benchmarks: Sequence[str], texts: Texts, names: Names
) -> dict[str, Any]:
    """What page.js must know before it decodes a block."""
    runs = list(dict.fromkeys(one.run for one in judged))
    return {
        "runs": runs,
        "shared": len(names.shared),
        "benchmarks": benchmarks,
        "texts": texts,
        "outcomes": [vars(outcome) for outcome in OUTCOMES],
        "blocks": [
            {
                "run": runs.index(one.evaluation.run),
                "benchmark": benchmarks.index(one.evaluation.benchmark),
                "shown": one.shown,
                "total": one.total,
                "decides": vars(one.decides) if one.decides else None,
            }
            for one in blocks
        ],
    }


def _list(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<details class="notes" open><summary>Worth knowing</summary><ul>{items}</ul></details>'


def embed(value: Any) -> str:
    """JSON that can stand in a script element: no "</", no "<!--", no line separator is left in it."""
    made = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "".join(_UNSAFE.get(character, character) for character in made) if set(made) & set(_UNSAFE) else made


def hashed(source: str) -> str:
    """How a policy names an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")


def _assembled(head: tuple[str, str], sections: str, data: Mapping[str, Any]) -> str:
    template, style, script = (
        files("alttrain.report.page").joinpath(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    policy = (
        f"default-src 'none'; script-src '{hashed(script)}'; style-src '{hashed(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = [*_HEADING.findall(sections), ("samples", "Samples")]
    slots = {
        "policy": f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        "style": f"<style>{style}</style>",
        "tiles": head[0],
        "notes": head[1],
        "links": "\n".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in links),
        "sections": sections,
        "version": text(__version__),
        "data": "\n".join(
            f'<script type="application/json" id="{name}">{embed(value)}</script>' for name, value in data.items()
        ),
        "script": f"<script>{script}</script>",
    }
    # one pass: what goes into a slot is not looked at again
    return _SLOT.sub(lambda slot: slots[slot[1]], template)
