"""Stage train: train.jsonl -> adapter/ (or model/, if all weights are trained) and train.json.

checkpoints/ holds checkpoints until the trained weights are saved.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

from alttrain import records, tokenization
from alttrain.config import RunError
from alttrain.dataset.sources import embedded_rows
from alttrain.generation.engine import Decoding, Prompt
from alttrain.records import DamagedError, Example, RewriteDocument, TrainDocument, checksum
from alttrain.report.card import card
from alttrain.run.assembly import Run
from alttrain.run.folder import BEGUN_FILE, record_weights, write_config
from alttrain.run.loggers import open_loggers
from alttrain.run.progress import bar
from alttrain.run.session import Session, free_memory
from alttrain.training.distributed import is_follower

log = logging.getLogger(__name__)

NAMED = 5  # number of rows named in one message; the others are counted
SAMPLES = 3
SAMPLED = Decoding(256)
"""How many prompts a model in training answers, and how: greedily, with at most so many tokens."""
WEIGHTS = ("adapter/adapter_config.json", "model/config.json", "adapter/*.safetensors", "model/*.safetensors")
TOKENIZER = ("*/tokenizer*", "*/special_tokens_map.json", "*/chat_template.jinja")
"""Files whose checksums train.json holds: the first and train.jsonl as `files`, the others as `tokenizer`."""


def train(run: Run, session: Session) -> None:
    """Train from the last checkpoint, unless training is finished and its files are unchanged.

    If a file of a finished training changed, training starts again. A training that starts deletes all generations,
    which are of an earlier one. A changed tokenizer is only saved again.
    """
    recipe, finished = run.training, run.folder / "train.json"
    if not recipe.trains:
        return
    if finished.exists():
        if not (names := changed_files(run, "files")):
            if not is_follower() and changed_files(run, "tokenizer"):
                from alttrain.backbone.weights import save_tokenizer

                log.warning("train     the tokenizer in %s is saved again: it is not what it was", run.trained_folder)
                save_tokenizer(session.renderer.tokenizer, run.backbone, run.trained_folder)
            return
        log.warning("train     is done again, and what is made with it: %s is not what it was", names[0])
        if not is_follower():
            write_config(run)
    elif texts := sorted(run.folder.glob("evaluation/*/generations.jsonl")):
        log.warning("train     drops %s and other texts of an earlier training", texts[0])
    for path in run.folder.glob("evaluation/*/generations.jsonl"):
        path.unlink(missing_ok=True)
    for path in run.folder.glob(f"evaluation/*/{BEGUN_FILE}"):  # made from the generations
        path.with_name("fingerprint.json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    finished.unlink(missing_ok=True)

    rows = run.folder / "train.jsonl"
    trained_on, examples = checksum(rows), records.read_rows(rows, Example)
    if not examples:
        raise RunError(f"{rows} is not there; run the rewrite stage first (stages=[rewrite,train])")
    written = records.read_if_there(run.folder / "rewrite.json", RewriteDocument).get("written", len(examples))
    if len(examples) != written:
        raise DamagedError(rows, f"has {len(examples)} rows, and rewrite.json says {written}")
    if "rewrite" not in run.stages:
        warn_edited(run)
    sequences, too_long = tokenize_examples(run, session.renderer, examples)
    for name in too_long:
        log.warning("train     left out %s: longer than training.max_length=%d", name, recipe.max_length)

    from alttrain.backbone.weights import save_trained
    from alttrain.training.fit import fit

    bfloat16 = str(session.dtype(run.hardware.precision)) == "torch.bfloat16"
    precision = "bfloat16" if bfloat16 else "float32"
    device = None
    if run.hardware.sharded:  # no device may hold it whole: the leader loads it, and sends the others their shards
        device = "meta" if is_follower() else "cpu"
    record_weights(run, session.weights)
    base = session.weights.identity
    model = session.model(run.adapter.precision(precision), run.backbone.attention, device, purpose="training")
    model = run.adapter.attach(model, run.seed)
    log.info("train     %d examples, %d steps, %s", len(sequences), recipe.steps(len(sequences)), precision)
    with open_loggers(run, "training") as loggers:
        bars = None if is_follower() else bar
        samples = partial(_sample, run, session, model, loggers) if run.hardware.samples_every else None
        trained = fit(
            model, sequences, recipe, run.hardware, run.seed, run.folder, loggers, bfloat16, bars, samples, base
        )
        if is_follower():
            return
        record = trained.record | {"left_out_too_long": too_long}
        record |= {"weights": base, "device": session.device}
        model_card = card(run.folder, record)
        shutil.rmtree(run.trained_folder, ignore_errors=True)
        save_trained(model, trained.weights, session.renderer.tokenizer, run.backbone, model_card, run.trained_folder)
        files = {rows.name: trained_on, **_checksums(run, WEIGHTS)}  # the rows may have been edited meanwhile
        record |= {"files": files, "tokenizer": _checksums(run, TOKENIZER)}
        records.write_sealed(finished, record)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    log.info("train     %d steps in %.0f s, loss %s", record["steps"], record["seconds"], record["final_loss"])
    del model
    free_memory()


def _sample(run: Run, session: Session, model: Any, loggers: Sequence[Any], step: int) -> None:
    """Let the model in training answer a few harmless prompts greedily, and log what it writes.

    logs/samples.jsonl gets a row for each prompt. A resumed training may write a step's rows again.
    """
    import torch

    from alttrain.generation.decoder import Decoder
    from alttrain.training.module import causal_lm

    renderer = session.renderer
    rows = embedded_rows("development_benign", SAMPLES).examples(None)
    texts = [renderer.prompt_text(row.prompt, run.training.thought) for row in rows]
    prompts = [Prompt(renderer.encode(text), text, row.id) for text, row in zip(texts, rows, strict=True)]
    decoder = Decoder(causal_lm(model), renderer.end_id, SAMPLES, session.device)
    with torch.compiler.set_stance("force_eager"):  # layers compiled to train would compile again for each new length
        outputs = decoder.generate(prompts, SAMPLED)
    samples = [
        {"step": step, "id": row.id, "prompt": row.prompt, "text": renderer.decode(ids)}
        for row, ids in zip(rows, outputs, strict=True)
    ]
    path = run.folder / "logs" / "samples.jsonl"
    path.parent.mkdir(exist_ok=True)
    records.append(path, "".join(f"{json.dumps(row)}\n" for row in samples).encode())
    if run.texts != "none":
        for logger in loggers:
            logger.log_table("training", list(samples[0]), [list(row.values()) for row in samples])


def tokenize_examples(
    run: Run, renderer: tokenization.Renderer, examples: Sequence[Example]
) -> tuple[list[tokenization.Sequence], list[str]]:
    """Return the sequences to train on, and the ids of the examples that are too long.

    Raises RunError if all are too long, if some do not satisfy `Renderer.problems`, or if the objective needs a key
    sentence and none has one.
    """
    recipe = run.training
    assert recipe.trains
    sequences, too_long = renderer.sequences(examples, recipe.max_length)
    if not sequences:
        raise RunError(f"training.max_length={recipe.max_length}: every example is longer; raise it")
    by_id = {example.id: example for example in examples}
    wrong = [f"  row {s.id}: {problems[0]}" for s in sequences if (problems := renderer.problems(s, by_id[s.id]))]
    if wrong:
        more = [f"  and {len(wrong) - NAMED} more"] if len(wrong) > NAMED else []
        head = f"{len(wrong)} of {len(sequences)} rows would not be trained as they are prompted:"
        leave = f"delete their lines in {run.folder / 'train.jsonl'}" if run.is_rewritten else "leave these rows out"
        remedy = f"{leave}, or choose the backbone/template of this backbone's family"
        raise RunError("\n".join([head, *wrong[:NAMED], *more, remedy]))
    if recipe.objective.needs_key_sentence:
        longer = set(too_long)
        sequences = renderer.mark([example for example in examples if example.id not in longer], sequences)
        if all(sequence.marks is None for sequence in sequences):
            raise RunError("training/objective=safekey: no row has a key sentence; choose dataset=safekey, or response")
    return sequences, too_long


def warn_edited(run: Run) -> None:
    """Warn about each file of rows that changed since the rewrite stage wrote it. Changed rows are used."""
    for name, digest in records.read_if_there(run.folder / "rewrite.json", RewriteDocument).get("files", {}).items():
        if checksum(path := run.folder / name) not in (digest, None):
            log.warning("rewrite   %s is not what was written; delete rewrite.json to have it written again", path)


def check_precision(run: Run) -> None:
    """Raise RunError if a precision is asked for that is not the one of a finished training."""
    trained = records.read_if_there(run.folder / "train.json", TrainDocument).get("precision")
    if trained and run.hardware.precision not in ("auto", trained):
        raise RunError(
            f"trainer.precision={run.hardware.precision}: {run.folder} was trained in {trained}; set it back, or use "
            "tag=NAME for a new run"
        )


def changed_files(run: Run, kind: Literal["files", "tokenizer"]) -> list[str]:
    """Return the files of a finished training that differ from their checksums in train.json."""
    files = records.read_document(run.folder / "train.json", TrainDocument)[kind]
    return [name for name, digest in files.items() if checksum(run.folder / name) != digest]


def training_checksums(run: Run) -> str:
    """Return the checksums of a finished training, which identify its generations; "" if there are none."""
    record = records.read_if_there(run.folder / "train.json", TrainDocument) if run.training.trains else {}
    return json.dumps(record["files"], sort_keys=True) if record else ""


def _checksums(run: Run, patterns: Iterable[str]) -> dict[str, str | None]:
    paths = sorted(path for pattern in patterns for path in run.folder.glob(pattern))
    return {path.relative_to(run.folder).as_posix(): checksum(path) for path in paths}
