"""The fingerprint of all that shapes a run's result: a flat mapping of config keys to values.

It is kept in the folder as JSON, so that a difference can be named key by key.
"""

from fnmatch import fnmatch
from typing import Any

from omegaconf import DictConfig, OmegaConf

SHAPING = ("seed", "backbone", "dataset", "rewrite", "adapter", "training", "method")
"""Top-level keys that shape the trained adapter. Stages, logger, trainer hardware and folders do not."""

HOW_ASKED = ("base_url", "key_variable", "concurrency", "attempts", "timeout_s", "backoff_s", "longest_pause_s")
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
"""Keys that leave the result as it is: where a file stands (its content is hashed), how a server is asked."""


def shaping_of_engine(generation: dict[str, Any], batched: bool = False) -> dict[str, Any]:
    """All of a generation config, flat, that shapes what is written: not where a server is or how it is asked again.

    `batched`: the engine decodes a chunk's prompts together, so `chunk` shapes it too.
    """
    flat = flatten({"generation": generation})
    left_out = NOT_SHAPING_TEXT - ({"chunk"} if batched else set())
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] not in left_out}


NOT_SHAPING_TEXT = frozenset(
    {*HOW_ASKED, "chunk", "loads_adapters", "adapter_name", "health", "start_s", "memory_share"}
)
"""Keys of an engine that leave its texts as they are."""


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
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)!r} -> {new.get(key, absent)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]
