"""Stage check: refuse a run that will fail, before any weights load. Writes nothing.

`check_light` always runs first. It reads the data files and looks for the backbone's folder and the packages it needs.
For the teacher and judges that have work left, it checks API keys, servers, models and goals. The stage `check`
validates the rendering of every row's token ids, refuses prompts that exceed the context, and estimates the memory of
each stage.

The tokenizer is local or comes from the hub without the weights. If neither is possible, a run that loads the model
fetches both and validates the rendering then; a run of `check` alone reports that it did not. Too little memory refuses
a run only for its own stages; for other stages it is reported.
"""

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import get_args

from hydra.core.global_hydra import GlobalHydra

from alttrain.backbone.device import check_kernels, has_gpu_driver
from alttrain.backbone.source import cache_folder, fetch_tokenizer, is_path, why_absent
from alttrain.config import RunError
from alttrain.evaluation import Judge
from alttrain.evaluation.judges import check_goals
from alttrain.evaluation.protocol import KINDS, Measure
from alttrain.records import Example, Rejected, read_rows
from alttrain.rewrite import TeacherContext, lacks_original, render
from alttrain.run.assembly import Run
from alttrain.run.folder import check_belongs, check_writable, evaluation_folder
from alttrain.run.session import Session, judge_model
from alttrain.run.stages.generate import longest_prompt, refuse_too_long
from alttrain.run.stages.judge import is_judged, judges_of, lacking_rows
from alttrain.run.stages.needs import Sizes, guess, guessed_rows, lacks_originals, refuse_too_large, tokens_key
from alttrain.run.stages.rewrite import refuse_losses
from alttrain.run.stages.train import NO_KEY_SENTENCE
from alttrain.tokenization import Renderer

log = logging.getLogger(__name__)

MODEL_STAGES = frozenset({"rewrite", "train", "generate"})
NAMED = 5
"""Number of rows named in one message; the others are counted."""


def check_light(run: Run, rows: Sequence[Example] | None = None) -> None:
    """Read every data file, and check all parts and the output folder. Raises RunError with all faults.

    `rows` are the rows to train on if another job of the sweep has read the same data; its files are not read again.
    """
    faults: list[str] = []
    stages, structure, reads = set(run.stages), run.structure, rows is None

    @contextmanager
    def step() -> Iterator[None]:
        try:
            yield
        except (RunError, ValueError, OSError) as error:
            faults.extend(line for line in (str(error),) if line not in faults)

    def model_fault(source: str, revision: str | None) -> str:
        return why_absent(judge_model(run, source, revision))

    with step():
        check_writable(run.output_dir)
    for logger in run.loggers.values() if {"train", "judge"} & stages else ():
        with step():
            logger.check()
    if run.training.trains:
        with step():
            for source in run.dataset.sources.values() if reads else ():
                source.read(run.seed)  # first: its fault is reported even if a benchmark cannot be read
            rows = run.rows if rows is None else rows
            if structure.teacher is not None and "rewrite" in stages:
                structure.teacher.check_rows(run.rows if structure.teacher.offline else rows)  # of this seed
    for benchmark in run.benchmarks:
        judges: Mapping[str, Judge] = {}
        with step():
            run.protocol.decoding_for(benchmark)
        with step():
            if reads:
                benchmark.prompts()
            if "judge" in stages and not is_judged(run, benchmark):
                judges = judges_of(run, benchmark)
        for where, judge in judges.items():
            with step():
                if judge.needs_goal:
                    check_goals(judge, benchmark.name, benchmark.examples)
            with step():
                judge.check(where, model_fault)
    rewrites = "rewrite" in stages and run.training.trains and not run.rewritten
    if rewrites:
        for key, asked in (("teacher", structure.teacher), ("rewrite.understander", structure.understander)):
            with step():
                if asked is not None:
                    asked.check(key)
        with step():
            if structure.guard is not None:
                structure.guard.check("rewrite.guard", model_fault)
    with step():
        _check_backbone(run)
    with step():
        check_protocol(run)
    with step():
        if rewrites and _asks_backbone(run, rows or ()):
            run.generation.check(None, _on_gpu(run))
        finished = [(evaluation_folder(run, benchmark) / "metrics.json").exists() for benchmark in run.benchmarks]
        if "generate" in stages and not all(finished):
            run.generation.check(run.protocol.quantization, _on_gpu(run))
    with step():
        _refuse_without_gpu(run)
    with step():
        check_belongs(run)
    if faults:
        raise RunError("\n".join(faults))


def _asks_backbone(run: Run, rows: Sequence[Example]) -> bool:
    """Return whether the rewrite needs texts of the backbone: a teacher's sentences, or originals of these rows."""
    structure = run.structure
    writers = (structure.teacher, structure.understander)
    if any(writer is not None and writer.asks_backbone for writer in writers):
        return True
    return structure.original is not None and lacks_originals(run, rows)


def _check_backbone(run: Run) -> None:
    """Raise RunError if the folder does not exist, or the kernels lack their packages or hardware."""
    source = run.backbone.source
    if is_path(source) and not Path(source).expanduser().is_dir():
        raise RunError(
            f"backbone.source={source}: no such folder; give a model folder or a hub id such as Qwen/Qwen3-0.6B"
        )
    if MODEL_STAGES & set(run.stages):
        optimizer = run.training.optimizer if run.training.trains and "train" in run.stages else "adamw"
        check_kernels(run.backbone.quantization, run.backbone.attention, _on_gpu(run), optimizer)


def check_protocol(run: Run) -> None:
    """Raise RunError if the protocol names an unknown benchmark, or averages benchmarks of another measure."""
    protocol, hydra = run.protocol, GlobalHydra.instance()
    own = {benchmark.name: benchmark.measure for benchmark in run.benchmarks}
    named = [(f"settings.{name}", name) for name in protocol.settings]
    named += [(f"judges.{name}", name) for name in protocol.judges if name not in get_args(Measure)]
    named += [(f"means.{measure}", name) for measure, names in protocol.means.items() for name in names]
    if hydra.is_initialized():
        known = {*KINDS, *own, *hydra.config_loader().get_group_options("benchmark")}
        for key, name in named:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else ""
                raise RunError(f"protocol.{key}: there is no benchmark {name!r}, in this run or to choose{meant}")
    for measure, names in protocol.means.items():
        for name in names:
            if own.get(name, measure) != measure:
                raise RunError(f"protocol.means.{measure} names {name}, whose measure is {own[name]}")


def _refuse_without_gpu(run: Run) -> None:
    """Raise RunError for settings that need a GPU, if there is none or it is not to be used."""
    stages = set(run.stages)
    if run.hardware.accelerator == "gpu" and MODEL_STAGES & stages and not has_gpu_driver():
        raise RunError(
            "trainer.accelerator=gpu, and there is no GPU here; set trainer=auto or cpu, or look at the plan alone by "
            "'stages=[check]'"
        )
    if "train" in stages and run.hardware.compiled == "on" and not _on_gpu(run):
        raise RunError(
            "trainer.compiled=on is for a GPU, and there is none, or it is not to be used; set trainer.compiled=auto"
        )


def _on_gpu(run: Run) -> bool:
    return run.hardware.accelerator != "cpu" and has_gpu_driver()


def check(run: Run, session: Session) -> None:
    """Validate the rendering of every row and estimate the memory. Raises RunError that names rows or keys."""
    rows = run.rows
    for benchmark in run.benchmarks:
        if left_out := benchmark.left_out():
            named = "; ".join(f"{row.id}: {row.reason}" for row in left_out)
            log.info("check     %s: %d rows left out (%s)", benchmark.name, len(left_out), named)
        if lacking := lacking_rows(benchmark):
            message = "check     %s: the published set has %d rows, and here are %d"
            log.warning(message, benchmark.name, *lacking["rows"])
    made = examples_without_model(run, rows)  # before anything is fetched: this may refuse the run
    renderer, missing = _tokenizer_alone(run)
    refuse_too_large(run, rows, prove(run, rows, made, renderer) if renderer else guess(run, rows))
    if renderer is None and MODEL_STAGES & set(run.stages):
        prove(run, rows, made, session.renderer)
    elif renderer is None:
        log.info("check     the rendering will be proved once the tokenizer is there: %s", missing)


def _tokenizer_alone(run: Run) -> tuple[Renderer | None, str]:
    """Return (renderer, "") without loading weights, or (None, the reason)."""
    try:
        folder = fetch_tokenizer(run.backbone)
    except OSError as error:
        return None, f"{run.backbone.source} is not at hand ({error})"
    from alttrain.backbone.weights import load_tokenizer

    return Renderer(run.backbone, load_tokenizer(folder)), ""


def prove(run: Run, rows: Sequence[Example], made: Sequence[Example] | None, renderer: Renderer) -> Sizes:
    """Check that every prompt fits the context, and that the training rows satisfy `Renderer.problems`.

    `rows` are the dataset's rows. `made` are the rewritten rows, or None if rewriting needs a model. Returns the sizes
    in tokens. Raises RunError.
    """
    _compare_templates(run, renderer)
    for benchmark in run.benchmarks:
        said = ((benchmark.asked(row), *row.turns) for row in benchmark.examples)
        _tell_spelt(benchmark.name, "prompts", said, renderer)
    _tell_spelt("dataset", "rows", ((r.prompt, *r.turns, render(r.thought), r.answer) for r in rows), renderer)
    longest, prompt = fits_context(run, rows, renderer)
    if not run.training.trains:
        return Sizes(longest)
    trained = _prove_rows(run, made, renderer, run.training.max_length)
    rendered = trained or guessed_rows(rows, run.training.max_length)
    return Sizes(longest, prompt, rendered, counted=trained is not None)


def bound(run: Run, session: Session) -> None:
    """Check only that prompts fit the context, for a run without the stage `check`. Raises RunError."""
    rewrites = run.training.trains and "rewrite" in run.stages and not run.rewritten
    fits_context(run, run.rows if rewrites else [], _tokenizer_alone(run)[0] or session.renderer)


def fits_context(run: Run, rows: Sequence[Example], renderer: Renderer) -> tuple[int, int]:
    """Return the tokens of the longest prompt of the benchmarks and of the dataset.

    Raises RunError if the context cannot hold a prompt and its response.
    """
    asked = run.benchmarks if {"check", "generate"} & set(run.stages) else ()
    longest = max([0, *(longest_prompt(run, renderer, benchmark) for benchmark in asked)])
    if not rows:
        return longest, 0
    lengths = [len(prompt) for prompt in renderer.prompts(rows, run.training.thought)]
    refuse_too_long(run, "dataset", rows, lengths, 1, "one token of response")
    if run.structure.original is not None and lacks_originals(run, rows):
        asks = [lacks_original(run.structure, row) for row in rows]
        own, longs = list(compress(rows, asks)), list(compress(lengths, asks))
        refuse_too_long(run, "dataset", own, longs, run.structure.original.tokens, tokens_key(run))
    return longest, max(lengths)


def _compare_templates(run: Run, renderer: Renderer) -> None:
    """Warn if the tokenizer's own chat template renders the prompt of a reasoning backbone differently from ours."""
    backbone = run.backbone
    if not renderer.tokenizer.chat_template or backbone.untrained_thought != "open":
        return
    system = [{"role": "system", "content": backbone.system_prompt}] if backbone.system_prompt else []
    asked = [*system, {"role": "user", "content": "Why?"}]
    theirs = renderer.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ours = backbone.template.prompt("Why?", backbone.system_prompt, "open")
    if ours != theirs:
        log.warning("check     backbone.template prompts %r, but the tokenizer's own template %r", ours, theirs)


def _tell_spelt(where: str, kind: str, said: Iterable[tuple[str, ...]], renderer: Renderer) -> None:
    """Log the number of texts that spell out a special token."""
    spelt = [renderer.spelt(*texts) for texts in said]
    if found := list(filter(None, spelt)):
        log.info(
            "check     %s: %d of %d %s spell a special token, such as %s; it stays text",
            *(where, len(found), len(spelt), kind, found[0]),
        )


def _prove_rows(
    run: Run, examples: Sequence[Example] | None, renderer: Renderer, max_length: int
) -> tuple[int, ...] | None:
    """Validate the rows to train on; return their lengths in tokens.

    Returns None if making the rows needs a model, or if none can be trained on. Raises RunError that names invalid
    rows.
    """
    if examples is None:
        log.info("check     the rows to train on take a model to make; the rewrite stage makes them")
        return None
    trainable = [example for example in examples if example.shape != "prompt_only"]
    if not trainable:
        return None  # the rewrite stage reports what is missing
    kept, too_long = renderer.sequences(trainable, max_length)
    by_id = {example.id: example for example in trainable}
    wrong = [(s.id, problems[0]) for s in kept if (problems := renderer.problems(s, by_id[s.id]))]
    if wrong:
        lines = [f"  row {name}: {problem}" for name, problem in wrong[:NAMED]]
        more = [f"  and {len(wrong) - NAMED} more"] if len(wrong) > NAMED else []
        head = f"{len(wrong)} of {len(kept)} rows would not be trained as they are prompted:"
        remedy = "leave these rows out, or choose the backbone/template of this backbone's family"
        raise RunError("\n".join([head, *lines, *more, remedy]))
    if not kept:
        raise RunError(f"training.max_length={max_length}: every example is longer; raise it")
    if run.training.trains and run.training.objective.needs_key_sentence:
        marked = sum(s.marks is not None for s in renderer.mark([by_id[s.id] for s in kept], kept))
        if not marked:
            raise RunError(NO_KEY_SENTENCE)
        log.info("check     a key sentence in %d of %d rows", marked, len(kept))
    if too_long:
        named = ", ".join(too_long[:NAMED]) + (", ..." if len(too_long) > NAMED else "")
        log.warning("check     %d rows are longer than training.max_length=%d: %s", len(too_long), max_length, named)
    log.info("check     rendering proved on %d rows", len(kept))
    return tuple(map(len, kept))


def examples_without_model(run: Run, rows: Sequence[Example]) -> list[Example] | None:
    """Return the rows to train on: train.jsonl if it exists, otherwise rows rewritten here.

    Returns None if the rewrite needs a model for its originals or its teacher. Raises RunError if too many rows are
    lost.
    """
    if written := read_rows(run.folder / "train.jsonl", Example):
        return written
    structure = run.structure
    teacher = structure.teacher
    if structure.understander or (teacher and not teacher.offline) or lacks_originals(run, rows):
        return None
    assessed = dict(teacher.assess(rows, run.seed, TeacherContext(cache_folder()))) if teacher else {}
    made = [
        found if isinstance(found := assessed.get(row.id), Rejected) else structure.rewrite(row, run.seed, found)
        for row in rows
    ]
    refuse_losses(run, [row for row in made if isinstance(row, Rejected)])
    return [row for row in made if isinstance(row, Example)]
