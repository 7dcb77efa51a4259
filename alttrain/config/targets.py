"""What a config may build and start. A config may come from a stranger, and building a class runs its code.

A `_target_` names a class of alttrain, or a class of a package that the command line trusts, `trusted=[mypackage]`. A
name is checked before its module is imported. The built object must have the type of its place (`fits`).

A config may start the servers of the packaged options, exactly as written there. Other commands, another environment
for them, and vLLM options that import code need `trusted`. The address of another server that gets an API key must be
on the command line, or the key's variable in `trusted`. Only the command line may set an MLflow server's address or let
model-written code run outside the sandbox.
"""

import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import resources
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import yaml
from hydra._internal.utils import _locate

TRUSTED = "ALTTRAIN_TRUSTED"  # environment variable that passes `trusted` on to child processes
SAID = ("base_url", "uri", "allow_unsandboxed")
"""Arguments through which keys, texts or model-written code can get out. Their command-line values are trusted too."""
REFUSED = (
    "a config builds classes of alttrain, and of packages that the command line trusts; if you know what it runs: "
    "trusted=[{package}]"
)
QUOTES = " '\"/"  # stripped from a command-line value; an address is the same with and without its last slash
ANYTHING = object()  # the place of an argument that has no annotation, in a trusted class
KEYS = {"https://api.openai.com/v1": "OPENAI_API_KEY", "https://api.together.xyz/v1": "TOGETHER_API_KEY"}
"""The servers of the packaged options, and the environment variable with each server's API key."""


def take_trusted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `trusted=[NAME,...]`, and trust those packages in this process and its children.

    Raises ValueError if a name is not the name of a package.
    """
    names, words, rest = [], [], []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "trusted":
            names += [name.strip() for name in value.strip("[]").split(",")]
            continue
        rest.append(argument)
        if (last := key.rpartition(".")[2]) in SAID:
            words += [f"{last}={one.strip(QUOTES)}" for one in value.split(",")]
    for name in names:
        if not re.fullmatch(r"[\w./-]+", name):
            raise ValueError(f"trusted={name!r}: accepted: names of packages, such as trusted=[mypackage]")
    if names or words:
        os.environ[TRUSTED] = ",".join([*(names or trusted()), *words])
    return rest


def trusted() -> tuple[str, ...]:
    """Return the packages and programs that the user trusts."""
    return tuple(filter(None, os.environ.get(TRUSTED, "").split(",")))


def said(key: str, value: object) -> bool:
    """Return whether the command line gives `value` to an argument named `key`."""
    return f"{key}={str(value).strip(QUOTES)}" in trusted()


def locate(path: object) -> Callable[..., Any]:
    """Import the class or function that a dotted path names.

    Raises ValueError if it is not such a path, PermissionError if a config may not name it, and ImportError if it does
    not exist.
    """
    if not isinstance(path, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", path):
        raise ValueError("expected a dotted path to a class or function")
    own = path.startswith("alttrain.") and "._" not in path
    homes = tuple(f"{home}." for home in (("alttrain",) if own else trusted()) if path.startswith(f"{home}."))
    if not homes:
        raise PermissionError(REFUSED.format(package=path.partition(".")[0]))
    found = _locate(path)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise ValueError(f"{path} is not a class or function")
    home = str(getattr(found, "__module__", None))  # a module's names include what it imports
    if not f"{home}.".startswith(homes):
        raise PermissionError(f"it is of {home}; " + REFUSED.format(package=home.partition(".")[0]))
    return found


def fits(target: Callable[..., Any], place: Any) -> str:
    """Return why what `target` builds does not have the type of its place; "" if it has.

    `place` is an annotation, None if nothing may be built there, or `ANYTHING`.
    """
    if place is ANYTHING:
        ours = target.__module__.startswith("alttrain.")
        return "not for a place without an annotation" if ours and not is_dataclass(target) else ""
    wanted = classes(place)
    if not wanted:
        return "nothing is built here; give a plain value"
    made = [target] if inspect.isclass(target) else classes(hints_of(target).get("return"))
    if made and all(any(_is(one, other) for other in wanted) for one in made):
        return ""
    return f"expected what builds a {' or '.join(one.__name__ for one in wanted)}" + (
        "" if made else "; annotate what it returns"
    )


def alternatives(hint: Any) -> Iterator[Any]:
    """Yield the members of a union, or the annotation itself, without their constraints."""
    if get_origin(hint) is Annotated:
        yield from alternatives(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from alternatives(part)
    else:
        yield hint


def classes(hint: Any) -> list[Any]:
    """Return the classes, protocols and Callable in an annotation that a node with a target can satisfy."""
    found = [Callable if get_origin(one) is Callable else one for one in alternatives(hint)]
    return [one for one in found if inspect.isclass(one) and one is not Any and one.__module__ != "builtins"]


def items(hint: Any) -> Any:
    """Return the annotation of the items of a mapping or sequence; None for other annotations."""
    if hint is ANYTHING:
        return hint
    for one in alternatives(hint):
        origin = get_origin(one)
        if inspect.isclass(origin) and issubclass(origin, Mapping | Sequence):
            return get_args(one)[1 if issubclass(origin, Mapping) else 0]
    return None


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a class's arguments, or of a function's arguments and return value."""
    constructor = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError):
        return {}  # a third-party target whose annotations name types that it imports for type checkers only


def _is(made: Any, wanted: Any) -> bool:
    """Return whether `made` is a `wanted`: a subclass, or, for a protocol, a class with all its methods.

    Other members of a protocol are not checked, since an instance may set them later.
    """
    if not getattr(wanted, "_is_protocol", False):
        return issubclass(made, wanted)
    protocols = [base for base in wanted.__mro__ if getattr(base, "_is_protocol", False)]
    methods = {name for base in protocols for name, own in vars(base).items() if inspect.isfunction(own)}
    names = [name for name in methods if name == "__call__" or not name.startswith("_")]
    return all(any(callable(vars(base).get(name)) for base in made.__mro__) for name in names)


def program_faults(node: dict[str, Any], key: str, target: Callable[..., Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield (key, value, what is accepted) for what a node starts or loads that is not packaged or trusted."""
    name = f"{target.__module__}.{target.__qualname__}"
    url, variable, uri = (node.get(part) for part in ("base_url", "key_variable", "uri"))
    if variable and url and not (KEYS.get(str(url)) == variable or variable in trusted() or said("base_url", url)):
        remedy = f"if you know that server, give its base_url on the command line, or trusted=[{variable}]"
        yield f"{key}.key_variable", variable, f"the key would be sent to {url}: {remedy}"
    if node.get("allow_unsandboxed") and not said("allow_unsandboxed", "true"):
        yield f"{key}.allow_unsandboxed", True, "this is for the command line, and not for a file; give it there"
    if name == "alttrain.training.Mlflow" and "://" in str(uri) and not said("uri", uri):
        remedy = "if you know that server, give it on the command line"
        yield f"{key}.uri", uri, f"MLflow would send its key and texts there: {remedy}"
    if name == "alttrain.generation.server.ChildServer":
        if not str(node.get("health", "/")).startswith("/"):
            yield f"{key}.health", node["health"], "expected a path on the server that is started, such as /health"
        command = node.get("command") or [""]
        if command[0] not in trusted() and not any(_same(node, one) for one in _packaged()):
            fault = "it, with_adapter and environment are not as packaged, and would run as they are written"
            remedy = f"if you know what it runs, trusted=[{command[0]}] on the command line"
            yield f"{key}.command", command, f"{fault}: {remedy}"
    elif name == "alttrain.generation.in_process.InProcessVllm" and "vllm" not in trusted():
        for option, value in (node.get("options") or {}).items():
            plain = isinstance(value, int | float) or (isinstance(value, str) and value.replace("_", "").isalnum())
            if not plain or "trust" in str(option):
                remedy = "if you know what it runs, trusted=[vllm] on the command line"
                yield f"{key}.options.{option}", value, f"vLLM may load code by it: {remedy}"


@functools.cache
def _packaged() -> list[dict[str, Any]]:
    """Return the packaged options that start a server."""
    files = (resources.files("alttrain.conf") / "generation").iterdir()
    options = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.name.endswith(".yaml")]
    return [option for option in options if "command" in option]


def _same(node: dict[str, Any], option: dict[str, Any]) -> bool:
    """Return whether a node starts what a packaged option starts.

    Words that the option interpolates are skipped: they are checked where they come from.
    """
    command, own = node.get("command") or [], option["command"]
    words = all(word == packaged or packaged.startswith("${") for word, packaged in zip(command, own, strict=False))
    parts = all(not node.get(part) or node[part] == option[part] for part in ("with_adapter", "environment"))
    return len(command) == len(own) and words and parts
