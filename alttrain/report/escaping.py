"""Escapes names and texts for Markdown, LaTeX and CSV, so that their content is never read as markup or a formula."""

import re
from typing import Any

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
TERMINAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal may obey; line breaks and tabs are none."""
MARKUP = re.compile(r"[\\`|<\[*]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that Markdown reads as markup; an underscore within a word is not one."""
MARKDOWN_CELL = re.compile(r"[|<`\[]")
"""Characters that end a cell of a Markdown table, or start markup in a text that has markup already."""
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""The beginning of a text that a spreadsheet would compute, or that `literal` has already escaped."""
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "–": "--", "…": r"\dots{}", "✓": r"\ding{51}", "✗": r"\ding{55}"}
LATEX |= {"*": r"\textsuperscript{*}", "†": r"\textsuperscript{\dag}"}
LATEX |= {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "×": r"$\times$", "[": "{[}"}  # "[" after a line is a length
LATEX |= {mark: rf"\textsuperscript{{{letter}}}" for mark, letter in zip("ᵐᶜᵖˢᵃʳᵏ", "mcpsark", strict=True)}
LETTERS = frozenset(map(chr, range(0x180))) - frozenset("ĄąĘęĮįŲųĐđÐðÞþĦħŊŋŦŧĸŉſ«»")
"""Letters that the default fonts of LaTeX have."""


def one_line(text: str) -> str:
    """The text without line breaks and terminal control characters."""
    return CONTROL.sub(" ", text)


def escape_markdown(text: str) -> str:
    """A name escaped so that Markdown shows each of its characters, on one line and in one table cell."""
    return MARKUP.sub(r"\\\g<0>", one_line(text))


def latex_text(text: str) -> str:
    """Text escaped for LaTeX. A character that its fonts lack becomes a question mark."""
    return "".join(LATEX.get(letter) or (letter if letter in LETTERS else "?") for letter in one_line(text))


def literal(value: Any) -> Any:
    """A cell that a spreadsheet shows but does not compute: a text like a formula gets an apostrophe prefix."""
    if not isinstance(value, str):
        return value
    if "\r" in value:  # csv would leave a lone carriage return unquoted
        value = re.sub(r"\r(?!\n)", "\n", value)
    if not FORMULA.match(value):
        return value
    try:
        float(value)  # a signed number is harmless
    except ValueError:
        return f"'{value}"
    return value


def read_literal(text: str) -> str:
    """The inverse of `literal`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
