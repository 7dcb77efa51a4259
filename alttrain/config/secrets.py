"""Keys belong in the environment: a resolved config is saved with its run, and goes to its loggers.

A config is refused that holds the value of an environment variable for a secret, a URL with a password or a query, a
key where the name of its variable should stand, or an interpolation that would take an environment variable in. The
messages name the config's key, never its value; in other messages what looks like a key is masked.
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
LOOKS = re.compile(
    r"""(?ix) (?: (?<![a-z0-9]) (?-i: (?= (?: sk|pk|rk|hf|gh[oprsu]|github_pat|glpat|xox[a-z]|npm|nvapi|gsk|r8 ) [-_]
                | AKIA | AIza | eyJ ) )
        | (?: (?<![a-z]) (?: api )? key | token | secret | password | passwd | credentials? ) ['"]? \s*
          (?: = \s* ['"]? | : \s* ['"] | : \s* (?= \S* \d ) )
        | (?<= =['"] ) (?= [a-z]* \d ) (?= \d* [a-z] ) (?= [a-z0-9]{24} )
        | :// [^/\s@:]* : (?= [^/\s]*@ ) )
        ( [^\s'",}\])@]{8,} )"""
)
"""A key in a text: by how such keys begin, by the word before it, as a long value of a key, or as a URL's password."""
MASK = "***"
INTERPOLATION = re.compile(r"\$\{\s*([\w.]+|[^}:]*\$[^:]*)\s*:")
"""The name of a resolver; one that is put together by an interpolation could be any."""
TAKEN = ("oc.select",)
"""Resolvers that a config may use: they give the same at every reading, and of the config alone."""
ENVIRONMENT = (
    "an environment variable would be saved with the run; a server's key is named by its key_variable, and for a path "
    "let the shell fill it in: KEY=$NAME on the command line"
)


def exposed(config: Any) -> list[tuple[str, None, str]]:
    """Key and what is wrong, for each place of a plain, resolved config that holds a secret."""
    known = secrets()
    return [(key, None, fault) for key, value in _texts(config, "") if (fault := _fault(key, value, known))]


def secrets() -> dict[str, str]:
    """The environment's secrets: value -> the variable's name."""
    found = {value.strip(): name for name, value in os.environ.items() if SECRET.search(name)}
    return {value: name for value, name in found.items() if len(value) >= SHORTEST}


def masked(text: str) -> str:
    """A message without what looks like a key."""
    for value in secrets():
        text = text.replace(value, MASK)
    return LOOKS.sub(lambda found: found[0].removesuffix(found[1]) + MASK, text)


def resolvers(config: Any) -> Iterator[tuple[str, str, str]]:
    """Key, value and what is accepted, for each interpolation of a plain, unresolved config that is not `TAKEN`."""
    for key, value in _texts(config, ""):
        for name in INTERPOLATION.findall(value):
            if name.startswith("oc.env"):
                yield key, value, ENVIRONMENT
            elif name not in TAKEN:
                yield key, value, f"the resolver {name} is not taken; accepted: ${{key}} and ${{oc.select:key,default}}"


def refuse_environment(*unused: object) -> None:
    """In place of OmegaConf's `oc.env`, wherever a config or its defaults use it. Raises ValueError."""
    raise ValueError(ENVIRONMENT)


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
