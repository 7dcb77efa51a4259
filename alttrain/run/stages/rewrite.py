"""Stage rewrite: dataset and structure -> train.jsonl, what the model will see, and what says where it came from.

Writes, beside train.jsonl:
- originals.jsonl  every chosen row before the rewrite, with the trace and answer it started from
- held_out.jsonl   rows set aside, where the dataset sets some aside
- rejects.jsonl    rows that could not be used, with the reason
- review.md        twenty rows, old against new, for a person to read
- rewrite.json     the counts; written last, so its presence says the stage is done

Traces that the dataset lacks are asked of the backbone and kept in the cache, where any run that wants the same ones
finds them, or waits for the run that makes them. The cache key covers all prompts of the set: which prompts are decoded
together can change a bfloat16 result, so a set is taken from the cache whole or made anew.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from alttrain.backbone.source import cache_folder
from alttrain.config import RunError
from alttrain.dataset import Selection
from alttrain.evaluation.adherence import opening_understandings
from alttrain.evaluation.refusal import judge_refusal
from alttrain.generation import Decoding
from alttrain.generation.engines import Engine, Prompt, Written
from alttrain.records import Example, Rejected, Segment, alone, read_rows, write_json, write_rows, write_text
from alttrain.rewrite import (
    ANSWER_CUT,
    BackboneWriter,
    Desk,
    Original,
    SelfTrace,
    has_trace,
    outcome,
    render,
    with_original,
)
from alttrain.run.assembly import Run
from alttrain.run.progress import bar
from alttrain.run.session import Session, free
from alttrain.run.stages.review import review_sheet
from alttrain.serving import Failure

log = logging.getLogger(__name__)


def rewrite(run: Run, session: Session) -> None:
    """Write train.jsonl and what belongs to it, unless it is there."""
    if not run.training.trains or (run.folder / "rewrite.json").exists():
        return
    selection = run.dataset.select(run.seed, {benchmark.name: benchmark.prompts() for benchmark in run.benchmarks})
    teacher, understander = run.structure.teacher, run.structure.understander
    assessments, rejected = _written(
        run, session, "assessments", teacher.assess if teacher else None, selection.examples
    )
    traceless = [row for row in selection.examples if not row.thought]
    understandings, ununderstood = _written(
        run, session, "understandings", understander.understand if understander else None, traceless
    )
    rejected += [row for row in ununderstood if row.id in assessments or not teacher]
    unusable = {row.id for row in rejected}
    completed, unanswered, cut = _complete(run, session, [row for row in selection.examples if row.id not in unusable])
    rejected += unanswered
    rewritten: list[Example] = []
    for example in completed:
        made = run.structure.rewrite(example, run.seed, assessments.get(example.id), understandings.get(example.id))
        if isinstance(made, Rejected):
            rejected.append(made)
        else:
            rewritten.append(made)
    untrainable = [row.id for row in rewritten if not row.thought or not (row.answer or row.partial)]
    if untrainable or not rewritten:
        rows = (
            f" for {len(untrainable)} rows without thought or answer (first: {untrainable[0]})" if untrainable else ""
        )
        why = "".join(f"; {count} rows: {reason}" for reason, count in Counter(row.reason for row in rejected).items())
        raise RunError(
            f"rewrite={run.structure.name} leaves nothing to train on{rows}{why}; choose another rewrite, or "
            "method=no_train for the backbone as it is"
        )
    originals = {example.id: example for example in [*selection.examples, *completed]}  # the later ones have traces
    write_rows(run.folder / "originals.jsonl", originals.values())
    if selection.held_out:
        write_rows(run.folder / "held_out.jsonl", selection.held_out)
    if rejected:
        write_rows(run.folder / "rejects.jsonl", rejected)
    write_text(run.folder / "review.md", review_sheet(rewritten, originals, run.seed))
    write_rows(run.folder / "train.jsonl", rewritten)
    write_json(run.folder / "rewrite.json", _summary(run, selection, originals.values(), rewritten, rejected, cut))
    log.info("rewrite   %d examples, %d left out", len(rewritten), len(rejected))


def _summary(
    run: Run,
    selection: Selection,
    originals: Iterable[Example],
    rewritten: list[Example],
    rejected: list[Rejected],
    cut: list[str],
) -> dict[str, Any]:
    segments = [segment for example in rewritten for segment in example.thought]
    understandings = Counter(outcome(segment) for segment in segments if segment.step == "understanding")
    return {
        "read": len(selection.examples),
        "written": len(rewritten),
        "labels": dict(Counter(example.label for example in rewritten)),
        "categories": dict(sorted(Counter(example.category for example in rewritten).items())),
        "understandings": dict(understandings),
        "traces_opening_with_an_understanding": _openings(originals),
        "origins": dict(sorted(Counter(f"{segment.step} from {segment.origin}" for segment in segments).items())),
        "left_out": dict(Counter(row.reason for row in rejected)),
        "answers_cut": cut,
        "left_out_ids": [asdict(row) for row in rejected],
        "decontaminated_against": {benchmark.name: benchmark.rows.content() for benchmark in run.benchmarks},
        "selection": selection.report,
    }


def _openings(originals: Iterable[Example]) -> dict[str, Any] | None:
    """The paper's own analysis, on the traces that a reasoning backbone wrote; None where there is none."""
    found = opening_understandings(render(row.thought) for row in originals if has_trace(row))
    if not found.n:
        return None
    return {"count": found.count, "n": found.n, **found.share._asdict()}


Writing = Callable[[Sequence[Example], int, Desk], Iterator[tuple[str, Segment | Rejected]]]
"""A teacher's way to write one step of many examples."""


def _written(
    run: Run, session: Session, step: str, write: Writing | None, examples: Sequence[Example]
) -> tuple[dict[str, Segment], list[Rejected]]:
    """What a teacher writes for each example by id, and the examples it could not write a valid sentence for."""
    written: dict[str, Segment] = {}
    rejected: list[Rejected] = []
    if write is None or not examples:
        return written, rejected
    with bar(step, len(examples)) as advance, ExitStack() as engines:
        desk = Desk(cache_folder() / "replies", _asker(run, session, engines), _identity(run, session), advance)
        for name, found in write(examples, run.seed, desk):
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                written[name] = found
    return written, rejected


def _asker(run: Run, session: Session, engines: ExitStack) -> Callable[[list[str], int], list[str]]:
    """Puts prompts to the untrained backbone; its engine starts at the first one and ends with `engines`."""
    started: list[Engine] = []

    def ask(prompts: list[str], max_tokens: int) -> list[str]:
        if not started:
            started.append(engines.enter_context(session.engine(None)))
        mode = run.backbone.untrained_thought
        asked = [session.renderer.prompt_text(prompt, mode) for prompt in prompts]
        written = _write(session, started[0], asked, max_tokens)
        return [run.backbone.template.split(found.text, mode)[1] for found in written]

    return ask


def _write(
    session: Session,
    engine: Engine,
    texts: Sequence[str],
    max_tokens: int,
    advance: Callable[[int], None] | None = None,
) -> list[Written]:
    """What the engine writes to each text, greedily. Raises RunError where it does not answer one."""
    prompts = [Prompt(session.renderer.encode(text), text, str(number)) for number, text in enumerate(texts)]
    found = dict(engine.write(prompts, Decoding(max_tokens), advance or (lambda count: None)))
    written = [answer for number in range(len(prompts)) if isinstance(answer := found.get(number), Written)]
    if len(written) < len(prompts):
        failure = next((answer for answer in found.values() if isinstance(answer, Failure)), None)
        raise RunError(
            f"the backbone answered {len(written)} of {len(prompts)} prompts"
            + (f", because {failure.reason}" if failure else "")
            + "; the same command asks again"
        )
    return written


def _identity(run: Run, session: Session) -> str:
    """Who answers when the backbone is asked: replies are kept under it."""
    teachers = (run.structure.teacher, run.structure.understander)
    if not any(isinstance(getattr(teacher, "writer", None), BackboneWriter) for teacher in teachers):
        return ""
    return f"{run.backbone.name} {_digest(session.identity())}"


def _digest(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]


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
    origin = "trace:backbone" if run.backbone.untrained_thought == "open" else "backbone"
    completed, rejected, cut = [], [], []
    for example in examples:
        if example.id not in originals or example.label not in run.structure.continues:
            completed.append(example)
            continue
        original = originals[example.id]
        filled, reason = with_original(
            example, original, lambda answer: judge_refusal(answer)[0], recipe.keep_sentences, origin
        )
        if filled is None:
            rejected.append(Rejected(example.id, reason))
        else:
            completed.append(filled)
            cut += [example.id] if reason == ANSWER_CUT else []
    return completed, rejected, cut


def _originals(run: Run, session: Session, recipe: SelfTrace, examples: list[Example]) -> list[Original]:
    ordered = sorted(examples, key=lambda example: example.id)  # the seed's order does not change what is asked
    key = session.identity() | {
        "recipe": asdict(recipe),
        "prompts": [[example.id, example.prompt] for example in ordered],
    }
    cached = cache_folder() / "originals" / f"{run.backbone.name}-{_digest(key)}.jsonl"
    with alone(cached):
        if not cached.exists():
            write_rows(cached, _ask(run, session, recipe, ordered))
    return read_rows(cached, Original)


def _ask(run: Run, session: Session, recipe: SelfTrace, examples: list[Example]) -> list[Original]:
    """Generate what the backbone itself writes for each prompt."""
    log.info("rewrite   asking the backbone for %d original traces and answers", len(examples))
    mode = run.backbone.untrained_thought
    texts = [session.renderer.prompt_text(example.prompt, mode, system=recipe.system_prompt) for example in examples]
    with bar("originals", len(examples)) as advance, session.engine(None) as engine:
        written = _write(session, engine, texts, recipe.tokens, advance)
    made = []
    for example, found in zip(examples, written, strict=True):
        thought, answer, closed = run.backbone.template.split(found.text, mode)
        trace = thought if mode == "open" else recipe.trace(answer)
        made.append(Original(example.id, trace, answer, closed and found.finish == "stop"))
    free()
    return made
