"""The run's folder, which no other run may use.

Each run folder has files.md (what its files mean), config.yaml (resolved), run.json (the names that the report groups
by), environment.json (versions) and fingerprint.json, and weights.json once it uses weights. Each evaluation folder has
its own fingerprint.json. A folder with another fingerprint or other weights is refused with a message that names the
differing keys and the remedy.
"""

import fnmatch
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alttrain.backbone.source import Weights, offline_weights
from alttrain.config import RunError, differences, digest_of
from alttrain.config.identity import escaped
from alttrain.evaluation import Benchmark
from alttrain.records import RunDocument, json_or_none, read_json, write_json, write_text
from alttrain.run.assembly import Run

WEIGHTS_FILE = "weights.json"
BEGUN_FILE = "begun.jsonl"  # in an evaluation folder: how an intervention begins each response
READ_PREFIX = "generations of "  # how the keys of a fingerprint begin that have hashes of what an intervention reads
MADE_IN = "generation.made_in"  # the key of a fingerprint for the dtype that this process generated in
PACKAGES = ("alttrain", "torch", "transformers", "peft", "pytorch-lightning", "tokenizers", "numpy")


def evaluation_folder(run: Run, benchmark: Benchmark) -> Path:
    """Return the folder of a benchmark's generations, judgements and metrics. Each protocol but `offline` is named."""
    protocol = "" if run.protocol.name == "offline" else f".{run.protocol.name}"
    return run.folder / "evaluation" / f"{benchmark.name}{protocol}"


def generations_read_by(run: Run, benchmark: Benchmark) -> list[Path]:
    """Return the generations that an intervention reads: of the run without it, and of the run that it names."""
    if benchmark.intervention is None or not benchmark.intervention.reads:
        return []
    name = evaluation_folder(run, benchmark.without_intervention).name
    folders = [run.folder, *([run.folder.parent / source] if (source := benchmark.intervention.source) else [])]
    return [folder / "evaluation" / name / "generations.jsonl" for folder in folders]


def source_texts(run: Run, benchmark: Benchmark) -> dict[str, str]:
    """Return {fingerprint key: hash} of the other run's texts that the intervention read.

    It is empty if the intervention names no run, or was not made yet.
    """
    if benchmark.intervention is None or not benchmark.intervention.source:
        return {}
    fingerprint = json_or_none(evaluation_folder(run, benchmark) / "fingerprint.json") or {}
    key = f"{READ_PREFIX}{benchmark.intervention.source}"
    return {key: fingerprint[key]} if key in fingerprint else {}


def check_writable(output_dir: Path) -> None:
    """Raise RunError if the output folder, or its nearest existing parent, is not writable."""
    existing = nearest_existing(output_dir)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        fault = f"{existing} is not {'writable' if existing.is_dir() else 'a folder'}"
        raise RunError(f"output_dir={output_dir}: {fault}; set output_dir to a folder you may write to")


def nearest_existing(path: Path) -> Path:
    """Return a path, or its nearest parent that exists."""
    return next(candidate for candidate in (path.absolute(), *path.absolute().parents) if candidate.exists())


def refuse_links(folder: Path) -> None:
    """Raise RunError if a folder of ours is or holds a link that leads out of it: files outside would be overwritten.

    Links to the output folder or its runs/ are followed. Those of wandb to its log and of submitit to its scripts are
    left alone: nothing is written through them.
    """
    root = str(folder.parent.resolve() / folder.name)
    paths = [root]
    for parent, folders, files in os.walk(root):
        theirs = "debug-core.log" if parent.startswith(f"{root}/wandb/") else "submission_file_*.sh"
        known = fnmatch.filter(files, theirs) if parent.startswith((f"{root}/wandb/", f"{root}/submitit")) else []
        paths += [f"{parent}/{name}" for name in (*folders, *files) if name not in known]
    for path in filter(os.path.islink, paths):
        if not os.path.realpath(path).startswith(f"{root}/"):
            raise RunError(f"{path} is a link, which leads out of {folder}; put what it leads to in its place")


def check_belongs(run: Run) -> None:
    """Raise RunError if the folder holds another run, evaluations made with other settings, or links out of it."""
    refuse_links(run.folder)
    commit = (json_or_none(run.folder / WEIGHTS_FILE, dict[str, str]) or {}).get("origin")
    folders = [(run.folder, run.fingerprint)]
    for benchmark in run.all_benchmarks:
        folders.append((evaluation_folder(run, benchmark), run.evaluation_fingerprint(benchmark)))
    for folder, current in folders:
        path, remedy = folder / "fingerprint.json", f"use tag=NAME for a new run, or delete {folder}"
        if path.exists():  # `generate` compares the hashes of what an intervention reads, and the dtype
            recorded = read_json(path, remedy=remedy)
            made = {
                key: value
                for key, value in recorded.items()
                if not key.startswith((READ_PREFIX, MADE_IN)) and (key in current or not key.endswith(" weights"))
            }
            if folder == run.folder and commit == f"hub@{run.backbone.revision}":
                made["backbone.revision"] = run.backbone.revision  # it was null, and led to this commit
            refuse_other(folder, made, current, f"set them back, or {remedy}")


def check_weights(run: Run, weights: Weights | None = None) -> None:
    """Raise RunError if the run has used other weights of the backbone than these, by default those at hand.

    Without weights at hand there is nothing to compare: judging needs none, and a server has its own.
    """
    path, remedy = run.folder / WEIGHTS_FILE, f"use tag=NAME for a new run, or delete {run.folder}"
    if not path.exists() or (weights := weights or offline_weights(run.backbone)) is None:
        return
    used, present = read_json(path, dict[str, str], remedy=remedy), weights.content
    if weights.origin == "local" and not any(name.endswith(".safetensors") for name in present):
        used = {name: digest for name, digest in used.items() if name in present}
    if changed := differences(used, present):
        origin = used.get("origin", "")
        back = f"backbone.revision={origin[4:]}" if origin.startswith("hub@") else "them back"
        lines = [f"{run.folder} was made with other weights than backbone.source={run.backbone.source} has now:"]
        raise RunError("\n".join([*lines, *(f"  {line}" for line in changed), f"set {back}, or {remedy}"]))


def record_weights(run: Run, weights: Weights) -> None:
    """Write which weights the run uses, when it first uses them."""
    if not (run.folder / WEIGHTS_FILE).exists():
        write_json(run.folder / WEIGHTS_FILE, weights.content)


def refuse_other(folder: Path, made: Mapping[str, Any], current: Mapping[str, Any], remedy: str) -> None:
    """Raise RunError, with the keys that differ, if a folder's fingerprint as `made` is not the `current` one."""
    if changed := differences(made, as_json(current)):
        lines = [f"{folder} was made with other settings:", *(f"  {line}" for line in changed)]
        raise RunError("\n".join([*lines, remedy]))


def as_json(value: Any) -> Any:
    """Return a value as JSON would give it back, so that a tuple equals the list it was saved as."""
    return json.loads(json.dumps(value))


def run_document(run: Run) -> dict[str, Any]:
    """Return the content of run.json. `tag` has all that tells the run's name from those with the same other keys."""
    method, trains = run.method, run.training.trains
    other = [] if method.name or trains else [run.dataset.name]  # data that is not trained on
    return {
        "run": run.name,
        "backbone": run.backbone.name,
        "dataset": run.dataset.name if trains else "none",
        "rewrite": run.structure.name,
        "training": run.training.name,
        "seed": run.seed,
        "method": method.name,
        "label": method.label or run.structure.name,
        "order": method.order,
        "tables": list(method.tables),
        "changed": dict(run.changed.treatment),
        "digest": digest_of(run.changed.treatment),
        "tag": "-".join([*other, *filter(None, [run.config["tag"]])]),
    }


def open_folder(run: Run) -> None:
    """Create the run's folder and the files that describe it. Raises RunError if it is not writable."""
    folder, names = run.folder, run_document(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not (folder / "fingerprint.json").exists()
        if is_new:
            write_text(folder / "files.md", resources.files("alttrain.run").joinpath("files.md").read_text("utf-8"))
        if json_or_none(folder / "run.json", RunDocument) != as_json(names):
            write_json(folder / "run.json", names)
        if is_new or run.needs_training or not (folder / "config.yaml").exists():  # at last of what trained
            write_config(run)
        if is_new:
            write_json(folder / "fingerprint.json", run.fingerprint)
    except OSError as error:
        raise RunError(f"output_dir={run.output_dir}: cannot write there ({error}); see to that, or set it") from error


def write_config(run: Run) -> None:
    """Write config.yaml and environment.json, which are those of the command that trains."""
    write_json(run.folder / "environment.json", environment())
    write_text(run.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(escaped(run.config))))


def environment() -> dict[str, Any]:
    """Return the versions that a result may depend on, and the commit of a source checkout."""
    versions = dict.fromkeys(PACKAGES, "absent")
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    # of this checkout alone: an installed package may lie in one of another project
    command = ["git", f"--git-dir={Path(__file__).resolve().parents[2] / '.git'}", "rev-parse", "--short=12", "HEAD"]
    commit = ""
    with suppress(OSError):  # git may be absent
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    host = {"python": platform.python_version(), "machine": platform.machine()}
    return {**host, "packages": versions, "commit": commit or None}
