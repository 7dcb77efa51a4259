"""A table as LaTeX that compiles as it is: booktabs, one tabular a protocol, the legend beneath, at least as wide."""

from collections.abc import Sequence
from textwrap import wrap

from alttrain.report.entries import Entry, Grid, grids, written
from alttrain.report.forms import lines, one_line
from alttrain.report.legend import MISSING, legend, marked, missing
from alttrain.report.published import WHY
from alttrain.report.rows import OFFLINE

PREAMBLE = r"""\documentclass[border=6pt,varwidth=\maxdimen]{standalone}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,pifont}
\newcommand{\cell}[1]{\begin{tabular}[t]{@{}r@{}}#1\end{tabular}}
\newsavebox{\thegrid}
\newdimen\legend
\begin{document}
"""
WIDE = 19
"""Characters of a line of a heading, where it can be broken."""
SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{"}
SPECIAL |= {"}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
SPECIAL |= {">": r"\textgreater{}", "*": r"\textsuperscript{*}", "†": r"\textsuperscript{\dag}", '"': "''"}
SPECIAL |= {mark: rf"\textsuperscript{{{letter}}}" for (mark, _), letter in zip(WHY.values(), "mcpsark", strict=True)}
SPECIAL |= {"…": r"\dots{}", "[": "{[}"}  # behind a line's end a bracket would be its argument
SPECIAL |= {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--", "×": r"$\times$", "✓": r"\ding{51}", "✗": r"\ding{55}"}
LETTERS = frozenset(map(chr, range(0x180))) - frozenset("ĄąĘęĮįŲųĐđÐðÞþĦħŊŋŦŧĸŉſ«»")
"""Those that the document's fonts have."""


def latex(title: str, entries: Sequence[Entry]) -> str:
    """The whole document."""
    found = grids(entries)
    parts = [PREAMBLE.rstrip("\n")]
    for number, grid in enumerate(found):
        named = len(found) > 1 or grid.protocol not in ("", OFFLINE)
        parts.append(("\n\\bigskip\n" if number else "") + _tabular(grid, marked(entries)))
        parts.append(rf"\textbf{{{escape(title + (f', protocol {grid.protocol}' if named else ''))}}}\\[4pt]")
        parts.append(r"\usebox{\thegrid}")
    notes = [escape(line).replace(r" \%", r"~\%") + r"\par" for line in legend(entries)]
    if commands := missing(entries):
        notes.append(rf"{MISSING.replace('–', '--')} is missing. What would fill it:\par")
        notes += [rf"\texttt{{{escape(one)}}}\par" for one in commands]
    parts.append(r"\par\smallskip \legend=\wd\thegrid \ifdim\legend<10cm \legend=10cm\fi")
    parts.append("\\parbox{\\legend}{\\footnotesize\\raggedright\n" + "\n".join(notes) + "}")
    return "\n".join([*parts, r"\end{document}"]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands; a character its fonts lack, as a name may have, becomes a question mark."""
    return "".join(SPECIAL.get(letter) or (letter if letter in LETTERS else "?") for letter in one_line(text))


def _tabular(grid: Grid, why: bool) -> str:
    heads = [_stacked([escape(part) for line in heading for part in _broken(line)]) for heading in grid.columns]
    rows = [r"\begin{lrbox}{\thegrid}", rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule"]
    rows += ["method & " + " & ".join(heads) + r" \\", r"\midrule"]
    for backbone, own in grid.backbones:
        if backbone:
            rows.append(rf"\multicolumn{{{len(heads) + 1}}}{{l}}{{\textit{{{escape(backbone)}}}}} \\")
        for method, cells in own:
            rows += [" & ".join([escape(method), *(_cell(one, why) for one in cells)]) + r" \\", r"\addlinespace[3pt]"]
    return "\n".join([*rows[:-1], r"\bottomrule", r"\end{tabular}", r"\end{lrbox}"])


def _broken(line: str) -> list[str]:
    """A heading's line, broken at blanks and behind underscores."""
    return [part.replace("_ ", "_") for part in wrap(line.replace("_", "_ "), WIDE, break_long_words=False)]


def _cell(one: Entry, why: bool) -> str:
    first, *rest = lines(one, why) or [""]
    number = written(one.value, one.unit)
    bold = rf"\textbf{{{escape(number)}}}{escape(first.removeprefix(number))}"
    return _stacked([bold if one.best else escape(first), *(rf"\scriptsize {escape(line)}" for line in rest)])


def _stacked(found: Sequence[str]) -> str:
    inner = r" \\ ".join(found)
    return inner if len(found) == 1 else rf"\cell{{{inner}}}"
