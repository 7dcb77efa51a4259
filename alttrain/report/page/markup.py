"""The few forms of HTML the page's upper part is made of. Every text goes through `text`, which escapes it."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile


def text(value: object) -> str:
    """Any value as text that stays text, in content and in attributes."""
    return html.escape(str(value))


def breakable(name: str) -> str:
    """A long name that may break after its hyphens and underscores."""
    return re.sub(r"([-_/])", r"\1<wbr>", text(name))


@dataclass(frozen=True)
class Names:
    """The runs' names. What all of them begin with is drawn faintly, and not at all where there is little room."""

    shared: str

    @classmethod
    def of(cls, runs: Sequence[str]) -> "Names":
        """Names share whole parts, up to a hyphen, and each keeps one of its own; one name alone shares nothing."""
        parts = [run.split("-")[:-1] for run in dict.fromkeys(runs)]
        if len(parts) < 2:
            return cls("")
        same = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
        return cls("".join(f"{column[0]}-" for column in same))

    def short(self, run: str) -> str:
        """A name without what all share."""
        return run.removeprefix(self.shared)

    def html(self, run: str) -> str:
        """A name in a table or a legend."""
        shared = f'<span class="shared">{breakable(self.shared)}</span>' if self.shared else ""
        return shared + breakable(self.short(run))


@dataclass(frozen=True)
class Td:
    """A table's cell: its HTML, and what it is sorted by. One without a key comes last in either direction."""

    html: str
    key: float | str | None = None
    classes: str = ""

    @classmethod
    def of(cls, value: object) -> "Td":
        """A plain value: a number sorts as one, a text as itself; nan is empty."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return cls("")
        if isinstance(value, float):
            return cls(f"{value:.4g}", value)
        return cls(text(value), value) if isinstance(value, int) else cls(text(value), str(value), "words")

    def tag(self, head: bool) -> str:
        """The cell in its row; a row's first cell is its head."""
        name, scope = ("th", ' scope="row"') if head else ("td", "")
        key = "" if self.key is None else f' data-key="{text(self.key)}"'
        classes = f' class="{self.classes}"' if self.classes else ""
        return f"<{name}{scope}{classes}{key}>{self.html}</{name}>"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Td]], name: str) -> str:
    """A table that page.js makes sortable, in a frame of its own that scrolls sideways. `heads` are HTML."""
    rows = list(rows)
    columns = ["words" if rows and rows[0][number].classes == "words" else "" for number in range(len(heads))]
    head = "".join(f'<th scope="col" class="{kind}">{one}</th>' for kind, one in zip(columns, heads, strict=True))
    body = "\n".join("<tr>" + "".join(td.tag(n == 0) for n, td in enumerate(row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="Table: {text(name)}" tabindex="0">\n<table class="sortable">'
        f"<caption><span>{caption}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def section(identity: str, title: str, body: str) -> str:
    """A part of the page with its heading."""
    return (
        f'<section id="{identity}" aria-labelledby="{identity}-title">\n'
        f'<h2 id="{identity}-title">{text(title)}</h2>\n{body}\n</section>'
    )


def percent(value: float, low: float, high: float) -> str:
    """A share and its interval in percent, and both drawn on a line from 0 to 100."""
    if math.isnan(value):
        return ""
    number = f'<b>{100 * value:.1f}</b> <span class="interval">{100 * low:.1f}–{100 * high:.1f}</span>'
    left, right = 100 * min(low, value), 100 * max(high, value)
    bar = (
        '<svg class="ci" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" y="2" width="100" height="2"/>'
        f'<rect class="span" x="{left:.1f}" y="1" width="{max(right - left, 0.5):.1f}" height="4"/>'
        f'<rect class="dot" x="{min(max(100 * value - 0.75, 0), 98.5):.1f}" width="1.5" height="6"/></svg>'
    )
    return number + bar
