"""Papers that take the tables and figures of a report, compiled by pdflatex."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def has_latex() -> bool:
    """Whether pdflatex and the packages of our tables are installed."""
    if not (shutil.which("pdflatex") and shutil.which("kpsewhich")):
        return False
    wanted = ["kpsewhich", "booktabs.sty", "graphicx.sty", "pifont.sty"]
    return subprocess.run(wanted, capture_output=True, check=False).returncode == 0


def compile_article(folder: Path, columns: str, lines: Sequence[str]) -> str:
    """Compile an article of these lines in a folder. Returns what pdflatex says, without its line breaks."""
    text = [rf"\documentclass[{columns}]{{article}}", *lines, r"\end{document}"]
    (folder / "paper.tex").write_text("\n".join(text))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout
