"""Check every `_target_` of a composed config against its signature and its place, without calling it, and build it.

The check finds misspelt or missing arguments and values of the wrong type, which would otherwise fail only after slow
loads. It visits every node, including nested and listed ones, and collects all faults. What is built must have the type
of its place: the annotation of the argument, or for a top-level key one of `PLACES`.
"""

import functools
import inspect
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from alttrain.config.schema import STAGES, TEXTS, Fault, RunSchema, did_you_mean, name_fault
from alttrain.config.secrets import leaves, resolvers, secret_faults
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
"""The parts of a config, and the types that each may build."""
LEVELS = {"evaluation": 2, "intervention": 1, "logger": 1}  # of names, in parts that hold several
NOT_TAKEN = ("_args_", "_convert_", "_partial_", "_recursive_")
"""Hydra's other keys of a buildable node, which are refused: arguments go by name, and objects get plain values."""
NAMED = ("backbone", "dataset", "rewrite", "training", "protocol", "method")  # parts whose names are parts of paths
_adapter = functools.cache(TypeAdapter)
SEEDS = 1 << 32  # number of valid seeds: numpy accepts 0 to 2**32 - 1


def faults(config: DictConfig) -> list[Fault]:
    """Return all faults of a composed config, grouped by kind. If it uses a refused resolver, only that is reported.

    Imports the modules of the targets and nothing heavier.
    """
    if problems := [Fault(*refusal) for refusal in resolvers(OmegaConf.to_container(config, resolve=False))]:
        return problems  # resolving could run a refused resolver
    known_keys = RunSchema.__dataclass_fields__
    absent = OmegaConf.missing_keys(config) | known_keys.keys() - config.keys()
    problems = [Fault(str(key), MISSING, "a value is needed here") for key in sorted(absent)]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    accepted = f"there is no such key; accepted: {', '.join(known_keys)}"
    problems += [Fault(str(key), value, accepted) for key, value in plain.items() if key not in known_keys]
    stages, names = plain.get("stages", []), ", ".join(STAGES)
    if not stages or len(set(stages)) < len(stages):
        problems.append(Fault("stages", stages, f"accepted: one or more of {names}, each once"))
    unknown = [stage for stage in stages if stage not in STAGES]
    problems += [Fault("stages", stage, f"accepted: {names}{did_you_mean(stage, STAGES)}") for stage in unknown]
    evaluation, accepted = plain.get("evaluation") or {}, "there is no such key; accepted: benchmarks"
    problems += [Fault(f"evaluation.{key}", None, accepted) for key in evaluation if key != "benchmarks"]
    logger = plain.get("logger")
    texts = {"page_texts": plain.get("page_texts"), "logger.texts": isinstance(logger, dict) and logger.get("texts")}
    accepted = f"accepted: {', '.join(TEXTS)}"
    problems += [Fault(key, value, accepted) for key, value in texts.items() if value and value not in TEXTS]
    problems += [*(Fault(*secret) for secret in secret_faults(plain)), *target_faults(plain)]
    infinite = {key: value for key, value in leaves(plain) if isinstance(value, float) and not math.isfinite(value)}
    others = infinite.keys() - {fault.key for fault in problems}  # in arguments that have no bounds
    return [*problems, *(Fault(key, infinite[key], "accepted: finite numbers") for key in sorted(others))]


def target_faults(plain: Mapping[Any, Any]) -> Iterator[Fault]:
    """Yield the faults of each name of a plain config, of each `_target_`, at any depth, and of its arguments."""
    for key, name in _names(plain):
        if name != MISSING and (accepted := name_fault(name)):
            yield Fault(key, name, accepted)
    for key, node in plain.items():
        annotation: Any = functools.reduce(operator.or_, map(locate, PLACES[key])) if key in PLACES else None
        for _ in range(LEVELS.get(key, 0)):
            annotation = Mapping[str, annotation]
        if key == "logger" and isinstance(node, dict):
            node = {name: logger for name, logger in node.items() if name != "texts"}
        yield from _walk(node, str(key), annotation)


def _has_target(node: Any) -> bool:
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


def _walk(node: Any, key: str, annotation: Any) -> Iterator[Fault]:
    """Yield the faults at and below `node`. `annotation` says what may be built here; see `_fits`."""
    needs_object = bool(_classes(annotation)) and _items(annotation) is None
    null_fits = type(None) in _alternatives(annotation)
    if _has_target(node):
        yield from _target_faults(node, key, annotation)
    elif needs_object and (isinstance(node, dict) or (node is None and not null_fits)):
        names = " or ".join(cls.__name__ for cls in _classes(annotation))
        yield Fault(f"{key}._target_", None, f"missing; choose an option, or name what builds a {names}")
    elif isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            child_key = f"{key}.{name}" if isinstance(node, dict) else f"{key}[{name}]"
            yield from _walk(child, child_key, _items(annotation))
    elif key.rpartition(".")[2] == "seed" and isinstance(node, int) and not 0 <= node < SEEDS:
        yield Fault(key, node, f"accepted: 0 to {SEEDS - 1}")


def _target_faults(node: dict[str, Any], key: str, annotation: Any) -> Iterator[Fault]:
    path, arguments = node["_target_"], {name: value for name, value in node.items() if name != "_target_"}
    try:
        target = locate(path)
        fault = _fits(target, annotation)
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
    hints, is_ours = _hints_of(target), target.__module__.startswith("alttrain.")
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        faults_below = list(_walk(value, f"{key}.{name}", (None if is_ours else ANYTHING) if hint is Any else hint))
        yield from faults_below
        if name in NOT_TAKEN:
            yield Fault(f"{key}.{name}", value, "give each argument by its name; what is built gets plain values")
        elif name in parameters:
            yield from () if faults_below or _has_target(value) else _type_faults(value, hint, f"{key}.{name}")
        elif not takes_any:
            accepted = f"accepted: {', '.join(parameters) or 'none'}{did_you_mean(name, parameters)}"
            yield Fault(f"{key}.{name}", value, f"there is no such key; {accepted}")
    for name, parameter in parameters.items():
        is_variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name not in arguments and parameter.default is parameter.empty and not is_variadic:
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
        problems: dict[str, tuple[Any, dict[str, None]]] = {}
        for item in error.errors():
            item_key, item_value = key, value
            for part in item["loc"]:
                if isinstance(item_value, dict) and part in item_value:
                    item_key, item_value = f"{item_key}.{part}", item_value[part]
                elif isinstance(item_value, list) and isinstance(part, int) and part < len(item_value):
                    item_key, item_value = f"{item_key}[{part}]", item_value[part]
            problems.setdefault(item_key, (item_value, {}))[1][item["msg"]] = None
        for item_key, (item_value, messages) in problems.items():
            yield Fault(item_key, item_value, "; ".join(messages))


def _fits(target: Callable[..., Any], annotation: Any) -> str:
    """Return why what `target` builds does not have the type of its place; "" if it has.

    `annotation` is that of the place, None if nothing may be built there, or `ANYTHING`.
    """
    if annotation is ANYTHING:
        is_ours = target.__module__.startswith("alttrain.")
        return "not for a place without an annotation" if is_ours and not is_dataclass(target) else ""
    expected = _classes(annotation)
    if not expected:
        return "nothing is built here; give a plain value"
    built = [target] if inspect.isclass(target) else _classes(_hints_of(target).get("return"))
    if built and all(any(_satisfies(each, cls) for cls in expected) for each in built):
        return ""
    return f"expected what builds a {' or '.join(cls.__name__ for cls in expected)}" + (
        "" if built else "; annotate what it returns"
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
    members = [Callable if get_origin(member) is Callable else member for member in _alternatives(hint)]
    return [cls for cls in members if inspect.isclass(cls) and cls is not Any and cls.__module__ != "builtins"]


def _items(hint: Any) -> Any:
    """Return the annotation of the items of a mapping or sequence; None for other annotations."""
    if hint is ANYTHING:
        return hint
    for member in _alternatives(hint):
        origin = get_origin(member)
        if inspect.isclass(origin) and issubclass(origin, Mapping | Sequence):
            return get_args(member)[1 if issubclass(origin, Mapping) else 0]
    return None


def _hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a class's arguments, or of a function's arguments and return value."""
    constructor = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError):
        return {}  # a third-party target whose annotations name types that it imports for type checkers only


def _satisfies(built: Any, expected: Any) -> bool:
    """Return whether `built` is an `expected`: a subclass, or, for a protocol, a class with all its methods.

    Other members of a protocol are not checked, since an instance may set them later.
    """
    if not getattr(expected, "_is_protocol", False):
        return issubclass(built, expected)
    protocols = [base for base in expected.__mro__ if getattr(base, "_is_protocol", False)]
    methods = {name for base in protocols for name, member in vars(base).items() if inspect.isfunction(member)}
    names = [name for name in methods if name == "__call__" or not name.startswith("_")]
    return all(any(callable(vars(base).get(name)) for base in built.__mro__) for name in names)


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
