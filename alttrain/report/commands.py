"""The command that would fill a table's missing cell, and what the packaged conf/ says of a method.

Options are those of conf/, which is read here as files.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from alttrain.report.variants import LAST, NO_TRAIN

GROUPS = ("dataset", "rewrite", "training")
"""Config groups whose option a run's names tell."""
TEACHER = "rewrite.teacher.name"
ABSENT = "(absent)"
"""The value in run.json of a key that a run does not have."""


@cache
def options(group: str) -> frozenset[str]:
    """The names of a config group's options."""
    folder = resources.files("alttrain.conf") / group
    return frozenset(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


@cache
def mounted(evaluation: str) -> frozenset[str]:
    """The benchmarks an evaluation mounts."""
    return frozenset(re.findall(r"/benchmark@benchmarks\.(\w+):", _text("evaluation", evaluation)))


class Described(NamedTuple):
    """A method's label, and its place among others."""

    label: str
    order: int


@cache
def described(method: str) -> Described:
    """What conf/method says of a method; a name that is no option there is its own label, and comes last."""
    text = _text("method", method) if method in options("method") else ""
    told = {key: value.strip("\"'") for key, value in re.findall(r"^ +(label|order): *([^#\n]*[^#\s])", text, re.M)}
    return Described(told.get("label", method), int(told.get("order", LAST)))


def _text(group: str, option: str) -> str:
    return (resources.files("alttrain.conf") / group / f"{option}.yaml").read_text(encoding="utf-8")


def command(
    names: Mapping[str, str],
    changed: Mapping[str, Sequence[Any]],
    seeds: Collection[int],
    protocol: str,
    benchmarks: Collection[str],
) -> str:
    """What to type for these benchmarks of a run with these names: backbone, method, or dataset, rewrite and training,
    tag, and `source` for a backbone that has no option of its own; `changed` is what differs from the method."""
    experiment = names["method"] and names["training"] in options("experiment")
    parts = [f"experiment={names['training']}"] if experiment else []
    parts += [*_backbone(names), *_treatment(names, changed)]
    parts += [f"protocol={protocol}"] if protocol in options("protocol") else []
    parts += _evaluation(benchmarks)
    parts += [f"tag={names['tag']}"] if names.get("tag") else []
    parts += [f"seed={','.join(map(str, sorted(seeds)))}"] if seeds and set(seeds) != {0} else []
    return " ".join(["alttrain", *(["-m"] if len(seeds) > 1 else []), *parts])


def _backbone(names: Mapping[str, str]) -> list[str]:
    if names["backbone"] in options("backbone"):
        return [f"backbone={names['backbone']}"]
    source = names.get("source") or names["backbone"]
    return ["backbone=hub", f"backbone.name={names['backbone']}", f"backbone.source={source}"]


def _treatment(names: Mapping[str, str], changed: Mapping[str, Sequence[Any]]) -> list[str]:
    """The method with what was changed of it, or all parts of a run without one."""
    if not names["method"]:
        if (names["rewrite"], names["training"]) == ("none", "none"):
            return [f"method={NO_TRAIN}"]
        adapter = ["adapter=none"] if names["training"] == "none" else []
        return [*_parts(names, GROUPS), *adapter]
    chosen = [group for group in GROUPS if f"{group}.name" in changed]
    parts, covered = _parts(names, chosen), tuple(f"{group}." for group in chosen)
    if TEACHER in changed:
        parts.append(f"teacher={changed[TEACHER][1]}")
        covered += (TEACHER.removesuffix("name"),)
    others = {key: own for key, (_, own) in changed.items() if not key.startswith(covered)}
    values = [f"~{key}" if own == ABSENT else f"{key}={_value(own)}" for key, own in others.items()]
    return [f"method={names['method']}", *parts, *values]


def _parts(names: Mapping[str, str], groups: Collection[str]) -> list[str]:
    """The options of these groups, but for a name that an experiment sets."""
    return [f"{group}={names[group]}" for group in groups if names[group] in {"none", *options(group)}]


def _value(value: Any) -> str:
    """A value as an override takes it, quoted for the shell where it must be."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if re.fullmatch(r"[\w.+-]+", text) else f"'\"{text}\"'" if isinstance(value, str) else f"'{text}'"


def _evaluation(benchmarks: Collection[str]) -> list[str]:
    """The smallest evaluation with all of these, or else each benchmark that has an option."""
    wanted = frozenset(benchmarks)
    fitting = [name for name in sorted(options("evaluation")) if wanted <= mounted(name)]
    if fitting:
        return [f"evaluation={min(fitting, key=lambda name: len(mounted(name)))}"]
    known = sorted(wanted & options("benchmark"))
    return [f"+benchmark@evaluation.benchmarks.{name}={name}" for name in known]
