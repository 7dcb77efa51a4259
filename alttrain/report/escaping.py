"""Escapes names and texts for Markdown and LaTeX, so that they are never read as markup."""

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MARKUP = re.compile(r"[\\`|<\[*~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
"""Characters that Markdown reads as markup; an underscore within a word is not one, nor an ampersand without a name."""
MARKDOWN_CELL = re.compile(r"[|<`\[]")
"""Characters that end a cell of a Markdown table, or start markup in a text that has markup already."""
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
