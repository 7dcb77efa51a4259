"""Stage rewrite: dataset and structure -> train.jsonl, the rows to train on, and files that document their origin.

- originals.jsonl  every selected row before the rewrite, with its original trace and answer
- held_out.jsonl   rows set aside, if the dataset does so
- rejects.jsonl    rows that could not be used, with the reason
- review.md        twenty rows, old and new, for a person to read
- rewrite.json     counts and checksums of the rows; written last, so its presence marks the stage as done

If the dataset lacks traces, the backbone generates them. They are stored in a cache that all runs share; a lock makes a
run wait for another that generates the same ones. The cache key covers all prompts of the set, and only whole chunks
are kept, because in bfloat16 a result can depend on which prompts are decoded together.

If a label loses a larger share of its rows than the structure's `may_lose`, the run stops. Otherwise it would silently
train on the other labels.
"""

import hashlib
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from alttrain.backbone.source import cache_folder
from alttrain.config import RunError
from alttrain.dataset import Selection
from alttrain.dataset.selection import stratified
from alttrain.english.refusal import judge_refusal
from alttrain.evaluation import JudgeContext
from alttrain.evaluation.judges import NO_REPLY
from alttrain.evaluation.statistics import rate
from alttrain.generation import Decoding
from alttrain.generation.engine import Engine, Prompt, Written
from alttrain.llm import NEARLY_ALL, Failure
from alttrain.records import (
    DamagedError,
    Example,
    Generation,
    Rejected,
    Segment,
    alone,
    append_rows,
    checksum,
    from_cache,
    read_rows,
    repair_rows,
    seal,
    write_rows,
    write_sealed,
    write_text,
)
from alttrain.rewrite import (
    ANSWER_CUT,
    CUT,
    THOUGHT_CUT,
    AskedTeacher,
    BackboneWriter,
    Original,
    SelfTrace,
    Teacher,
    TeacherContext,
    has_trace,
    lacks_original,
    outcome,
    read,
    render,
    with_original,
)
from alttrain.rewrite.structures import Guard
from alttrain.rewrite.teachers.sentences import DISAGREES
from alttrain.run.assembly import Run
from alttrain.run.progress import bar
from alttrain.run.session import Session, free
from alttrain.run.stages.needs import tokens_key
from alttrain.run.stages.train import tell_edited

log = logging.getLogger(__name__)

UNSAFE = "the guard calls it unsafe"
REVIEWED = 20
SHOWN = 1500
"""Maximum characters shown of an old thought or a segment. originals.jsonl and train.jsonl have the whole text."""
QUESTIONS = (
    "the understanding says what the user wants",
    "the assessment is right, and about the request",
    "what follows does as the assessment says",
    "the answer fits the thought",
)


def rewrite(run: Run, session: Session) -> None:
    """Write train.jsonl and the files that document it, unless they exist."""
    if not run.training.trains:
        return
    if all((run.folder / name).exists() for name in ("train.jsonl", "rewrite.json")):
        tell_edited(run)
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
    _refuse_losses_here(run, selection.examples, rejected)
    unusable = {row.id for row in rejected}
    originals = _Originals(run, session)
    completed = originals.fill([row for row in selection.examples if row.id not in unusable])
    rejected += originals.rejected
    rewritten: list[Example] = []
    for example in completed:
        made = run.structure.rewrite(example, run.seed, assessments.get(example.id), understandings.get(example.id))
        if isinstance(made, Rejected):
            rejected.append(made)
        else:
            rewritten.append(made)
    _refuse_losses_here(run, selection.examples, rejected)
    untrainable = [row.id for row in rewritten if row.shape == "prompt_only"]
    if untrainable or not rewritten:
        rows = (
            f" for {len(untrainable)} rows without thought or answer (first: {untrainable[0]})" if untrainable else ""
        )
        why = "".join(f"; {count} rows: {reason}" for reason, count in Counter(row.reason for row in rejected).items())
        raise RunError(
            f"rewrite={run.structure.name} leaves nothing to train on{rows}{why}; choose another rewrite, or "
            "method=no_train for the backbone as it is"
        )
    before = {example.id: example for example in [*selection.examples, *completed]}  # later ones have traces
    write_rows(run.folder / "originals.jsonl", before.values())
    if selection.held_out:
        write_rows(run.folder / "held_out.jsonl", selection.held_out)
    write_text(run.folder / "review.md", review_sheet(rewritten, before, run.seed))
    write_rows(run.folder / "train.jsonl", rewritten)
    summary = _summary(run, selection, before.values(), rewritten, rejected)
    summary |= {"answers_cut": originals.cut, "originals": originals.counts, "guard": originals.guarded}
    summary |= {"blind": _disagreement(teacher, selection.examples, assessments, rejected)}
    written = [
        run.folder / f"{name}.jsonl" for name in ("train", "originals", *["held_out"] * bool(selection.held_out))
    ]
    files = {path.name: checksum(path) for path in written}
    write_sealed(run.folder / "rewrite.json", summary | {"files": files})
    log.info("rewrite   %d examples, %d left out", len(rewritten), len(rejected))


def _summary(
    run: Run,
    selection: Selection,
    originals: Iterable[Example],
    rewritten: list[Example],
    rejected: list[Rejected],
) -> dict[str, Any]:
    segments = [segment for example in rewritten for segment in example.thought]
    understandings = Counter(outcome(segment) for segment in segments if segment.step == "understanding")
    return {
        "read": len(selection.examples),
        "written": len(rewritten),
        "labels": dict(Counter(example.label for example in rewritten)),
        "shapes": dict(sorted(Counter(example.shape for example in rewritten).items())),
        "categories": dict(sorted(Counter(example.category for example in rewritten).items())),
        "understandings": dict(understandings),
        "traces_opening_with_an_understanding": _openings(originals),
        "origins": dict(sorted(Counter(f"{segment.step} from {segment.origin}" for segment in segments).items())),
        "left_out": dict(Counter(row.reason for row in rejected)),
        "left_out_ids": [asdict(row) for row in rejected],
        "decontaminated_against": {benchmark.name: benchmark.content for benchmark in run.benchmarks},
        "selection": selection.report,
    }


def refuse_losses(run: Run, chosen: Sequence[Example], rejected: Sequence[Rejected]) -> None:
    """Raise RunError, with reasons and remedies, if a label lost a larger share of its rows than is allowed."""
    label_of = {row.id: row.label for row in chosen}
    lines = []
    for label, total in Counter(label_of.values()).items():
        reasons = Counter(row.reason for row in rejected if label_of[row.id] == label)
        if (lost := reasons.total()) > run.structure.may_lose * total:
            lines += [f"  {lost} of {total} {label} rows:", *(f"    {n}: {why}" for why, n in reasons.most_common())]
            lines += [f"    {remedy}" for remedy in dict.fromkeys(_remedy(run, reason) for reason in reasons)]
    if lines:
        allowed = f"rewrite.may_lose={run.structure.may_lose:g}"
        head = f"rewrite={run.structure.name} leaves out a larger share of a label's rows than {allowed}:"
        raise RunError("\n".join([head, *lines, "or set rewrite.may_lose=1 to train on what is left"]))


def _refuse_losses_here(run: Run, chosen: Sequence[Example], rejected: Sequence[Rejected]) -> None:
    """Write rejects.jsonl, then call `refuse_losses`."""
    path = run.folder / "rejects.jsonl"
    path.unlink(missing_ok=True)
    if rejected:
        write_rows(path, rejected)
    refuse_losses(run, chosen, rejected)


def _remedy(run: Run, reason: str) -> str:
    recipe = run.structure.original
    if reason.endswith(DISAGREES):
        return "-> choose another teacher, or tell it the label (teacher.tell_label=true)"
    if reason.startswith(("assessment: ", "understanding: ")):
        return "-> choose a teacher that follows the instruction better, or raise teacher.repairs"
    if reason == UNSAFE:
        return "-> look at what the guard calls unsafe in rejects.jsonl, or choose another rewrite.guard"
    if recipe is not None and reason in (THOUGHT_CUT, CUT):
        return f"-> raise {tokens_key(run)}={recipe.tokens}"
    if recipe is not None and "the backbone" in reason:
        return "-> choose prompts that this backbone answers, or a data set with traces of its own"
    return "-> choose the data set that belongs to this rewrite, or a rewrite that takes such rows"


def _disagreement(
    teacher: Teacher | None, chosen: Sequence[Example], assessed: Container[str], rejected: Sequence[Rejected]
) -> dict[str, Any] | None:
    """Return how often a teacher that was not told the label disagreed with it, by label; None for other teachers."""
    if not isinstance(teacher, AskedTeacher) or teacher.tell_label:
        return None
    against = {row.id for row in rejected if row.reason.endswith(DISAGREES)}
    told: dict[str, Any] = {}
    for label in dict.fromkeys(row.label for row in chosen):
        asked = [row.id for row in chosen if row.label == label]
        disagreed, agreed = len(against.intersection(asked)), sum(name in assessed for name in asked)
        share = rate(disagreed, disagreed + agreed)._asdict() if disagreed + agreed else None
        told[label] = {"asked": len(asked), "agreed": agreed, "disagreed": disagreed, "disagreement": share}
    return told


def _openings(originals: Iterable[Example]) -> dict[str, Any] | None:
    """Return how many of the backbone's reasoning traces open with an understanding; None without traces.

    This is the paper's analysis (985 of 1,000): a trace's first paragraph, up to a blank line, has an understanding.
    """
    found = [read(render(row.thought)).opening for row in originals if has_trace(row)]
    if not found:
        return None
    return {"count": sum(found), "n": len(found), **rate(sum(found), len(found))._asdict()}


Writing = Callable[[Sequence[Example], int, TeacherContext], Iterator[tuple[str, Segment | Rejected]]]
"""A teacher's function that writes one step for many examples."""


def _written(
    run: Run, session: Session, step: str, write: Writing | None, examples: Sequence[Example]
) -> tuple[dict[str, Segment], list[Rejected]]:
    """Return what a teacher writes, by example id, and the examples for which it wrote no valid sentence."""
    written: dict[str, Segment] = {}
    rejected: list[Rejected] = []
    if write is None or not examples:
        return written, rejected
    with bar(step, len(examples)) as advance, ExitStack() as engines:
        ask = _asker(run, session, engines)
        context = TeacherContext(cache_folder() / "replies", ask, _identity(run, session), advance)
        for name, found in write(examples, run.seed, context):
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                written[name] = found
    return written, rejected


def _asker(run: Run, session: Session, engines: ExitStack) -> Callable[[list[str], int], list[str]]:
    """Return a function that sends prompts to the untrained backbone.

    Its engine starts on the first call and stops with `engines`.
    """
    started: list[Engine] = []

    def ask(prompts: list[str], max_tokens: int) -> list[str]:
        if not started:
            started.append(engines.enter_context(session.engine(None)))
        mode = run.backbone.untrained_thought
        asked = [session.renderer.prompt_text(prompt, mode) for prompt in prompts]
        written = _write(session, started[0], asked, Decoding(max_tokens))
        return [run.backbone.template.split(found.text, mode)[1] for found in written]

    return ask


def _write(
    session: Session,
    engine: Engine,
    texts: Sequence[str],
    decoding: Decoding,
    advance: Callable[[int], None] | None = None,
    names: Sequence[str] | None = None,
) -> list[Written]:
    """Return what the engine writes for each text, in order. Sampling depends on the text's name.

    Raises RunError if a text has no answer.
    """
    names = names or [str(number) for number in range(len(texts))]
    prompts = [Prompt(session.renderer.encode(text), text, name) for text, name in zip(texts, names, strict=True)]
    found = dict(engine.generate(prompts, decoding, advance or (lambda count: None)))
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
    """Return the backbone's identity for the keys of its cached replies; "" if no teacher uses it."""
    teachers = (run.structure.teacher, run.structure.understander)
    if not any(isinstance(getattr(teacher, "writer", None), BackboneWriter) for teacher in teachers):
        return ""
    return f"{run.backbone.name} {_digest(session.identity())}"


def _digest(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]


class _Originals:
    """Fills in the traces and answers that the backbone generates; holds rejected rows and counts."""

    def __init__(self, run: Run, session: Session) -> None:
        self.run, self.session = run, session
        self.rejected: list[Rejected] = []
        self.cut: list[str] = []
        self.counts: dict[str, dict[str, int]] | None = None
        self.guarded: dict[str, dict[str, int]] | None = None

    def fill(self, examples: list[Example]) -> list[Example]:
        """Return the examples, with originals where the structure needs them. Drops those without a usable one."""
        run, structure = self.run, self.run.structure
        lacking = [example for example in examples if lacks_original(structure, example)]
        if not lacking:
            return examples
        recipe = structure.original
        if recipe is None:
            raise RunError(
                f"rewrite={structure.name}: {len(lacking)} examples have no trace and rewrite.original is not set"
            )
        originals = {original.id: original for original in _originals(run, self.session, recipe, lacking)}
        self._count(lacking, originals)
        origin = "trace:backbone" if run.backbone.untrained_thought == "open" else "backbone"
        filled: dict[str, Example] = {}
        for example in lacking:
            sorts = example.label == "benign" and not recipe.keep_refusals
            made, reason = with_original(
                example, originals[example.id], judge_refusal if sorts else _unasked, recipe.keep_sentences, origin
            )
            if made is None:
                self.rejected.append(Rejected(example.id, reason))
                continue
            filled[example.id] = made
            self.cut += [example.id] if reason == ANSWER_CUT else []
        if structure.guard is not None:
            self._guard(structure.guard, filled)
        asked = {example.id for example in lacking}
        return [filled.get(row.id, row) for row in examples if row.id in filled or row.id not in asked]

    def _count(self, asked: Sequence[Example], originals: Mapping[str, Original]) -> None:
        """Count by label: prompts, thoughts that exceed the token limit, and answers that do."""
        self.counts = {}
        for label in dict.fromkeys(row.label for row in asked):
            own = [originals[row.id] for row in asked if row.label == label]
            unclosed = sum(not original.closed for original in own)
            unended = sum(original.closed and not original.ended for original in own)
            self.counts[label] = {"asked": len(own), "unclosed_thoughts": unclosed, "unended_answers": unended}

    def _guard(self, guard: Guard, filled: dict[str, Example]) -> None:
        """Remove the rows whose whole response the guard calls unsafe. Raises RunError if the guard does not reply."""
        template, rows = self.run.backbone.template, []
        for row in filled.values():
            whole = f"{template.think_open}{render(row.thought)}{template.think_close}{row.answer}"
            rows.append(
                Generation(row.id, row.prompt, row.label, row.category, (), whole, "", whole, True, "stop", 0, 0)
            )
        with bar(guard.name, len(rows)) as advance:
            context = JudgeContext(cache_folder() / "replies", self.session.scorer, advance)
            verdicts = {judged.id: judged for judged in guard.judge(rows, context)}
        self.session.let_scorer_go()
        failed = [judged.error for judged in verdicts.values() if judged.error]
        silent = next((error for error in failed if error.startswith(NO_REPLY)), "")
        if silent or (failed and len(failed) >= NEARLY_ALL * len(verdicts)):
            told = f"{len(failed)} of {len(verdicts)} judgements failed ({silent or failed[0]})"
            raise RunError(f"rewrite.guard={guard.name}: {told}; the same command asks again")
        self.guarded = {row.label: {"kept": 0, "unsafe": 0, "undecided": 0} for row in filled.values()}
        for name, row in list(filled.items()):
            verdict, counts = verdicts[name].verdict, self.guarded[row.label]
            counts["unsafe" if verdict else "kept"] += 1
            counts["undecided"] += verdict is None
            if verdict:
                self.rejected.append(Rejected(name, UNSAFE))
                del filled[name]


def _unasked(answer: str, prompt: str) -> None:
    """Return no verdict, for rows whose refusals are kept."""


def _originals(run: Run, session: Session, recipe: SelfTrace, examples: list[Example]) -> list[Original]:
    ordered = sorted(examples, key=lambda example: example.id)  # the seed must not change the cache key
    key = session.identity() | {
        "recipe": asdict(recipe),
        "prompts": [[example.id, recipe.asked(example)] for example in ordered],
    }
    cached = cache_folder() / "originals" / f"{run.backbone.name}-{_digest(key)}.jsonl"
    begun = cached.with_suffix(".begun")

    def read(path: Path) -> list[Original]:
        rows = read_rows(path, Original)
        if [row.id for row in rows] != [example.id for example in ordered]:
            raise DamagedError(path, "has not a row for each prompt")
        return rows

    with alone(cached):
        if (found := from_cache(cached, read)) is None:
            _ask(run, session, recipe, ordered, begun)
            os.replace(begun, cached)
            seal(cached)
            found = read(cached)
    return found


def _ask(run: Run, session: Session, recipe: SelfTrace, examples: Sequence[Example], path: Path) -> None:
    """Write the backbone's own output for each prompt, chunk by chunk. Whole chunks that exist are kept."""
    size, mode = recipe.chunk or len(examples), run.backbone.untrained_thought
    repair_rows(path)
    kept = read_rows(path, Original)
    done = sum(1 for _ in takewhile(lambda pair: pair[0].id == pair[1].id, zip(kept, examples, strict=False)))
    done -= done % size
    write_rows(path, kept[:done])
    log.info("rewrite   asking the backbone for %d original traces and answers", len(examples) - done)
    decoding = Decoding(recipe.tokens, recipe.temperature, recipe.top_p, top_k=recipe.top_k)
    with bar("originals", len(examples) - done) as advance, session.engine(None) as engine:
        for start in range(done, len(examples), size):
            chunk = examples[start : start + size]
            asked = [session.renderer.prompt_text(recipe.asked(e), mode, system=recipe.system_prompt) for e in chunk]
            names = [example.id for example in chunk]
            written = _write(session, engine, asked, decoding, advance, names)
            made = []
            for example, found in zip(chunk, written, strict=True):
                thought, answer, closed = run.backbone.template.split(found.text, mode)
                trace = thought if mode == "open" else recipe.trace(answer)
                made.append(Original(example.id, trace, answer, closed and found.finish == "stop", closed))
            append_rows(path, made)
    free()


def review_sheet(rewritten: Sequence[Example], originals: Mapping[str, Example], seed: int) -> str:
    """Return a sheet of up to twenty rows, sampled by `seed` in proportion to their categories, in random order."""
    chosen = stratified(rewritten, min(REVIEWED, len(rewritten)), seed)
    random.Random(f"review-{seed}").shuffle(chosen)
    head = f"# {len(chosen)} of {len(rewritten)} rewritten rows, to be read\n\nTick what holds.\n"
    return "\n".join([head, *(_reviewed(number, row, originals[row.id]) for number, row in enumerate(chosen, 1))])


def _reviewed(number: int, new: Example, old: Example) -> str:
    lines = [f"## {number}. {new.id} ({new.label}, {new.category or 'no category'})", "", *_quoted(new.prompt), ""]
    if old.thought:
        lines += ["**Thought before**", "", *_quoted(render(old.thought)), ""]
    lines += ["**Thought after**", ""]
    for segment in new.thought:
        lines += [f"- {segment.step} ({segment.origin})", "", *_quoted(segment.text), ""]
    if new.answer:
        lines += ["**Answer**", "", *_quoted(new.answer), ""]
    return "\n".join([*lines, *(f"- [ ] {question}" for question in QUESTIONS), ""])


def _quoted(text: str) -> list[str]:
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
    return [f"> {line}" for line in shown.split("\n")]
