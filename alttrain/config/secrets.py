"""Keep secrets out of configs: a resolved config is saved with its run and sent to its loggers.

A config is refused if it holds the value of a secret environment variable, a URL with a password or a query, an API
key, or an interpolation that reads the environment. These messages name the config's key, never its value. In other
messages, what looks like an API key is masked.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?$")  # names of environment variables that hold secrets
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
SHORTEST = 16  # characters of a value that counts as a secret
KEY_PATTERN = re.compile(
    r"""(?ix) (?: (?<![a-z0-9]) (?-i: (?= (?: sk|pk|rk|hf|gh[oprsu]|github_pat|glpat|xox[a-z]|npm|nvapi|gsk|r8 ) [-_]
                | AKIA | AIza | eyJ ) )
        | (?: (?<![a-z]) (?: api )? key | token | secret | password | passwd | credentials? ) ['"]? \s*
          (?: = \s* ['"]? | : \s* ['"] | : \s* (?= \S{0,99} \d ) )
        | (?<= =['"] ) (?= [a-z]* \d ) (?= \d* [a-z] ) (?= [a-z0-9]{24} )
        | :// [^/\s@:]* : (?= [^/\s]*@ ) )
        ( [^\s'",}\])@]{8,} )"""
)
"""Matches an API key in a text: by its prefix, by the word before it, as a long value of a key, or as a URL's password.
"""
LITERAL_KEY = re.compile(
    r"""(?x) (?: Bearer \s+ )? (?= \S* \d )
        (?: (?: hf|gh[oprsu]|github_pat|npm|gsk|r8 ) _
            | (?: sk|pk|rk|glpat|xox[a-z]|nvapi ) [-_] (?= [\w.-]* [A-Za-z0-9]{10} )
            | AKIA | AIza | eyJ )
        [\w.-]{16,}"""
)
"""Matches a value that is an API key, by its prefix. A path or a name that only begins so does not match."""
KEY_NAMES = re.compile(
    r"(?i)(?!dataset|evaluation)(.*\.)?((x|access|auth)[-_])?(api[-_]?key|authorization|token|password)"
)
"""Matches a config key whose value would be a secret. Columns and labels of data may have any name."""
MASK = "***"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # without the line feed and the tab
RESOLVER = re.compile(r"\$\{\s*([\w.]+|[^}$]*\$.*)\s*\Z", re.DOTALL)
"""Matches a resolver's name at the end of what precedes a colon. A name that itself contains an interpolation matches
too, since it could be any resolver."""
ALLOWED_RESOLVERS = ("oc.select",)
"""Resolvers that a config may use. They depend on the config alone, so each reading gives the same value."""
ENVIRONMENT = (
    "an environment variable would be saved with the run; a server's key is named by its key_variable, and for a path "
    "let the shell fill it in: KEY=$NAME on the command line"
)


def secret_faults(config: Any) -> list[tuple[str, None, str]]:
    """Return (key, None, fault) for each value of a plain, resolved config that holds a secret."""
    variables = secrets()
    texts = ((key, value) for key, value in leaves(config) if isinstance(value, str))
    return [(key, None, fault) for key, value in texts if (fault := _fault(key, value, variables))]


def secrets() -> dict[str, str]:
    """Return the secrets of the environment, as value -> name of the variable."""
    names = {value.strip(): name for name, value in os.environ.items() if SECRET.search(name)}
    return {value: name for value, name in names.items() if len(value) >= SHORTEST}


def mask_secrets(text: str) -> str:
    """Return the text, made `visible`, with secrets, and what looks like an API key, replaced by `MASK`."""
    for value in secrets():
        text = text.replace(value, MASK)
    return visible(KEY_PATTERN.sub(lambda match: match[0].removesuffix(match[1]) + MASK, text))


def visible(text: str) -> str:
    """Return the text with "\ufffd" for each control character, which a terminal would obey."""
    return CONTROL.sub("\ufffd", text)


def resolvers(config: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (key, value, what is accepted) for each interpolation of a plain, unresolved config that is refused."""
    for key, value in leaves(config):
        for text in value.split(":")[:-1] if isinstance(value, str) else ():
            name = found[1] if (found := RESOLVER.search(text)) else ""
            if name.startswith("oc.env"):
                yield key, value, ENVIRONMENT
            elif name and name not in ALLOWED_RESOLVERS:
                yield key, value, f"the resolver {name} is not taken; accepted: ${{key}} and ${{oc.select:key,default}}"


def refuse_environment(*unused: object) -> None:
    """Replace OmegaConf's resolver `oc.env`. Always raises ValueError."""
    raise ValueError(ENVIRONMENT)


def _fault(key: str, value: str, variables: Mapping[str, str]) -> str:
    if name := next((name for secret, name in variables.items() if secret in value), ""):
        return f"holds the value of ${name}, which would be saved with the run; keys are read from the environment"
    if key.rpartition(".")[2] == "key_variable" and not VARIABLE.fullmatch(value):
        return "is not the name of an environment variable, such as OPENAI_API_KEY; export the key under one"
    if LITERAL_KEY.fullmatch(value) or (value and KEY_NAMES.fullmatch(key)):
        return "looks like a key, which would be saved with the run; name its environment variable in a key_variable"
    for before, after in pairwise(value.split("://")):  # each address in a text
        with suppress(ValueError):  # it is no address
            parts = urlsplit(f"//{after}".split()[0])
            if parts.password or (parts.username and before.lower().endswith(("http", "https"))) or parts.query:
                return "has a password or a query, which would be saved with the run; give an address without one"
    return ""


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each value of a nested plain config, with the indices of lists as keys."""
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node
