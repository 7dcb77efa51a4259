"""Stage train: train.jsonl -> adapter/ (or model/, where all weights are trained) and train.json.

Checkpoints stand in checkpoints/ until what was trained is saved.
"""

import json
import logging
import shutil
import time

from alttrain.backbone import LoRA
from alttrain.backbone.source import cache_folder
from alttrain.config import RunError
from alttrain.records import Example, read_rows, write_json
from alttrain.run.assembly import Run
from alttrain.run.progress import on_terminal
from alttrain.run.session import Session, free
from alttrain.training import SupervisedFineTuning
from alttrain.training.tokenised import tokenised

log = logging.getLogger(__name__)


def train(run: Run, session: Session) -> None:
    """Train from the last checkpoint, unless it is finished."""
    recipe = run.training
    if not isinstance(recipe, SupervisedFineTuning) or (run.folder / "train.json").exists():
        return
    examples = read_rows(run.folder / "train.jsonl", Example)
    if not examples:
        raise RunError(
            f"{run.folder / 'train.jsonl'} is not there; run the rewrite stage first (stages=[rewrite,train])"
        )
    rendered = tokenised(session.renderer, examples, cache_folder() / "tokenised")
    sequences = [sequence for sequence in rendered if len(sequence) <= recipe.max_length]
    too_long = [sequence.id for sequence in rendered if len(sequence) > recipe.max_length]
    if not sequences:
        raise RunError(f"training.max_length={recipe.max_length}: every example is longer; raise it")
    for name in too_long:
        log.warning("train     left out %s: longer than training.max_length=%d", name, recipe.max_length)

    from alttrain.training.fit import fit

    bfloat16 = str(session.dtype(run.hardware.precision)) == "torch.bfloat16"
    precision = "bfloat16" if bfloat16 else "float32"
    model = session.trainable(precision)
    log.info("train     %d examples, %d epochs, %s", len(sequences), recipe.epochs, precision)
    started = time.monotonic()
    logger = run.tracker.open(run.folder, run.name, run.config)
    try:
        record = fit(
            model, sequences, recipe, run.hardware, run.seed, run.folder, logger, bfloat16, progress=on_terminal()
        )
    finally:
        run.tracker.close()
    record |= {"left_out_too_long": too_long, "seconds": round(time.monotonic() - started, 1)}
    record |= {"weights": session.weights.origin, "device": session.device}
    session.save(model, model_card(run, record), run.trained)
    write_json(run.folder / "train.json", record)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    log.info("train     %d steps in %.0f s, loss %s", record["steps"], record["seconds"], record["final_loss"])
    del model
    free()


def model_card(run: Run, record: dict[str, object]) -> str:
    """The adapter's README.md, in the hub's format: base, data, structure, recipe, limits."""
    counts = json.loads((run.folder / "rewrite.json").read_text(encoding="utf-8"))
    labels = ", ".join(f"{count} {label}" for label, count in sorted(counts["labels"].items()))
    recipe = "\n".join(
        f"| {key} | {value} |" for key, value in run.config["training"].items() if not key.startswith("_")
    )
    lora = isinstance(run.adapter, LoRA)
    library, tag = ("peft", "lora") if lora else ("transformers", "full-fine-tuning")
    what = f"A LoRA adapter for {run.backbone.source}" if lora else f"{run.backbone.source}, fine-tuned whole"
    return f"""---
base_model: {run.backbone.source}
library_name: {library}
tags: [alttrain, safety, reasoning, {tag}]
---
# {run.name}

{what}, trained by alttrain with the reasoning structure `{run.structure.name}`.

- **Data**: dataset `{run.dataset.name}`, {counts["written"]} examples ({labels}).
- **Structure**: as `rewrite={run.structure.name}` writes it.
- **Training**: {record["steps"]} steps over {record["tokens"]} tokens in {record["precision"]}, seed {run.seed};
  final loss {record["final_loss"]}.
- **Chat template**: saved with the tokenizer here; it opens the thought that the adapter was trained to write.

| recipe | value |
|---|---|
{recipe}

## Limits

A refusal learned from examples is no guarantee: measure it on your own prompts, over-refusal and ability included.
It inherits what its base model knows and gets wrong.
"""
