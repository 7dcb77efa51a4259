"""Stage rewrite: dataset and structure -> train.jsonl, what the model will see, and rewrite.json, the counts.

Originals that the dataset lacks are asked of the backbone, kept in originals.jsonl and in the cache, where any run
that wants the same ones finds them. The cache key covers all prompts of the set: which prompts are decoded together
can change a bfloat16 result, so a set is taken from the cache whole or made anew.
"""

import hashlib
import json
import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

from alttrain.backbone.source import cache_folder
from alttrain.config import RunError
from alttrain.evaluation.refusal import judge_refusal
from alttrain.records import Example, Rejected, read_rows, write_json, write_rows
from alttrain.rewrite import ANSWER_CUT, Original, SelfTrace, with_original
from alttrain.run.assembly import Run
from alttrain.run.progress import bar
from alttrain.run.session import Session, free

log = logging.getLogger(__name__)


def rewrite(run: Run, session: Session) -> None:
    """Write train.jsonl and rewrite.json, unless they are there."""
    if not run.training.trains or (run.folder / "rewrite.json").exists():
        return
    examples = run.dataset.examples(run.seed)
    completed, rejected, cut = _complete(run, session, examples)
    rewritten: list[Example] = []
    for example in completed:
        made = run.structure.rewrite(example, run.seed)
        if isinstance(made, Rejected):
            rejected.append(made)
        else:
            rewritten.append(made)
    untrainable = [example.id for example in rewritten if not example.thought or not example.answer]
    if untrainable or not rewritten:
        raise RunError(
            f"rewrite={run.structure.name} leaves nothing to train on"
            + (
                f" for {len(untrainable)} rows without thought or answer (first: {untrainable[0]})"
                if untrainable
                else ""
            )
            + "; choose another rewrite, or method=no_train for the backbone as it is"
        )
    write_rows(run.folder / "train.jsonl", rewritten)
    write_json(run.folder / "rewrite.json", _summary(examples, rewritten, rejected, cut))
    log.info("rewrite   %d examples, %d left out", len(rewritten), len(rejected))


def _summary(
    examples: list[Example], rewritten: list[Example], rejected: list[Rejected], cut: list[str]
) -> dict[str, Any]:
    return {
        "read": len(examples),
        "written": len(rewritten),
        "labels": dict(Counter(example.label for example in rewritten)),
        "categories": dict(sorted(Counter(example.category for example in rewritten).items())),
        "left_out": dict(Counter(row.reason for row in rejected)),
        "answers_cut": cut,
        "left_out_ids": [asdict(row) for row in rejected],
    }


def _complete(run: Run, session: Session, examples: list[Example]) -> tuple[list[Example], list[Rejected], list[str]]:
    """The examples with originals where the structure reasons on, those the backbone gave no usable one for, and the
    ids of those whose answer was cut."""
    lacking = [example for example in examples if example.label in run.structure.continues and not example.thought]
    if not lacking:
        return examples, [], []
    recipe = run.structure.original
    if recipe is None:
        raise RunError(
            f"rewrite={run.structure.name}: {len(lacking)} examples have no trace and rewrite.original is not set"
        )
    originals = {original.id: original for original in _originals(run, session, recipe, lacking)}
    completed, rejected, cut = [], [], []
    for example in examples:
        if example.id not in originals or example.label not in run.structure.continues:
            completed.append(example)
            continue
        original = originals[example.id]
        filled, reason = with_original(
            example, original, lambda answer: judge_refusal(answer)[0], recipe.keep_sentences
        )
        if filled is None:
            rejected.append(Rejected(example.id, reason))
        else:
            completed.append(filled)
            cut += [example.id] if reason == ANSWER_CUT else []
    return completed, rejected, cut


def _originals(run: Run, session: Session, recipe: SelfTrace, examples: list[Example]) -> list[Original]:
    ordered = sorted(examples, key=lambda example: example.id)  # the seed's order does not change what is asked
    key = {
        "origin": session.weights.origin,
        "backbone": asdict(run.backbone),
        "recipe": asdict(recipe),
        "dtype": str(session.dtype(run.generation.dtype)),
        "slots": run.generation.slots,
        "prompts": [[example.id, example.prompt] for example in ordered],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    cached = cache_folder() / "originals" / f"{run.backbone.name}-{digest}.jsonl"
    if not cached.exists():
        write_rows(cached, _ask(run, session, recipe, ordered))
    originals = read_rows(cached, Original)
    write_rows(run.folder / "originals.jsonl", originals)
    return originals


def _ask(run: Run, session: Session, recipe: SelfTrace, examples: list[Example]) -> list[Original]:
    """Generate what the backbone itself writes for each prompt."""
    decoder = session.decoder(run.generation, adapter=None)
    renderer = session.renderer
    log.info("rewrite   asking the backbone for %d original traces and answers", len(examples))
    mode = run.backbone.untrained_thought
    prompts = [renderer.prompt(example.prompt, mode, system=recipe.system_prompt) for example in examples]
    with bar("originals", len(examples)) as advance:
        written = decoder.generate(prompts, recipe.tokens, advance)
    made = []
    for example, ids in zip(examples, written, strict=True):
        thought, answer, closed = run.backbone.template.split(renderer.decode(ids), mode)
        trace = thought if mode == "open" else recipe.trace(answer)
        made.append(Original(example.id, trace, answer, closed and ids[-1] == renderer.end_id))
    del decoder
    free()
    return made
