"""Stage train: train.jsonl -> adapter/ (or model/, if all weights are trained) and train.json.

checkpoints/ holds checkpoints until the trained weights are saved.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from typing import Any

from alttrain.config import RunError
from alttrain.records import (
    DamagedError,
    Example,
    Rewritten,
    Trained,
    checksum,
    read_rows,
    read_sealed,
    write_sealed,
)
from alttrain.report.card import card
from alttrain.run.assembly import Run
from alttrain.run.loggers import open_loggers
from alttrain.run.progress import on_terminal
from alttrain.run.session import Session, free
from alttrain.training.distributed import follows

log = logging.getLogger(__name__)

NO_KEY_SENTENCE = "training/objective=safekey: no row has a key sentence; choose dataset=safekey, or response"


FILES = (
    *("train.jsonl", "adapter/adapter_config.json", "model/config.json"),
    *("adapter/*.safetensors", "model/*.safetensors"),
)
"""Files whose checksums train.json holds as `files`: the rows and the trained weights."""
TOKENIZER = ("*/tokenizer*", "*/special_tokens_map.json", "*/chat_template.jinja")
"""Files whose checksums train.json holds as `tokenizer`."""


def _checksums(run: Run, patterns: Iterable[str]) -> dict[str, str | None]:
    paths = sorted(path for pattern in patterns for path in run.folder.glob(pattern))
    return {path.relative_to(run.folder).as_posix(): checksum(path) for path in paths}


def _rewritten(run: Run) -> dict[str, Any]:
    """Return rewrite.json; {} if it does not exist."""
    path = run.folder / "rewrite.json"
    return read_sealed(path, Rewritten) if path.exists() else {}


def tell_edited(run: Run) -> None:
    """Warn about each file of rows that changed since the rewrite stage wrote it. Changed rows are used."""
    for name, digest in _rewritten(run).get("files", {}).items():
        if checksum(path := run.folder / name) not in (digest, None):
            log.warning("rewrite   %s is not what was written; delete rewrite.json to have it written again", path)


def spoiled(run: Run) -> str:
    """Return the first file of a finished training that differs from its checksum in train.json; "" if none does."""
    files = read_sealed(run.folder / "train.json", Trained).get("files", {})  # older versions wrote none
    return next((name for name, digest in files.items() if checksum(run.folder / name) != digest), "")


def _restore_tokenizer(run: Run, session: Session) -> None:
    """Save the tokenizer again if one of its files differs from its checksum in train.json."""
    files = read_sealed(run.folder / "train.json", Trained).get("tokenizer", {})
    if not follows() and any(checksum(run.folder / name) != digest for name, digest in files.items()):
        from alttrain.backbone.weights import save_tokenizer

        log.warning("train     the tokenizer in %s is saved again: it is not what it was", run.trained)
        save_tokenizer(session.renderer.tokenizer, run.backbone, run.trained)


def writer(run: Run) -> str:
    """Return the checksums of a finished training, which identify its generations; "" if there are none."""
    path = run.folder / "train.json"
    files = read_sealed(path, Trained).get("files") if run.training.trains and path.exists() else None
    return json.dumps(files, sort_keys=True) if files else ""


def train(run: Run, session: Session) -> None:
    """Train from the last checkpoint, unless training is finished and its files are unchanged.

    If a file of a finished training changed, its generations are deleted and training starts again.
    """
    recipe = run.training
    if not recipe.trains:
        return
    if (run.folder / "train.json").exists():
        if not (name := spoiled(run)):
            _restore_tokenizer(run, session)
            return
        log.warning("train     is done again, and what is made with it: %s is not what it was", name)
        for path in run.folder.glob("evaluation/*/generations.jsonl"):
            path.unlink()
        (run.folder / "train.json").unlink()
    examples = read_rows(run.folder / "train.jsonl", Example)
    if not examples:
        raise RunError(
            f"{run.folder / 'train.jsonl'} is not there; run the rewrite stage first (stages=[rewrite,train])"
        )
    if len(examples) != (written := _rewritten(run).get("written", len(examples))):
        raise DamagedError(run.folder / "train.jsonl", f"has {len(examples)} rows, and rewrite.json says {written}")
    if "rewrite" not in run.stages:
        tell_edited(run)

    from alttrain.training.fit import fit

    rendered = session.renderer.render(examples)
    if recipe.objective.needs_key_sentence:
        rendered = session.renderer.mark(examples, rendered)
        if all(sequence.marks is None for sequence in rendered):
            raise RunError(NO_KEY_SENTENCE)
    sequences = [sequence for sequence in rendered if len(sequence) <= recipe.max_length]
    too_long = [sequence.id for sequence in rendered if len(sequence) > recipe.max_length]
    if not sequences:
        raise RunError(f"training.max_length={recipe.max_length}: every example is longer; raise it")
    for name in too_long:
        log.warning("train     left out %s: longer than training.max_length=%d", name, recipe.max_length)

    bfloat16 = str(session.dtype(run.hardware.precision)) == "torch.bfloat16"
    precision = "bfloat16" if bfloat16 else "float32"
    model = session.trainable(precision)
    log.info("train     %d examples, %d steps, %s", len(sequences), recipe.steps(len(sequences)), precision)
    progress = not follows() and on_terminal()
    with open_loggers(run, "training") as loggers:
        trained = fit(model, sequences, recipe, run.hardware, run.seed, run.folder, loggers, bfloat16, progress)
        if not trained.leads:
            return
        record = trained.record | {"left_out_too_long": too_long}
        record |= {"weights": session.weights.origin, "device": session.device}
        session.save(model, trained.weights, card(run.folder, record), run.trained)
        record |= {"files": _checksums(run, FILES), "tokenizer": _checksums(run, TOKENIZER)}
        write_sealed(run.folder / "train.json", record)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    log.info("train     %d steps in %.0f s, loss %s", record["steps"], record["seconds"], record["final_loss"])
    del model
    free()
