"""The identity of a run: the fingerprint of everything that shapes a result, the method, and the run's name.

A fingerprint is a flat mapping of config keys to values, stored as JSON so that differences can be named key by key.
`conf/method/NAME.yaml` selects the dataset, rewrite, teacher, recipe, adapter, quantisation and system prompt that the
method's source uses. A run that overrides one of them shows this in its name, its folder and every table.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf

from alttrain.config.overrides import CONFIG_MODULE, PRIMARY
from alttrain.config.schema import trains

SHAPING = ("seed", "backbone", "dataset", "rewrite", "adapter", "training", "method")
"""Top-level keys that shape the trained adapter. Stages, loggers, trainer hardware and folders do not."""

SERVER_SETTINGS = ("base_url", "key_variable", "concurrency", "attempts", "timeout_s")
"""Keys that say how a server is reached. Two servers of one model name count as one."""
ASKED = ("*", "*.writer", "*.judges.*", "*.judges.*.writer")  # what asks a server, below `rewrite`

NOT_SHAPING = (
    "backbone.attention",
    "backbone.shape",
    "backbone.shape.*",
    "backbone.identity",
    "backbone.published",
    *(f"method.{key}" for key in ("_target_", "name", "label", "order", "tables")),
    "dataset.path",
    "dataset.sources.*.path",
    "dataset.sources.*.file",
    "dataset.sources.*.data_dir",
    *(f"rewrite.{place}.{key}" for place in ASKED for key in SERVER_SETTINGS),
    "rewrite.may_lose",
)
"""Keys that do not change the result, such as a file's path (its content is hashed) and server settings. A star stands
for one part of a key: a filter of rows may have any name, such as `dataset.sources.NAME.where.file`."""
_NOT_SHAPING = re.compile("|".join(NOT_SHAPING).replace(".", r"\.").replace("*", r"[^.]*"))
NOT_SHAPING_TEXT = frozenset({*SERVER_SETTINGS, "chunk", "loads_adapters", "adapter_name", "start_s", "memory_share"})
"""Keys of an engine that do not change its text. `chunk` does if the engine decodes a chunk's prompts together."""
ABSENT = "(absent)"
OF_BACKBONE = ("backbone.quantization", "backbone.system_prompt", "backbone.template")
"""Keys of the backbone that belong to the treatment. Its other keys, such as the source of its weights, do not."""
CHOSEN_OF_BACKBONE = ("name", "untrained_thought", "identity")
"""Keys of the backbone that other parts of a config read."""
SEARCH_PATH = "ALTTRAIN_SEARCH_PATH"  # environment variable that passes the folder of a user's options on to workers
NOT_ASKED = NOT_SHAPING_TEXT | {"path", "file", "data_dir", "human_labels", "tables", "labels"}


@dataclass(frozen=True)
class Method:
    """A method's name, its place in tables, and its system prompts."""

    name: str  # part of the run's name; "" for a free composition
    label: str  # of its row in tables
    order: int = 1000  # of the row
    tables: Sequence[str] = ("main",)  # those that show it
    system_prompt: str | None = None  # in training; None uses the backbone's, "" the default turn of its template
    # in evaluation, before the protocol's; None uses the protocol's or that of training, "" the template's default turn
    evaluation_prompt: str | None = None


@dataclass(frozen=True)
class Changes:
    """Differences from the published form, as key -> (published value, this run's value)."""

    treatment: Mapping[str, tuple[Any, Any]]  # of what the method fixes
    # by benchmark, of what protocol and benchmark fix, and of the source of the weights
    evaluation: Mapping[str, Mapping[str, tuple[Any, Any]]]


def changes(config: DictConfig) -> Changes:
    """Return how a composed config differs from its published method, protocol and benchmarks."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    method = plain["method"]["name"]
    folders = os.environ.get(SEARCH_PATH, "")
    backbone = tuple(plain["backbone"].get(key) for key in CHOSEN_OF_BACKBONE)
    treatment = {}
    if method:
        published, has_option = _published(folders, backbone, f"method={method}")
        differences = _differences(treatment_of(published, has_option), treatment_of(plain, has_option))
        # what a packaged backbone leaves to the user (???) is no change
        treatment = {key: values for key, values in differences.items() if values[0] != MISSING}
    benchmarks = plain["evaluation"]["benchmarks"]
    mounted = [f"+benchmark@evaluation.benchmarks.{name}={name}" for name in sorted(benchmarks)]
    published, _ = _published(folders, backbone, f"protocol={plain['protocol']['name']}", *mounted)
    weights = _differences(*({"backbone.source": each["backbone"]["source"]} for each in (published, plain)))
    evaluation = {}
    for name, benchmark in benchmarks.items():
        published_benchmark = published["evaluation"]["benchmarks"].get(name, {})
        protocols = (_protocol_for(each["protocol"], name, benchmark) for each in (published, plain))
        keys, published_keys = _flat_keys("benchmark", benchmark), _flat_keys("benchmark", published_benchmark)
        evaluation[name] = weights | _differences(*protocols) | _differences(published_keys, keys)
    return Changes(treatment, evaluation)


def treatment_of(plain: Mapping[str, Any], known: bool = True) -> dict[str, Any]:
    """Return the flat keys of a plain config that make up the treatment: what the method does to any backbone.

    If nothing is trained, dataset and adapter are not part of it. If the backbone has no config option of its own
    (`known` is False), only its quantisation is part of it, since its other keys are the user's choice.
    """
    parts = ("rewrite.", "training.", "method.", *(("dataset.", "adapter.") if trains(plain) else ()))
    of_backbone = OF_BACKBONE if known else OF_BACKBONE[:1]
    return {key: value for key, value in shaping(dict(plain)).items() if key.startswith((*parts, *of_backbone))}


def run_name(config: DictConfig, treatment: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Return the name of a run's folder: backbone, method, seed and tag.

    A changed treatment adds `changed_` and a hash of its changes after the method. A free composition has dataset,
    rewrite and training instead of a method. The name has no time stamp, so ranks, resumed jobs and repeated sweeps
    share a folder. `treatment` is its changes, if already known.
    """
    method = config.method.name
    parts = [method] if method else [config.dataset.name, config.rewrite.name, config.training.name]
    digest = digest_of(changes(config).treatment if treatment is None else treatment) if method else ""
    parts = [config.backbone.name, *parts, digest, f"s{config.seed}", config.tag]
    return "-".join(map(str, filter(None, parts)))


def digest_of(treatment: Mapping[str, Sequence[Any]]) -> str:
    """Return the part of a run's name that marks a changed treatment: `changed_` and a hash; "" without changes."""
    values = json.dumps({key: value for key, (_, value) in treatment.items()}, sort_keys=True, default=str)
    return f"changed_{hashlib.sha256(values.encode()).hexdigest()[:6]}" if treatment else ""


def _protocol_for(protocol: Mapping[str, Any], name: str, benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a protocol that apply to a benchmark, flat. The judge is left out: the benchmark has it."""
    parts = {"settings": (name, benchmark["kind"]), "means": (benchmark["measure"],)}
    applied = {key: protocol.get(key) for key in ("decoding", "judged", "system_prompt", "quantization")}
    for part, names in parts.items():
        applied[part] = {key: value for key, value in protocol.get(part, {}).items() if key in names}
    return _flat_keys("protocol", applied)


def _flat_keys(part: str, node: Any) -> dict[str, Any]:
    """Return a protocol or benchmark as flat keys, without file paths, server settings and places in tables."""
    left_out = (f"{part}.labels.", f"{part}.tables.")
    return {
        key: value
        for key, value in flatten({part: node}).items()
        if key.rpartition(".")[2] not in NOT_ASKED and not key.startswith(left_out)
    }


@functools.cache
def _published(folders: str, backbone: Sequence[Any], *choices: str) -> tuple[dict[str, Any], bool]:
    """Compose these options alone; return the plain, resolved config, and whether the backbone has an option.

    Options that do not exist are skipped. `folders` is the override that names a user's, or "". `backbone` has the
    values of `CHOSEN_OF_BACKBONE`, which one without an option keeps.
    """
    search = [folders] if folders else []
    choices = (f"backbone={backbone[0]}", *choices)
    is_ready = GlobalHydra().is_initialized()
    with nullcontext() if is_ready else initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
        options = partial(GlobalHydra.instance().config_loader().get_group_options, config_name=PRIMARY)
        existing = [
            choice
            for choice in choices
            if choice.partition("=")[2] in options(re.split("[@=]", choice.lstrip("+"))[0], overrides=search)
        ]
        config = compose(config_name=PRIMARY, overrides=[*search, "evaluation=none", *existing])
    chosen = dict(zip(CHOSEN_OF_BACKBONE, escaped(list(backbone)), strict=True))
    if not (has_option := choices[0] in existing):
        config.backbone.update(chosen)
    elif config.backbone.get("identity") is None:  # a user's to say
        config.backbone.identity = chosen["identity"]
    return OmegaConf.to_container(config, resolve=True), has_option  # type: ignore[return-value]


def shaping_of_engine(generation: dict[str, Any], batched: bool = False) -> dict[str, Any]:
    """Return the flat keys of a generation config that shape the text. `chunk` does if it is decoded as one batch."""
    left_out = NOT_SHAPING_TEXT - ({"chunk"} if batched else set())
    flat = flatten({"generation": generation})
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] not in left_out}


def shaping_of_judge(node: Any) -> Any:
    """Return a judge's config without server settings, at any depth, and the number of programs run in parallel.

    A request's `extra` fields shape the reply, whatever their names.
    """
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key not in (*SERVER_SETTINGS, "workers")}
        return {key: value if key == "extra" else shaping_of_judge(value) for key, value in kept.items()}
    return [shaping_of_judge(child) for child in node] if isinstance(node, list) else node


def shaping(config: dict[str, Any]) -> dict[str, Any]:
    """Return all keys of a plain config that shape the trained adapter, flat."""
    flat = flatten({key: config[key] for key in SHAPING})
    return {key: value for key, value in flat.items() if not _NOT_SHAPING.fullmatch(key)}


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config to a mapping of dotted keys to leaf values."""
    if isinstance(node, dict):
        return {k: v for name, child in node.items() for k, v in flatten(child, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): node}


def escaped(node: Any) -> Any:
    """Return a plain, resolved config in which OmegaConf reads each "${" as these characters, and resolves nothing."""
    if isinstance(node, dict):
        return {key: escaped(child) for key, child in node.items()}
    if isinstance(node, list):
        return [escaped(child) for child in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return each key whose value differs between two flat mappings, as "key: old -> new"."""
    return [f"{key}: {before!r} -> {after!r}" for key, (before, after) in _differences(old, new).items()]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return key -> (old value, new value), sorted, for each key whose value differs."""
    pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in sorted(old.keys() | new.keys())}
    return {key: (before, after) for key, (before, after) in pairs.items() if before != after}
