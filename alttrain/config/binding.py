"""Check every `_target_` of a composed config against its signature and its place, without calling it, and build it.

The check finds misspelt or missing arguments and values of the wrong type, which would otherwise fail only after slow
loads. It visits every node, including nested and listed ones, and collects all faults. What is built must have the type
of its place: the annotation of the argument, or for a top-level key one of `PLACES`.
"""

import functools
import inspect
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from alttrain.config.schema import STAGES, TEXTS, Fault, RunSchema, did_you_mean, name_fault
from alttrain.config.secrets import exposed, resolvers
from alttrain.config.trust import locate, program_faults

MISSING = "???"
ANYTHING = object()  # the place of an argument that has no annotation, in a trusted class
PLACES: Mapping[str, tuple[str, ...]] = {
    "method": ("alttrain.config.Method",),
    "backbone": ("alttrain.backbone.Backbone",),
    "dataset": ("alttrain.dataset.Dataset",),
    "teacher": ("alttrain.rewrite.Teacher",),
    "rewrite": ("alttrain.rewrite.Structure",),
    "adapter": ("alttrain.backbone.LoRA", "alttrain.backbone.FullFineTuning", "alttrain.backbone.NoAdapter"),
    "training": ("alttrain.training.SupervisedFineTuning", "alttrain.training.NoTraining"),
    "trainer": ("alttrain.training.Hardware",),
    "generation": ("alttrain.generation.EngineConfig", "alttrain.generation.Auto"),
    "protocol": ("alttrain.evaluation.Protocol",),
    "judge": ("alttrain.evaluation.Judge",),
    "evaluation": ("alttrain.evaluation.Benchmark",),
    "intervention": ("alttrain.evaluation.Intervention",),
    "logger": ("alttrain.training.Logger",),
}
"""The parts of a config, and the types that each may build. The last three hold several by name."""
NOT_TAKEN = ("_args_", "_convert_", "_partial_", "_recursive_")
"""Hydra's other keys of a buildable node, which are refused: arguments go by name, and objects get plain values."""
NAMED = ("backbone", "dataset", "rewrite", "training", "protocol", "method")  # parts whose names are parts of paths
_adapter = functools.cache(TypeAdapter)
SEEDS = 1 << 32  # number of valid seeds: numpy accepts 0 to 2**32 - 1


def faults(config: DictConfig) -> list[Fault]:
    """Return all faults of a composed config, grouped by kind. If it uses a refused resolver, only that is reported.

    Imports the modules of the targets and nothing heavier.
    """
    if found := [Fault(*one) for one in resolvers(OmegaConf.to_container(config, resolve=False))]:
        return found  # resolving could run a refused resolver
    known = RunSchema.__dataclass_fields__
    absent = OmegaConf.missing_keys(config) | known.keys() - config.keys()
    found = [Fault(str(key), MISSING, "a value is needed here") for key in sorted(absent)]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    accepted = f"there is no such key; accepted: {', '.join(known)}"
    found += [Fault(str(key), value, accepted) for key, value in plain.items() if key not in known]
    stages, names = plain.get("stages", []), ", ".join(STAGES)
    if not stages or len(set(stages)) < len(stages):
        found.append(Fault("stages", stages, f"accepted: one or more of {names}, each once"))
    unknown = [stage for stage in stages if stage not in STAGES]
    found += [Fault("stages", stage, f"accepted: {names}{did_you_mean(stage, STAGES)}") for stage in unknown]
    logger = plain.get("logger")
    texts = {"page_texts": plain.get("page_texts"), "logger.texts": isinstance(logger, dict) and logger.get("texts")}
    found += [Fault(*one, f"accepted: {', '.join(TEXTS)}") for one in texts.items() if one[1] and one[1] not in TEXTS]
    return [*found, *(Fault(*one) for one in exposed(plain)), *target_faults(plain)]


def target_faults(plain: Mapping[Any, Any]) -> Iterator[Fault]:
    """Yield the faults of each name of a plain config, of each `_target_`, at any depth, and of its arguments."""
    for key, name in _names(plain):
        if name != MISSING and (accepted := name_fault(name)):
            yield Fault(key, name, accepted)
    for key, node in plain.items():
        place: Any = functools.reduce(operator.or_, map(locate, PLACES[key])) if key in PLACES else None
        if key == "evaluation":
            place = Mapping[str, Mapping[str, place]]
        elif key in ("intervention", "logger"):
            place = Mapping[str, place]
        if key == "logger" and isinstance(node, dict):
            node = {name: one for name, one in node.items() if name != "texts"}
        yield from _walk(node, str(key), place)


def _builds(node: Any) -> bool:
    return isinstance(node, dict) and "_target_" in node


def _names(plain: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) for each value that becomes part of a path."""
    if plain.get("tag"):
        yield "tag", plain["tag"]
    for part in NAMED:
        node = plain.get(part)
        if isinstance(node, dict) and "name" in node and (node["name"] or part != "method"):
            yield f"{part}.name", node["name"]
    for name in (plain.get("evaluation") or {}).get("benchmarks", {}):
        yield f"evaluation.benchmarks.{name}", name
    for name in plain.get("intervention") or {}:
        yield f"intervention.{name}", name


def _walk(node: Any, key: str, place: Any) -> Iterator[Fault]:
    """Yield the faults at and below `node`. `place` is the annotation of what may be built here; see `_fits`."""
    needs_object = bool(_classes(place)) and _items(place) is None
    null_fits = type(None) in _alternatives(place)
    if _builds(node):
        yield from _target_faults(node, key, place)
    elif needs_object and (isinstance(node, dict) or (node is None and not null_fits)):
        names = " or ".join(one.__name__ for one in _classes(place))
        yield Fault(f"{key}._target_", None, f"missing; choose an option, or name what builds a {names}")
    elif isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            below = f"{key}.{name}" if isinstance(node, dict) else f"{key}[{name}]"
            yield from _walk(child, below, _items(place))
    elif key.rpartition(".")[2] == "seed" and isinstance(node, int) and not 0 <= node < SEEDS:
        yield Fault(key, node, f"accepted: 0 to {SEEDS - 1}")


def _target_faults(node: dict[str, Any], key: str, place: Any) -> Iterator[Fault]:
    path, arguments = node["_target_"], {name: value for name, value in node.items() if name != "_target_"}
    try:
        target = locate(path)
        fault = _fits(target, place)
    except PermissionError as error:
        fault = str(error)
    except (ImportError, ValueError) as error:
        fault = f"cannot be imported: {' '.join(str(error).split())}"
    if fault:
        yield Fault(f"{key}._target_", path, fault)
        for name, value in arguments.items():
            yield from _walk(value, f"{key}.{name}", ANYTHING)
        return
    yield from program_faults(node, key, target)
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    hints, own = _hints_of(target), target.__module__.startswith("alttrain.")
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        below = list(_walk(value, f"{key}.{name}", (None if own else ANYTHING) if hint is Any else hint))
        yield from below
        if name in NOT_TAKEN:
            yield Fault(f"{key}.{name}", value, "give each argument by its name; what is built gets plain values")
        elif name in parameters:
            yield from () if below or _builds(value) else _type_faults(value, hint, f"{key}.{name}")
        elif not takes_any:
            accepted = f"accepted: {', '.join(parameters)}{did_you_mean(name, parameters)}"
            yield Fault(f"{key}.{name}", value, accepted)
    for name, parameter in parameters.items():
        several = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name not in arguments and parameter.default is parameter.empty and not several:
            yield Fault(f"{key}.{name}", None, f"missing; {path} needs it")


def _type_faults(value: Any, hint: Any, key: str) -> Iterator[Fault]:
    """Yield a fault for each place where `value` does not match `hint`, down to single items of a mapping or list."""
    if hint is Any or value == MISSING:
        return
    try:
        _adapter(hint).validate_python(value, strict=True)
    except (PydanticSchemaGenerationError, TypeError):
        return  # a Protocol or a class of our own: the node that builds it is checked separately
    except ValidationError as error:
        found: dict[str, tuple[Any, dict[str, None]]] = {}
        for item in error.errors():
            place, inner = key, value
            for step in item["loc"]:
                if isinstance(inner, dict) and step in inner:
                    place, inner = f"{place}.{step}", inner[step]
                elif isinstance(inner, list) and isinstance(step, int) and step < len(inner):
                    place, inner = f"{place}[{step}]", inner[step]
            found.setdefault(place, (inner, {}))[1][item["msg"]] = None
        for place, (inner, messages) in found.items():
            yield Fault(place, inner, "; ".join(messages))


def _fits(target: Callable[..., Any], place: Any) -> str:
    """Return why what `target` builds does not have the type of its place; "" if it has.

    `place` is an annotation, None if nothing may be built there, or `ANYTHING`.
    """
    if place is ANYTHING:
        ours = target.__module__.startswith("alttrain.")
        return "not for a place without an annotation" if ours and not is_dataclass(target) else ""
    wanted = _classes(place)
    if not wanted:
        return "nothing is built here; give a plain value"
    made = [target] if inspect.isclass(target) else _classes(_hints_of(target).get("return"))
    if made and all(any(_is(one, other) for other in wanted) for one in made):
        return ""
    return f"expected what builds a {' or '.join(one.__name__ for one in wanted)}" + (
        "" if made else "; annotate what it returns"
    )


def _alternatives(hint: Any) -> Iterator[Any]:
    """Yield the members of a union, or the annotation itself, without their constraints."""
    if get_origin(hint) is Annotated:
        yield from _alternatives(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _alternatives(part)
    else:
        yield hint


def _classes(hint: Any) -> list[Any]:
    """Return the classes, protocols and Callable in an annotation that a node with a target can satisfy."""
    found = [Callable if get_origin(one) is Callable else one for one in _alternatives(hint)]
    return [one for one in found if inspect.isclass(one) and one is not Any and one.__module__ != "builtins"]


def _items(hint: Any) -> Any:
    """Return the annotation of the items of a mapping or sequence; None for other annotations."""
    if hint is ANYTHING:
        return hint
    for one in _alternatives(hint):
        origin = get_origin(one)
        if inspect.isclass(origin) and issubclass(origin, Mapping | Sequence):
            return get_args(one)[1 if issubclass(origin, Mapping) else 0]
    return None


def _hints_of(target: Callable[..., Any]) -> dict[str, Any]:
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


def instantiate(node: Any) -> Any:
    """Build the object that a config node describes, from plain values.

    Each target must be one that a config may name. Whether its type suits its place is checked by `target_faults`,
    before. Unlike Hydra's own function, this one resolves nothing, so a text that was checked stays as it is.
    """
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, list):
        return [instantiate(child) for child in node]
    if not isinstance(node, dict):
        return node
    built = {name: instantiate(value) for name, value in node.items() if name != "_target_"}
    return locate(node["_target_"])(**built) if "_target_" in node else built
