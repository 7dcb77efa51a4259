"""What makes two runs the same: the fingerprint of all that shapes a result, the method, and the run's name.

A fingerprint is a flat mapping of config keys to values, kept as JSON, so that a difference is named key by key.
`conf/method/NAME.yaml` chooses the dataset, rewrite, teacher, recipe, adapter, quantisation and system prompt of the
method's source. A run that overrides one of them shows it in its name, its folder and every table.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from alttrain.config.overrides import CONFIG_MODULE, PRIMARY

SHAPING = ("seed", "backbone", "dataset", "rewrite", "adapter", "training", "method")
"""Top-level keys that shape the trained adapter. Stages, logger, trainer hardware and folders do not."""

HOW_ASKED = ("base_url", "key_variable", "concurrency", "attempts", "timeout_s")
"""Keys that say where a server is and how it is asked again; what it answers is the same."""

NOT_SHAPING = (
    "backbone.attention",
    "backbone.shape*",
    "backbone.identity",
    "backbone.published",
    *(f"method.{key}" for key in ("_target_", "name", "label", "order", "tables")),
    "dataset.path",
    "dataset.sources.*.path",
    "dataset.sources.*.file",
    "dataset.sources.*.data_dir",
    *(f"rewrite.*.{key}" for key in HOW_ASKED),
    "rewrite.may_lose",
)
"""Keys that do not change the result: the place of a file (its content is hashed), how a server is asked."""
NOT_SHAPING_TEXT = frozenset(
    {*HOW_ASKED, "chunk", "loads_adapters", "adapter_name", "health", "start_s", "memory_share"}
)
"""Keys of an engine; `chunk` of the slot decoder shapes which prompts are decoded together; there it is kept."""
ABSENT = "(absent)"
OF_BACKBONE = ("backbone.quantization", "backbone.system_prompt", "backbone.template")
"""Keys of the backbone that are a part of the treatment; its weights' place and its kernels are not."""
NOT_TREATMENT = ("seed", "training.checkpoint_every")
NOT_ASKED = NOT_SHAPING_TEXT | {"path", "file", "data_dir", "human_labels"}
CHANGED_DIGITS = 6


@dataclass(frozen=True)
class Method:
    """A method's name, its place in tables, and its system prompt.

    `name` is part of the run's name ("" for a free composition), `label` a table's row, `order` the row's place,
    `tables` the tables it is a row of. `system_prompt` is given in training and `evaluation_prompt` in evaluation,
    whatever the protocol says; None leaves it to protocol and backbone, "" is none.
    """

    name: str
    label: str
    order: int = 1000
    tables: Sequence[str] = ("main",)
    system_prompt: str | None = None
    evaluation_prompt: str | None = None


@dataclass(frozen=True)
class Changes:
    """What differs from the published form, as key -> (published value, this run's), and nothing where nothing does.

    `treatment` is what the method fixes, `evaluation` what protocol and benchmark fix, by the benchmark's name, and
    where the backbone's weights are from.
    """

    treatment: Mapping[str, tuple[Any, Any]]
    evaluation: Mapping[str, Mapping[str, tuple[Any, Any]]]


def changes(config: DictConfig) -> Changes:
    """What a composed config changes of its method, its protocol and its benchmarks."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    method, backbone = plain["method"]["name"], plain["backbone"]["name"]
    treatment = {}
    if method:
        published = _published(f"method={method}", f"backbone={backbone}")
        known = published["backbone"]["name"] == backbone
        treatment = _differences(treatment_of(published, known), treatment_of(plain, known))
    benchmarks = plain["evaluation"]["benchmarks"]
    mounted = [f"+benchmark@evaluation.benchmarks.{name}={name}" for name in sorted(benchmarks)]
    published = _published(f"protocol={plain['protocol']['name']}", f"backbone={backbone}", *mounted)
    weights = _differences(*({"backbone.source": one["backbone"]["source"]} for one in (published, plain)))
    evaluation = {}
    for name, benchmark in benchmarks.items():
        found = published["evaluation"]["benchmarks"].get(name, {})
        asked = _differences(*(_applied(one["protocol"], name, benchmark) for one in (published, plain)))
        evaluation[name] = weights | asked | _differences(_asked("benchmark", found), _asked("benchmark", benchmark))
    return Changes(treatment, evaluation)


def treatment_of(plain: Mapping[str, Any], known: bool = True) -> dict[str, Any]:
    """The flat keys of a plain config that are the treatment: what the method does to any backbone.

    Where nothing is trained, data and adapter are no part of it. Of a backbone that has no option of its own (`known`
    is False) only the quantisation is: its other keys are the user's to say.
    """
    trains = plain["training"].get("_target_") != "alttrain.training.NoTraining"
    parts = ("rewrite.", "training.", "method.", *(("dataset.", "adapter.") if trains else ()))
    found = {key: value for key, value in shaping(dict(plain)).items() if key not in NOT_TREATMENT}
    of_backbone = OF_BACKBONE if known else OF_BACKBONE[:1]
    return {key: value for key, value in found.items() if key.startswith((*parts, *of_backbone))}


def run_name(config: DictConfig, seed: int | None = None, treatment: Mapping[str, Sequence[Any]] | None = None) -> str:
    """The name of a run's folder: backbone, method, seed and tag; another `seed`'s where that is given.

    `treatment` are the changes of it, where they are known already.

    A changed treatment has `changed_` and a hash of its changes behind the method; a free composition has its dataset,
    rewrite and training in place of a method. There is no time stamp: ranks, resumed jobs and a repeated sweep meet in
    the same folder.
    """
    method = config.method.name
    parts = [method] if method else [config.dataset.name, config.rewrite.name, config.training.name]
    if method and (changed := changes(config).treatment if treatment is None else treatment):
        own = json.dumps({key: value for key, (_, value) in changed.items()}, sort_keys=True, default=str)
        parts.append(f"changed_{hashlib.sha256(own.encode()).hexdigest()[:CHANGED_DIGITS]}")
    parts = [config.backbone.name, *parts, f"s{config.seed if seed is None else seed}"]
    return "-".join(map(str, [*parts, *filter(None, [config.tag])]))


def _differences(published: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    different = [line.partition(":")[0] for line in differences(dict(published), dict(own))]
    return {key: (published.get(key, ABSENT), own.get(key, ABSENT)) for key in different}


def _applied(protocol: Mapping[str, Any], name: str, benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a protocol that apply to a benchmark, flat, without the judge, which the benchmark has."""
    parts = {"settings": (name, benchmark["kind"]), "means": (benchmark["measure"],)}
    own = {key: protocol.get(key) for key in ("decoding", "judged", "system_prompt", "quantization")}
    for part, names in parts.items():
        own[part] = {key: value for key, value in protocol.get(part, {}).items() if key in names}
    return _asked("protocol", own)


def _asked(part: str, node: Any) -> dict[str, Any]:
    """A protocol or benchmark as flat keys, without where its files are and how its servers are asked."""
    flat = flatten({part: node})
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] not in NOT_ASKED}


def _published(*choices: str) -> dict[str, Any]:
    """The config that these options alone compose, plain and resolved; one that there is not is passed over."""
    if not GlobalHydra().is_initialized():
        with initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
            return _composed(*choices)
    return _composed(*choices)


@functools.cache
def _composed(*choices: str) -> dict[str, Any]:
    options = GlobalHydra.instance().config_loader().get_group_options
    there = [one for one in choices if one.partition("=")[2] in options(re.split("[@=]", one.lstrip("+"))[0])]
    config = compose(config_name=PRIMARY, overrides=["evaluation=none", *there])
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def shaping_of_engine(generation: dict[str, Any], batched: bool = False) -> dict[str, Any]:
    """All of a generation config, flat, that shapes what is written: not where a server is or how it is asked again.

    `batched`: the engine decodes a chunk's prompts together, so `chunk` shapes it too.
    """
    flat = flatten({"generation": generation})
    left_out = NOT_SHAPING_TEXT - ({"chunk"} if batched else set())
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] not in left_out}


def shaping_of_judge(node: Any) -> Any:
    """A judge's config without what leaves its verdicts as they are: how servers are asked, at any depth, and how many
    programs run at once."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key not in (*HOW_ASKED, "workers")}
        return {key: shaping_of_judge(value) for key, value in kept.items()}
    return [shaping_of_judge(child) for child in node] if isinstance(node, list) else node


def shaping(config: dict[str, Any]) -> dict[str, Any]:
    """All keys of a plain config that shape the trained adapter, flat."""
    flat = flatten({key: config[key] for key in SHAPING})
    return {key: value for key, value in flat.items() if not any(fnmatch(key, pattern) for pattern in NOT_SHAPING)}


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys to leaf values."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        return {k: v for name, child in node.items() for k, v in flatten(child, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): node}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Each key whose value differs between two flat mappings, as "key: old -> new"."""
    return [
        f"{key}: {old.get(key, ABSENT)!r} -> {new.get(key, ABSENT)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]
