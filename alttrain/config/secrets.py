"""Keys belong in the environment: a resolved config is saved with its run, and is told to trackers.

A config is refused that holds the value of an environment variable for a secret, a URL with a password or a query, or a
key where the name of its variable should stand. The messages name the config's key, never its value.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?$")
"""Environment variables that hold what nobody else may know."""
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
SHORTEST = 16
"""Characters of the shortest value that is taken for a secret."""


def exposed(config: Any) -> list[str]:
    """What is wrong, a line for each place of a plain, resolved config that holds a secret."""
    known = {value: name for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST}
    return [f"{key}: {fault}" for key, value in _texts(config, "") if (fault := _fault(key, value, known))]


def _fault(key: str, value: str, known: Mapping[str, str]) -> str:
    if name := next((name for secret, name in known.items() if secret in value), ""):
        return f"holds the value of ${name}, which would be saved with the run; keys are read from the environment"
    if key.rpartition(".")[2] == "key_variable" and not VARIABLE.fullmatch(value):
        return "is not the name of an environment variable, such as OPENAI_API_KEY; export the key under one"
    if "://" in value:
        parts = urlsplit(value)
        if parts.password or (parts.username and parts.scheme.startswith("http")) or parts.query:
            return "has a password or a query, which would be saved with the run; give an address without one"
    return ""


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _texts(item, f"{key}.{number}")
    elif isinstance(value, str):
        yield key, value
