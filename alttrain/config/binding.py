"""Check every `_target_` of a composed config against its signature, without calling it.

The check finds misspelt or missing arguments and values of the wrong type, which would otherwise fail only after slow
loads. It visits every node, including nested and listed ones, and collects all faults.
"""

import functools
import inspect
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from alttrain.config.schema import STAGES, TEXTS, RunSchema, did_you_mean, name_fault
from alttrain.config.secrets import exposed, masked, resolvers
from alttrain.config.targets import ANYTHING, fits, hints_of, items, locate, program_faults

MISSING = "???"
PARTS: Mapping[str, tuple[str, ...]] = {
    "method": ("alttrain.config.Method",),
    "backbone": ("alttrain.backbone.Backbone",),
    "dataset": ("alttrain.dataset.Dataset",),
    "rewrite": ("alttrain.rewrite.Structure",),
    "adapter": ("alttrain.backbone.LoRA", "alttrain.backbone.FullFineTuning", "alttrain.backbone.NoAdapter"),
    "training": ("alttrain.training.SupervisedFineTuning", "alttrain.training.NoTraining"),
    "trainer": ("alttrain.training.Hardware",),
    "generation": ("alttrain.generation.EngineConfig", "alttrain.generation.Auto"),
    "protocol": ("alttrain.evaluation.Protocol",),
}
"""Nodes of a run's config that need a `_target_`, and the types they may build."""
PLACES = {**PARTS, "teacher": ("alttrain.rewrite.Teacher",), "judge": ("alttrain.evaluation.Judge",)}
BENCHMARK, LOGGER = "alttrain.evaluation.Benchmark", "alttrain.training.Logger"
BUILDING = frozenset({"_target_", "_partial_"})
NOT_TAKEN = ("_args_", "_convert_", "_recursive_")
"""Hydra's other keys of a buildable node, which are refused: arguments go by name, and objects get plain values."""
SEEDS = 1 << 32  # number of valid seeds: numpy accepts 0 to 2**32 - 1


@dataclass(frozen=True)
class Fault:
    """One error in a config: its key, the value found there, and what is accepted."""

    key: str
    value: Any
    accepted: str

    def __str__(self) -> str:
        place = f"{self.key}={self.value!r}" if self.value is not None else self.key
        return masked(f"{place}: {self.accepted}")


def faults(config: DictConfig) -> list[Fault]:
    """Return all faults of a composed config, grouped by kind. If it uses a refused resolver, only that is reported.

    Imports the modules of the targets and nothing heavier.
    """
    if found := [Fault(*one) for one in resolvers(OmegaConf.to_container(config, resolve=False))]:
        return found  # resolving could run a refused resolver
    absent = sorted(OmegaConf.missing_keys(config))
    found = [Fault(key, MISSING, "a value is needed here") for key in absent]
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    known = RunSchema.__dataclass_fields__
    accepted = f"there is no such key; accepted: {', '.join(known)}"
    found += [Fault(str(key), value, accepted) for key, value in plain.items() if key not in known]
    found += _stage_faults(plain.get("stages", []))
    texts = {"page_texts": plain.get("page_texts", "all"), "logger.texts": _loggers(plain).get("texts", "none")}
    found += [Fault(*one, f"accepted: {', '.join(TEXTS)}") for one in texts.items() if one[1] not in TEXTS]
    found += [Fault(key, name, said) for key, name in _names(plain) if key not in absent and (said := name_fault(name))]
    found += [Fault(*one) for one in exposed(plain)]
    parts = [key for key, node in _parts(plain) if key not in absent and not _builds(node)]
    lacks_target = "missing; choose an option of the group, or name the class to build"
    found += [Fault(f"{key}._target_", None, lacks_target) for key in parts]
    below = tuple(f"{key}." for key in parts)
    return [*found, *(fault for fault in target_faults(plain) if not fault.key.startswith(below))]


def target_faults(plain: Mapping[Any, Any]) -> Iterator[Fault]:
    """Yield the faults of each `_target_` of a plain config, at any depth, and of its arguments."""
    for key, node in plain.items():
        place: Any = None
        if key == "evaluation":
            place = Mapping[str, Mapping[str, locate(BENCHMARK)]]  # type: ignore[misc]
        elif key == "logger":
            place = Mapping[str, locate(LOGGER)]  # type: ignore[misc]
        elif key in PLACES and _builds(node):
            place = functools.reduce(operator.or_, map(locate, PLACES[key]))
        yield from _walk(node, str(key), place)


def _builds(node: Any) -> bool:
    return isinstance(node, dict) and "_target_" in node


def _names(plain: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) for each value that becomes part of a path."""
    if plain.get("tag"):
        yield "tag", plain["tag"]
    for part in ("backbone", "dataset", "rewrite", "training", "protocol", "method"):
        node = plain.get(part)
        if isinstance(node, dict) and "name" in node and (node["name"] or part != "method"):
            yield f"{part}.name", node["name"]
    for name in (plain.get("evaluation") or {}).get("benchmarks", {}):
        yield f"evaluation.benchmarks.{name}", name


def _parts(plain: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key, node) for each node that needs a `_target_`."""
    for key in PARTS:
        if key in plain:
            yield key, plain[key]
    for name, node in _loggers(plain).items():
        if name != "texts":
            yield f"logger.{name}", node
    for name, benchmark in (plain.get("evaluation") or {}).get("benchmarks", {}).items():
        for place, node in (("", benchmark), (".rows", benchmark.get("rows")), (".judge", benchmark.get("judge"))):
            yield f"evaluation.benchmarks.{name}{place}", node


def _loggers(plain: Mapping[Any, Any]) -> Mapping[str, Any]:
    node = plain.get("logger")
    return node if isinstance(node, dict) else {}


def _stage_faults(stages: list[str]) -> Iterator[Fault]:
    if not stages or len(set(stages)) < len(stages):
        yield Fault("stages", stages, f"accepted: one or more of {', '.join(STAGES)}, each once")
    for stage in stages:
        if stage not in STAGES:
            yield Fault("stages", stage, f"accepted: {', '.join(STAGES)}{did_you_mean(stage, STAGES)}")


def _walk(node: Any, key: str, place: Any) -> Iterator[Fault]:
    """Yield the faults at and below `node`. `place` is the annotation of what may be built here; see `targets.fits`."""
    if _builds(node):
        yield from _target_faults(node, key, place)
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _walk(child, f"{key}.{name}", items(place))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _walk(child, f"{key}[{index}]", items(place))
    elif key.rpartition(".")[2] == "seed" and isinstance(node, int) and not 0 <= node < SEEDS:
        yield Fault(key, node, f"accepted: 0 to {SEEDS - 1}")


def _target_faults(node: dict[str, Any], key: str, place: Any) -> Iterator[Fault]:
    path, arguments = node["_target_"], {name: value for name, value in node.items() if name not in BUILDING}
    try:
        target = locate(path)
        fault = fits(target, place, bool(node.get("_partial_")))
    except PermissionError as error:
        fault = str(error)
    except (ImportError, AttributeError, ValueError) as error:
        fault = f"cannot be imported: {error}"
    if fault:
        yield Fault(f"{key}._target_", path, fault)
        for name, value in arguments.items():
            yield from _walk(value, f"{key}.{name}", ANYTHING)
        return
    yield from (Fault(*one) for one in program_faults(node, key, target))
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    hints, own = hints_of(target), target.__module__.startswith("alttrain.")
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        yield from _walk(value, f"{key}.{name}", (None if own else ANYTHING) if hint is Any else hint)
        if own and _builds(value) and value.get("_partial_"):
            yield Fault(f"{key}.{name}._partial_", True, "alttrain's own classes take what is whole")
        if name in NOT_TAKEN:
            yield Fault(f"{key}.{name}", value, "give each argument by its name; what is built gets plain values")
        elif name not in parameters:
            if not takes_any:
                accepted = f"accepted: {', '.join(parameters)}{did_you_mean(name, parameters)}"
                yield Fault(f"{key}.{name}", value, accepted)
        elif not _builds(value):
            yield from _type_faults(value, hint, f"{key}.{name}")
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            several = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if name not in arguments and parameter.default is parameter.empty and not several:
                yield Fault(f"{key}.{name}", None, f"missing; {node['_target_']} needs it")


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _type_faults(value: Any, hint: Any, key: str) -> Iterator[Fault]:
    """Yield a fault for each place where `value` does not match `hint`, down to single items of a mapping or list."""
    from pydantic import PydanticSchemaGenerationError, ValidationError

    if hint is Any or value == MISSING:
        return
    wanted = [h for h in (hint, *get_args(hint)) if isinstance(h, type) and is_dataclass(h)]
    if wanted and isinstance(value, dict):
        yield Fault(f"{key}._target_", None, f"missing; expected a node that builds a {wanted[0].__name__}")
        return
    try:
        adapter = _adapter(hint)
    except (PydanticSchemaGenerationError, TypeError):
        return  # a Protocol or a class of our own: the node that builds it is checked separately
    try:
        adapter.validate_python(value, strict=True)
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


def instantiate(node: Any) -> Any:
    """Build the object that a config node describes, from plain values.

    Each target must be one that a config may name. Whether its type suits its place is checked by `target_faults`,
    before. Unlike Hydra's own function, this one resolves nothing, so a text that was checked stays as it is.
    """
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        arguments = {name: instantiate(value) for name, value in node.items() if name not in BUILDING}
        if "_target_" not in node:
            return arguments
        target = locate(node["_target_"])
        return functools.partial(target, **arguments) if node.get("_partial_") else target(**arguments)
    return [instantiate(child) for child in node] if isinstance(node, list) else node
