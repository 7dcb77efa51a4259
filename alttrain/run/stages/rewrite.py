"""Stage rewrite: dataset and structure -> train.jsonl, the rows to train on, and files that document their origin.

- originals.jsonl  every selected row before the rewrite, with its original trace and answer
- held_out.jsonl   rows set aside, if the dataset does so
- rejects.jsonl    rows that could not be used, with the reason
- review.md        twenty rows, old and new, for a person to read
- rewrite.json     counts and checksums of the rows; written last, so its presence marks the stage as done

If the dataset lacks traces, the backbone writes them. All runs share its texts, by whole chunks, because in bfloat16 a
result can depend on which prompts are decoded together (`generation.engine.CachedEngine`).
"""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from typing import Any

from alttrain import records
from alttrain.config import RunError
from alttrain.dataset.selection import stratified
from alttrain.evaluation import JudgeContext
from alttrain.evaluation.judged import votes_kept
from alttrain.evaluation.judges import NO_REPLY
from alttrain.evaluation.statistics import rate
from alttrain.generation import Decoding
from alttrain.generation.engine import Completion, Engine, Prompt, ignore_progress
from alttrain.llm import NEARLY_ALL, Failure
from alttrain.records import Example, Generation, Rejected, Segment, cache_folder
from alttrain.rewrite import Original, SelfTrace, TeacherContext, lacks_original, lacks_understanding, render
from alttrain.rewrite.original import CUT, THOUGHT_CUT, with_original
from alttrain.rewrite.structures import NO_THOUGHT, Guard
from alttrain.rewrite.teachers import DISAGREES, Sentences
from alttrain.run.assembly import Run
from alttrain.run.folder import record_weights
from alttrain.run.progress import bar
from alttrain.run.session import Session, clear_shelf, free_memory
from alttrain.run.stages.needs import tokens_key
from alttrain.run.stages.train import warn_edited
from alttrain.tokenization import Renderer

log = logging.getLogger(__name__)

GUARDED = "guard.jsonl"  # the guard's verdicts, until the rewrite is done
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
    if run.is_rewritten:
        warn_edited(run)
        return
    structure, selection = run.structure, run.selection
    examples, teacher, understander = selection.examples, structure.teacher, structure.understander

    assess = teacher.assess if teacher else None
    assessed, rejected = _write_sentences(session, "assessments", assess, examples)
    understand = understander.understand if understander else None
    traceless = [row for row in examples if lacks_understanding(structure, row, run.backbone.untrained_thought)]
    understood, not_understood = _write_sentences(session, "understandings", understand, traceless)
    rejected += [row for row in not_understood if row.id in assessed or not teacher]
    disagreements = count_disagreements(examples, assessed, rejected) if teacher and teacher.blind else {}
    _reject(run, rejected)

    unusable = {row.id for row in rejected}
    usable = [row for row in examples if row.id not in unusable]
    completed, unusable_originals, report = _with_originals(session, usable)
    results = [structure.rewrite(row, run.seed, assessed.get(row.id), understood.get(row.id)) for row in completed]
    rewritten = [row for row in results if isinstance(row, Example)]
    rejected += [*unusable_originals, *(row for row in results if isinstance(row, Rejected))]
    _reject(run, rejected)
    left_out = Counter(row.reason for row in rejected)
    untrainable = [row.id for row in rewritten if row.shape == "prompt_only"]
    if untrainable or not rewritten:
        count = len(untrainable)
        found = f" for {count} rows without thought or answer (first: {untrainable[0]})" if untrainable else ""
        reasons = "".join(f"; {n} rows: {reason}" for reason, n in left_out.items())
        remedy = "choose another rewrite, or method=no_train for the backbone as it is"
        raise RunError(f"rewrite={structure.name} leaves nothing to train on{found}{reasons}; {remedy}")

    before = {row.id: row for row in [*examples, *completed]}  # the latter have traces
    rows = {"originals": list(before.values()), "held_out": selection.held_out, "train": rewritten}
    files = {f"{name}.jsonl": rows_of_file for name, rows_of_file in rows.items() if rows_of_file}
    for name, rows_of_file in files.items():
        records.write_rows(run.folder / name, rows_of_file)
    records.write_text(run.folder / "review.md", review_sheet(rewritten, before, run.seed))
    origins = Counter(f"{segment.step} from {segment.origin}" for example in rewritten for segment in example.thought)
    summary = {
        "read": len(examples),
        "written": len(rewritten),
        "labels": dict(Counter(example.label for example in rewritten)),
        "shapes": dict(sorted(Counter(example.shape for example in rewritten).items())),
        "origins": dict(sorted(origins.items())),
        "left_out": dict(left_out),
        "decontaminated_against": {benchmark.name: benchmark.content for benchmark in run.benchmarks},
        "selection": selection.report,
        **report,
        "disagreements": disagreements,
        "files": {name: records.checksum(run.folder / name) for name in files},
    }
    records.write_sealed(run.folder / "rewrite.json", summary)
    (run.folder / GUARDED).unlink(missing_ok=True)
    if matches := selection.report["decontamination"]:
        similar, total = len({match["id"] for match in matches}), sum(selection.report["read"].values())
        counts = Counter(match["benchmark"] for match in matches)
        named = ", ".join(f"{name} ({count})" for name, count in counts.items())
        message = "rewrite   %d of %d rows of the dataset are too like prompts of %s, and left out; %s lists them"
        log.info(message, similar, total, named, run.folder / "rewrite.json")
    log.info("rewrite   %d examples, %d left out", len(rewritten), len(rejected))


def count_disagreements(
    examples: Sequence[Example], assessed: Container[str], rejected: Sequence[Rejected]
) -> dict[str, dict[str, float]]:
    """Count and log how often a teacher that is not told the labels judges otherwise, by label.

    `n` are the rows with a verdict, and `share` those of them with another one than the label, with its 95 % interval.
    """
    by_label: dict[str, dict[str, float]] = {}
    others = {row.id for row in rejected if row.reason.endswith(DISAGREES)}
    for label in dict.fromkeys(row.label for row in examples):
        judged = [row.id for row in examples if row.label == label and (row.id in others or row.id in assessed)]
        disagreeing = len(others.intersection(judged))
        log.info("rewrite   the teacher judges %d of %d %s rows otherwise", disagreeing, len(judged), label)
        if judged:
            share, low, high = rate(disagreeing, len(judged))
            by_label[label] = {"n": len(judged), "disagreeing": disagreeing, "share": share, "low": low, "high": high}
    return by_label


def _reject(run: Run, rejected: Sequence[Rejected]) -> None:
    """Write rejects.jsonl. Raises RunError as `refuse_losses` does."""
    path = run.folder / "rejects.jsonl"
    path.unlink(missing_ok=True)
    if rejected:
        records.write_rows(path, rejected)
    refuse_losses(run, rejected)


def refuse_losses(run: Run, rejected: Sequence[Rejected]) -> None:
    """Raise RunError, with reasons and remedies, if a label lost a larger share of its rows than is allowed."""
    label_of = {row.id: row.label for row in run.rows}
    lines = []
    for label, total in Counter(label_of.values()).items():
        reasons = Counter(row.reason for row in rejected if label_of[row.id] == label)
        if (lost := reasons.total()) > run.structure.may_lose * total:
            lines += [f"  {lost} of {total} {label} rows:", *(f"    {n}: {why}" for why, n in reasons.most_common())]
            lines += [f"    -> {remedy}" for remedy in dict.fromkeys(_remedy(run, reason) for reason in reasons)]
    if lines:
        allowed = f"rewrite.may_lose={run.structure.may_lose:g}"
        head = f"rewrite={run.structure.name} leaves out a larger share of a label's rows than {allowed}:"
        raise RunError("\n".join([head, *lines, "or set rewrite.may_lose=1 to train on what is left"]))


def _remedy(run: Run, reason: str) -> str:
    recipe = run.structure.original
    if "writer.max_tokens" in reason:
        teacher: object = run.structure.teacher
        own = reason.startswith("understanding: ") and run.structure.understander != teacher
        writer = "rewrite.understander.writer" if own else "teacher.writer"
        return f"raise {writer}.max_tokens, or switch its thinking off ({writer}.extra)"
    if reason.startswith(("assessment: ", "understanding: ")):
        return "choose another teacher, raise teacher.repairs, or tell it the label (teacher.tell_label=true)"
    if recipe is not None and reason in (THOUGHT_CUT, CUT):
        return f"raise {tokens_key(run)}={recipe.tokens}"
    if recipe is not None and (reason == UNSAFE or "the backbone" in reason):
        return "choose prompts that this backbone answers, a data set with traces of its own, or another rewrite.guard"
    if reason == NO_THOUGHT:
        return "set rewrite.traces=backbone, which replaces the answer too, or choose a rewrite that takes such rows"
    return "choose the data set that belongs to this rewrite, or a rewrite that takes such rows"


def _write_sentences(
    session: Session, step: str, write: Callable[..., Sentences] | None, examples: Sequence[Example]
) -> tuple[dict[str, Segment], list[Rejected]]:
    """Return what a teacher's method writes, by example id, and the examples for which it wrote no valid sentence."""
    if write is None or not examples:
        return {}, []
    run, mode = session.run, session.run.backbone.untrained_thought
    with bar(step, len(examples)) as advance, ExitStack() as stack:

        @cache
        def engine() -> Engine:
            return stack.enter_context(session.untrained())

        def ask(prompts: list[str], max_tokens: int) -> list[str]:
            texts = {str(n): session.renderer.prompt_text(prompt, mode) for n, prompt in enumerate(prompts)}
            answers = _answers(session, engine(), texts, Decoding(max_tokens), ignore_progress)
            return [run.backbone.template.split(answer.text, mode)[1] for answer in answers]

        def model() -> str:
            described = json.dumps([asdict(run.backbone), session.identity()], sort_keys=True)
            return f"{run.backbone.name} {hashlib.sha256(described.encode()).hexdigest()[:24]}"

        sentences = dict(write(examples, run.seed, TeacherContext(cache_folder() / "replies", ask, model, advance)))
    segments = {name: sentence for name, sentence in sentences.items() if isinstance(sentence, Segment)}
    return segments, [sentence for sentence in sentences.values() if isinstance(sentence, Rejected)]


def _answers(
    session: Session, engine: Engine, texts: Mapping[str, str], decoding: Decoding, advance: Callable[[int], None]
) -> list[Completion]:
    """Return what the engine writes for each named text; the names decide what is sampled.

    Raises RunError if a text has no answer.
    """
    if session.run.generation.loads_weights:
        record_weights(session.run, session.weights)
    prompts = [Prompt(session.renderer.encode(text), text, name) for name, text in texts.items()]
    results = dict(engine.generate(prompts, decoding, advance))
    answers = [result for number in range(len(prompts)) if isinstance(result := results.get(number), Completion)]
    if len(answers) < len(prompts):
        reason = next((f", because {result.reason}" for result in results.values() if isinstance(result, Failure)), "")
        raise RunError(
            f"the backbone answered {len(answers)} of {len(prompts)} prompts{reason}; the same command asks again"
        )
    return answers


def _with_originals(session: Session, rows: list[Example]) -> tuple[list[Example], list[Rejected], dict[str, Any]]:
    """Return (rows with the backbone's originals where the structure needs them, rejected rows, report).

    The report has the ids of cut answers and, by label, the counts of the guard's verdicts.
    """
    run, structure, recipe = session.run, session.run.structure, session.run.structure.original
    report: dict[str, Any] = {"answers_cut": [], "guard": None}
    lacking = [row for row in rows if lacks_original(structure, row)]
    if not lacking:
        return rows, [], report
    if recipe is None:
        message = f"{len(lacking)} examples have no trace and rewrite.original is not set"
        raise RunError(f"rewrite={structure.name}: {message}")
    originals = _originals(session, recipe, lacking)
    origin = "trace:backbone" if run.backbone.untrained_thought == "open" else "backbone"
    results = [with_original(row, originals[row.id], recipe, origin) for row in lacking]
    filled = {row.id: row for row in results if isinstance(row, Example)}
    rejected = [row for row in results if isinstance(row, Rejected)]
    report["answers_cut"] = [name for name in filled if not originals[name].ended]
    if structure.guard is not None:
        unsafe, report["guard"] = _guard_verdicts(session, structure.guard, list(filled.values()))
        rejected += [Rejected(name, UNSAFE) for name in unsafe]
    lost = {row.id for row in rejected}
    return [filled.get(row.id, row) for row in rows if row.id not in lost], rejected, report


def _guard_verdicts(session: Session, guard: Guard, rows: Sequence[Example]) -> tuple[list[str], dict[str, Any]]:
    """Return the ids of rows whose whole response the guard calls unsafe, and counts of its verdicts by label.

    Raises RunError if the guard does not reply.
    """
    template, outputs = session.run.backbone.template, []
    for row in rows:
        text = f"{template.think_open}{render(row.thought)}{template.think_close}{row.answer}"
        prompt = "\n\n".join((*row.turns, row.prompt))  # a judge is shown only those turns that were answered
        outputs.append(Generation(row.id, prompt, row.label, row.category, (), text, "", text, True, "stop", 0, 0))
    with bar(guard.name, len(outputs)) as advance:
        context = JudgeContext(cache_folder() / "replies", session.scorer, advance)
        vote = votes_kept(session.run.folder / GUARDED)
        verdicts = {judgement.id: judgement for judgement in vote(guard, outputs, context)}
    clear_shelf()
    errors = [judgement.error for judgement in verdicts.values() if judgement.error]
    no_reply = next((error for error in errors if error.startswith(NO_REPLY)), "")
    if no_reply or (errors and len(errors) >= NEARLY_ALL * len(verdicts)):
        message = f"{len(errors)} of {len(verdicts)} judgements failed ({no_reply or errors[0]})"
        raise RunError(f"rewrite.guard={guard.name}: {message}; the same command asks again")
    counts: dict[str, Any] = {row.label: {"kept": 0, "unsafe": 0, "undecided": 0} for row in rows}
    for row in rows:
        verdict = verdicts[row.id].verdict
        counts[row.label]["unsafe" if verdict else "kept"] += 1
        counts[row.label]["undecided"] += verdict is None
    return [row.id for row in rows if verdicts[row.id].verdict], counts


def _originals(session: Session, recipe: SelfTrace, rows: list[Example]) -> dict[str, Original]:
    """Return the backbone's own output for each prompt, by id. Each chunk is kept once it is generated."""
    run, mode = session.run, session.run.backbone.untrained_thought
    examples = sorted(rows, key=lambda example: example.id)  # the seed must not change which are decoded together
    size, originals = recipe.chunk or len(examples), dict[str, Original]()
    decoding = Decoding(recipe.tokens, recipe.temperature, recipe.top_p, top_k=recipe.top_k)
    log.info("rewrite   %d original traces and answers are the backbone's own", len(examples))
    with bar("originals", len(examples)) as advance, session.untrained() as engine:
        for start in range(0, len(examples), size):
            chunk = examples[start : start + size]
            texts = {row.id: original_prompt(run, session.renderer, row) for row in chunk}
            for row, written in zip(chunk, _answers(session, engine, texts, decoding, advance), strict=True):
                thought, answer, closed = run.backbone.template.split(written.text, mode)
                trace = thought if mode == "open" else recipe.opening
                originals[row.id] = Original(trace, answer, closed and written.finish == "stop", closed)
    free_memory()
    return originals


def original_prompt(run: Run, renderer: Renderer, row: Example) -> str:
    """Return the prompt in which the untrained backbone is asked for a row's thought and answer."""
    recipe = run.structure.original
    assert recipe is not None
    mode, system = run.backbone.untrained_thought, recipe.system_prompt
    return renderer.prompt_text(recipe.message(row), mode, system=system, turns=row.turns)


def review_sheet(rewritten: Sequence[Example], originals: Mapping[str, Example], seed: int) -> str:
    """Return a sheet of up to twenty rows, sampled by `seed` in proportion to their categories, in random order."""
    sample = stratified(rewritten, min(REVIEWED, len(rewritten)), seed)
    random.Random(f"review-{seed}").shuffle(sample)
    lines = [f"# {len(sample)} of {len(rewritten)} rewritten rows, to be read", "", "Tick what holds.", ""]

    def quote(head: str, text: str) -> None:
        excerpt = text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
        lines.extend([head, "", *(f"> {line}" for line in excerpt.split("\n")), ""])

    for number, new in enumerate(sample, 1):
        quote(f"## {number}. {new.id} ({new.label}, {new.category or 'no category'})", new.prompt)
        if thought := originals[new.id].thought:
            quote("**Thought before**", render(thought))
        lines += ["**Thought after**", ""]
        for segment in new.thought:
            quote(f"- {segment.step} ({segment.origin})", segment.text)
        if new.answer:
            quote("**Answer**", new.answer)
        lines += [*(f"- [ ] {question}" for question in QUESTIONS), ""]
    return "\n".join(lines)
