"""Which classes a config may name. A config may be a stranger's, and to build a class is to run its code.

A `_target_` is one of alttrain's own, one of `NAMED`, or of a package the user trusts: `trusted=[mypackage]`, which
counts on the command line alone. A name is looked at before its module is imported. What it builds must have the type
of its place (`fits`).
"""

import functools
import importlib
import inspect
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

TRUSTED = "ALTTRAIN_TRUSTED"
"""The environment variable that hands `trusted` on to the processes a command starts."""

NAMED = frozenset(
    f"{module}.{name}"
    for module, names in {
        "pytorch_lightning.loggers": "CSVLogger MLFlowLogger TensorBoardLogger WandbLogger",
        "pytorch_lightning.callbacks": "EarlyStopping GradientAccumulationScheduler LearningRateMonitor "
        "ModelCheckpoint StochasticWeightAveraging",
        "pytorch_lightning.strategies": "DDPStrategy FSDPStrategy SingleDeviceStrategy",
        "torch.optim": "SGD Adam AdamW Adafactor RMSprop",
        "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR ExponentialLR LinearLR OneCycleLR StepLR",
    }.items()
    for name in names.split()
)
"""Classes of Lightning's and torch's, for the parts of a user's own classes."""

SAID = ("base_url", "uri", "allow_unsandboxed")
"""Arguments by which keys, texts or model-written code get out: what the command line says of them is trusted, too."""

REFUSED = (
    "a config builds classes of alttrain, and of packages that the command line trusts; if you know what it runs: "
    "trusted=[{package}]"
)

QUOTES = " '\"/"
"""What may surround a value of the command line; an address is the same with and without its last slash."""

ANYTHING = object()
"""The place of a trusted class's argument that has no annotation."""


def take_trusted(arguments: Sequence[str]) -> list[str]:
    """The arguments without `trusted=[NAME,...]`, whose packages this process and those it starts then build from.

    Raises ValueError where it names no package.
    """
    rest = [argument for argument in arguments if not argument.startswith("trusted=")]
    asked = [argument.partition("=")[2] for argument in arguments if argument not in rest]
    names = [name.strip() for one in asked for name in one.strip("[]").split(",")]
    for name in names:
        if not re.fullmatch(r"[\w./-]+", name):
            raise ValueError(f"trusted={name!r}: accepted: names of packages, such as trusted=[mypackage]")
    split = [(argument.partition("=")[0].rpartition(".")[2], argument.partition("=")[2]) for argument in rest]
    said = [f"{key}={one.strip(QUOTES)}" for key, value in split if key in SAID for one in value.split(",")]
    if asked or said:
        os.environ[TRUSTED] = ",".join([*(names if asked else trusted()), *said])
    return rest


def trusted() -> tuple[str, ...]:
    """The packages, and programs, that the user trusts."""
    return tuple(filter(None, os.environ.get(TRUSTED, "").split(",")))


def said(key: str, value: object) -> bool:
    """Whether the command line gives this value to an argument of this name."""
    return f"{key}={str(value).strip(QUOTES)}" in trusted()


def locate(path: object) -> Callable[..., Any]:
    """The class or function a dotted path names. Raises ImportError, AttributeError, or PermissionError where a config
    may not name it, and ValueError where it is no path to one.
    """
    if not isinstance(path, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", path):
        raise ValueError("expected a dotted path to a class or function")
    own = path.startswith("alttrain.") and "._" not in path
    homes = ("alttrain",) if own else trusted()
    homes = tuple(home for home in homes if path.startswith(f"{home}."))
    if not homes and path not in NAMED:
        raise PermissionError(REFUSED.format(package=path.partition(".")[0]))
    module_name, _, name = path.rpartition(".")
    parts = [name]
    while True:
        try:
            found: Any = importlib.import_module(module_name)
            break
        except ModuleNotFoundError as error:
            if error.name != module_name or "." not in module_name:
                raise
            module_name, _, outer = module_name.rpartition(".")
            parts.insert(0, outer)
    for part in parts:
        found = getattr(found, part)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise ValueError(f"{path} is not a class or function")
    home = str(getattr(found, "__module__", None))
    if homes and not f"{home}.".startswith(tuple(f"{one}." for one in homes)):
        raise PermissionError(f"it is of {home}; " + REFUSED.format(package=home.partition(".")[0]))
    return found


def fits(target: Callable[..., Any], place: Any, partial: bool) -> str:
    """Why what a target builds has no type of its place; "" where it has.

    `place` is an annotation, None where nothing is to be built, or `ANYTHING`.
    """
    if place is ANYTHING:
        ours = target.__module__.startswith("alttrain.")
        return "not for a place without an annotation" if ours and not is_dataclass(target) else ""
    wanted = classes(place)
    if not wanted:
        return "nothing is built here; give a plain value"
    names = " or ".join(one.__name__ if one is not Callable else "function" for one in wanted)
    made = [target] if inspect.isclass(target) else classes(hints_of(target).get("return"))
    if partial:
        made = [functools.partial]
    if not made:
        return f"expected what builds a {names}; annotate what it returns"
    good = all(any(_is(one, other) for other in wanted) for one in made)
    return "" if good else f"expected what builds a {names}"


def classes(hint: Any) -> list[Any]:
    """The classes, protocols and Callable of an annotation that a node with a target may fill."""
    origin = get_origin(hint)
    if origin is Annotated:
        return classes(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [one for part in get_args(hint) for one in classes(part)]
    if origin is Callable:
        return [Callable]
    plain = hint is Any or origin is not None or not inspect.isclass(hint) or hint.__module__ == "builtins"
    return [] if plain else [hint]


def items(hint: Any) -> Any:
    """The annotation of what a mapping or sequence holds; None where it is neither, or of plain values."""
    if hint is ANYTHING:
        return hint
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return items(parts[0])
    if origin in (Union, types.UnionType):
        return next((found for part in parts if (found := items(part)) is not None), None)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return parts[1]
    return parts[0] if inspect.isclass(origin) and issubclass(origin, Sequence) else None


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a class's arguments, or of a function's and what it returns."""
    constructor = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError):
        return {}  # annotations of a third-party target that name types it imports only for a checker


def _is(made: Any, wanted: Any) -> bool:
    """Whether a class is of a type; of a protocol where it has its methods; other members may come later."""
    if wanted is Callable:
        return any("__call__" in vars(base) for base in made.__mro__)
    if not getattr(wanted, "_is_protocol", False):
        return issubclass(made, wanted)
    protocols = [base for base in wanted.__mro__ if getattr(base, "_is_protocol", False)]
    methods = {name for base in protocols for name, own in vars(base).items() if inspect.isfunction(own)}
    names = [name for name in methods if name == "__call__" or not name.startswith("_")]
    return all(any(callable(vars(base).get(name)) for base in made.__mro__) for name in names)
