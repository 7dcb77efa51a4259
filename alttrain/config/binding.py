"""Bind every `_target_` of a composed config against the signature it names, without calling it.

A misspelt argument, a missing one or a value of the wrong type would otherwise surface only after slow loads. The walk
visits every node, nested and listed ones included, and collects all faults.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf

from alttrain.config.schema import PAGE_TEXTS, STAGES

MISSING = "???"
PARTS = (
    "method",
    "backbone",
    "dataset",
    "rewrite",
    "adapter",
    "training",
    "trainer",
    "generation",
    "protocol",
    "logger",
)
HYDRA_KEYS = frozenset({"_target_", "_partial_", "_args_", "_convert_", "_recursive_"})


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a config: its key, the value found there, and what would be accepted."""

    key: str
    value: Any
    accepted: str

    def __str__(self) -> str:
        return (
            f"{self.key}={self.value!r}: {self.accepted}" if self.value is not None else f"{self.key}: {self.accepted}"
        )


def faults(config: DictConfig) -> list[Fault]:
    """All faults of a composed config, in the order of its keys. Imports the targets' modules and nothing heavier."""
    absent = sorted(OmegaConf.missing_keys(config))
    missing = [Fault(key, MISSING, "a value is needed here") for key in absent]
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    untargeted = [
        Fault(f"{key}._target_", None, "missing; choose an option of the group, or name the class to build")
        for key, node in _parts(plain)
        if key not in absent and not (isinstance(node, dict) and "_target_" in node)
    ]
    texts = plain.get("page_texts", PAGE_TEXTS[0])
    page = [] if texts in PAGE_TEXTS else [Fault("page_texts", texts, f"accepted: {', '.join(PAGE_TEXTS)}")]
    return [*missing, *_stage_faults(plain.get("stages", [])), *page, *untargeted, *_walk(plain, "")]


def _parts(plain: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The nodes of a run's config that must say what to build."""
    for key in PARTS:
        if key in plain:
            yield key, plain[key]
    for name, benchmark in (plain.get("evaluation") or {}).get("benchmarks", {}).items():
        for place, node in (("", benchmark), (".rows", benchmark.get("rows")), (".judge", benchmark.get("judge"))):
            yield f"evaluation.benchmarks.{name}{place}", node


def _stage_faults(stages: list[str]) -> Iterator[Fault]:
    if not stages or len(set(stages)) < len(stages):
        yield Fault("stages", stages, f"accepted: one or more of {', '.join(STAGES)}, each once")
    for stage in stages:
        if stage not in STAGES:
            yield Fault("stages", stage, f"accepted: {', '.join(STAGES)}{_did_you_mean(stage, STAGES)}")


def _walk(node: Any, key: str) -> Iterator[Fault]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield from _target_faults(node, key)
        for name, child in node.items():
            yield from _walk(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _walk(child, f"{key}[{index}]")


def _target_faults(node: dict[str, Any], key: str) -> Iterator[Fault]:
    try:
        target = locate(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        yield Fault(f"{key}._target_", node["_target_"], f"cannot be imported: {error}")
        return
    arguments = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    hints = _type_hints(target)
    for name, value in arguments.items():
        if name not in parameters:
            if not takes_any:
                yield Fault(
                    f"{key}.{name}", value, f"accepted: {', '.join(parameters)}{_did_you_mean(name, parameters)}"
                )
        elif not (isinstance(value, dict) and "_target_" in value):
            yield from _type_faults(value, hints.get(name, Any), f"{key}.{name}")
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            required = parameter.default is inspect.Parameter.empty and parameter.kind not in (
                inspect.Parameter.VAR_KEYWORD,
                inspect.Parameter.VAR_POSITIONAL,
            )
            if required and name not in arguments:
                yield Fault(f"{key}.{name}", None, f"missing; {node['_target_']} needs it")


def locate(path: str) -> Callable[..., Any]:
    """The class or function a dotted path names. Raises ImportError or AttributeError."""
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ValueError("expected a dotted path to a class or function")
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
    if not callable(found):
        raise ValueError(f"{path} is not a class or function")
    return found  # type: ignore[no-any-return]


def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    constructor = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(constructor, include_extras=True)
    except NameError:
        return {}  # annotations of a third-party target that name types it imports only for a checker


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _type_faults(value: Any, hint: Any, key: str) -> Iterator[Fault]:
    """Where `value` does not fit `hint`, down to the item of a mapping or list, and what would be accepted there."""
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
        return  # a Protocol or a class of our own: the node that fills it is checked by itself
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


def _did_you_mean(word: str, accepted: Any) -> str:
    close = difflib.get_close_matches(str(word), list(accepted), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def instantiate(node: Any) -> Any:
    """The object a config node describes, built of plain Python values (peft cannot save a ListConfig)."""
    from hydra.utils import instantiate as hydra_instantiate

    return hydra_instantiate(node, _convert_="all")
