"""Names and texts as they may be written into Markdown, LaTeX and CSV: whatever they hold, they stay text."""

import re
from typing import Any

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MARKUP = re.compile(r"[\\`|<\[*]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would take for its own; an underscore within a word it does not."""
MARKDOWN_CELL = re.compile(r"[|<`\[]")
"""What would end a cell of a Markdown table, or be taken for markup in a text that has marks of its own."""
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How a text begins that a spreadsheet would compute, or that `literal` made of one."""
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{"}
LATEX |= {"}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", '"': "''"}
LATEX |= {">": r"\textgreater{}", "*": r"\textsuperscript{*}", "†": r"\textsuperscript{\dag}", "…": r"\dots{}"}
LATEX |= {
    "[": "{[}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "×": r"$\times$",
}  # "[" after a line is a length
LATEX |= {"✓": r"\ding{51}", "✗": r"\ding{55}"}
LATEX |= {mark: rf"\textsuperscript{{{letter}}}" for mark, letter in zip("ᵐᶜᵖˢᵃʳᵏ", "mcpsark", strict=True)}
LETTERS = frozenset(map(chr, range(0x180))) - frozenset("ĄąĘęĮįŲųĐđÐðÞþĦħŊŋŦŧĸŉſ«»")
"""Those that the fonts of a LaTeX document have."""


def one_line(text: str) -> str:
    """Text without what ends a line or controls a terminal."""
    return CONTROL.sub(" ", text)


def plain(text: str) -> str:
    """A name so that Markdown shows each of its characters, on one line and in one cell."""
    return MARKUP.sub(r"\\\g<0>", one_line(text))


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is; a character its fonts lack, as a name may have, becomes a question mark."""
    return "".join(LATEX.get(letter) or (letter if letter in LETTERS else "?") for letter in one_line(text))


def literal(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not compute: what looks like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"\r(?!\n)", "\n", value)  # which csv would leave unquoted
    if not FORMULA.match(value):
        return value
    try:
        float(value)  # a number has a sign, and no harm
    except ValueError:
        return f"'{value}"
    return value


def read_literal(text: str) -> str:
    """The text of a cell that `literal` wrote."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
