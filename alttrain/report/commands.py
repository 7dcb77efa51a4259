"""The command that would fill a table's missing cell.

Options are those of the packaged conf/, which is read here as files: a name that is no option there is told as what
the experiment that makes such names takes.
"""

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources

from alttrain.report.variants import BY_TEACHER, NO_TRAIN


@cache
def options(group: str) -> frozenset[str]:
    """The names of a config group's options."""
    folder = resources.files("alttrain.conf")
    for part in group.split("/"):
        folder = folder / part
    return frozenset(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


@cache
def mounted(evaluation: str) -> frozenset[str]:
    """The benchmarks an evaluation mounts."""
    text = (resources.files("alttrain.conf") / "evaluation" / f"{evaluation}.yaml").read_text(encoding="utf-8")
    return frozenset(re.findall(r"/benchmark@benchmarks\.(\w+):", text))


def command(names: Mapping[str, str], seeds: Collection[int], protocol: str, benchmarks: Collection[str]) -> str:
    """What to type for these benchmarks of a run with these names: backbone, dataset, rewrite, training, tag, and
    `source` for a backbone that has no option of its own."""
    parts = [*_experiment(names), *_backbone(names), *_method(names["rewrite"])]
    if names["dataset"] in options("dataset"):
        parts.append(f"dataset={names['dataset']}")
    if names["training"] != "none" and names["training"] not in options("experiment"):
        parts.append(f"training={names['training']}")
    parts += [f"protocol={protocol}"] if protocol in options("protocol") else []
    parts += _evaluation(benchmarks)
    parts += [f"tag={names['tag']}"] if names.get("tag") else []
    parts += [f"seed={','.join(map(str, sorted(seeds)))}"] if seeds and set(seeds) != {0} else []
    return " ".join(["alttrain", *(["-m"] if len(seeds) > 1 else []), *parts])


def _experiment(names: Mapping[str, str]) -> list[str]:
    """The experiment whose recipe or amounts of data the names tell of."""
    if names["training"] in options("experiment"):
        return [f"experiment={names['training']}"]
    if found := re.fullmatch(r"alttrain_(\d+)", names["dataset"]):
        return ["experiment=data_size", f"dataset.size={found[1]}"]
    if found := re.fullmatch(r"safechain_900_(\d+)", names["dataset"]):
        return ["experiment=benign_amount", f"dataset.amounts.benign={found[1]}"]
    return ["experiment=teacher_swap"] if names["rewrite"].startswith(BY_TEACHER) else []


def _backbone(names: Mapping[str, str]) -> list[str]:
    if names["backbone"] in options("backbone"):
        return [f"backbone={names['backbone']}"]
    source = names.get("source") or names["backbone"]
    return ["backbone=hub", f"backbone.name={names['backbone']}", f"backbone.source={source}"]


def _method(rewrite: str) -> list[str]:
    if rewrite == NO_TRAIN:
        return ["method=no_train"]
    if rewrite in options("method"):
        return [f"method={rewrite}"]
    if rewrite.startswith(BY_TEACHER):
        return [f"rewrite/teacher={rewrite.removeprefix(BY_TEACHER)}"]
    return [f"rewrite={rewrite}"]


def _evaluation(benchmarks: Collection[str]) -> list[str]:
    """The smallest evaluation with all of these, or else each benchmark that has an option."""
    wanted = frozenset(benchmarks)
    fitting = [name for name in sorted(options("evaluation")) if wanted <= mounted(name)]
    if fitting:
        return [f"evaluation={min(fitting, key=lambda name: len(mounted(name)))}"]
    known = sorted(wanted & options("benchmark"))
    return [f"+benchmark@evaluation.benchmarks.{name}={name}" for name in known]
