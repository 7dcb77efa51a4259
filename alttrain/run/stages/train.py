"""Stage train: train.jsonl -> adapter/ (or model/, where all weights are trained) and train.json.

Checkpoints stand in checkpoints/ until what was trained is saved.
"""

import logging
import shutil

from alttrain.backbone.source import cache_folder
from alttrain.config import RunError
from alttrain.records import (
    DamagedError,
    Example,
    Rewritten,
    Trained,
    checksum,
    kept_json,
    read_json,
    read_rows,
    write_json,
)
from alttrain.report.card import card
from alttrain.run.assembly import Run
from alttrain.run.loggers import open_loggers
from alttrain.run.progress import on_terminal
from alttrain.run.session import Session, free
from alttrain.training import SafeKeyLoss, SupervisedFineTuning
from alttrain.training.distributed import follows

log = logging.getLogger(__name__)

NO_KEY_SENTENCE = "training/objective=safekey: no row has a key sentence; choose dataset=safekey, or response"


FILES = ("train.jsonl", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
"""The files whose checksums train.json holds: the rows, and the adapter where there is one."""


def spoiled(run: Run) -> str:
    """The first file of a finished training that is another than train.json says; "" where none is."""
    files = read_json(run.folder / "train.json", Trained).get("files", {})  # an older version wrote none
    return next((name for name, digest in files.items() if checksum(run.folder / name) != digest), "")


def train(run: Run, session: Session) -> None:
    """Train from the last checkpoint, unless it is finished and its rows and adapter are what they were.

    What was generated with a spoiled adapter, or with one of other rows, goes with it.
    """
    recipe = run.training
    if not isinstance(recipe, SupervisedFineTuning):
        return
    if (run.folder / "train.json").exists():
        if not (name := spoiled(run)):
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
    written = (kept_json(run.folder / "rewrite.json", Rewritten) or {}).get("written", len(examples))
    if len(examples) != written:
        raise DamagedError(run.folder / "train.jsonl", f"has {len(examples)} rows, and rewrite.json says {written}")

    from alttrain.training.data import tokenized
    from alttrain.training.fit import fit

    rendered = tokenized(session.renderer, examples, cache_folder() / "tokenised")
    if isinstance(recipe.objective, SafeKeyLoss):
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
        write_json(run.folder / "train.json", record | {"files": {name: checksum(run.folder / name) for name in FILES}})
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    log.info("train     %d steps in %.0f s, loss %s", record["steps"], record["seconds"], record["final_loss"])
    del model
    free()
