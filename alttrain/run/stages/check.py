"""Stage check: refuse a run that will fail, before any weights load. Writes nothing.

- `check_light`    always first: data files, folders, packages, keys, servers, hardware
- `check`          the stage: the token ids of every row, the room for every prompt, the memory of each stage (`needs`)
- `check_prompts`  if the stage is left out: whether the backbone computes rows rightly, and the room for every prompt
- `all_ready`      after a check alone: what the other stages would lack on this machine

The tokenizer is local or comes from the hub without the weights. If neither is possible, a run that loads the model
fetches both and validates then; a run of `check` alone reports that it did not.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from hydra.core.global_hydra import GlobalHydra

from alttrain import records
from alttrain.backbone.device import check_kernels, has_gpu_driver
from alttrain.backbone.memory import Attention
from alttrain.backbone.source import (
    fetch_tokenizer,
    local_folder,
    module_names,
    offline_file,
    offline_tokenizer,
    why_absent,
)
from alttrain.config import STAGES, RunError
from alttrain.config.schema import did_you_mean
from alttrain.evaluation import Benchmark, Judge
from alttrain.evaluation.judges import check_rows
from alttrain.evaluation.protocol import KINDS, Measure
from alttrain.generation import InProcess
from alttrain.records import Example, Rejected, cache_folder
from alttrain.rewrite import TeacherContext, lacks_original, lacks_understanding, render
from alttrain.run.asking import prompt_text
from alttrain.run.assembly import Run
from alttrain.run.folder import check_belongs, check_weights, check_writable
from alttrain.run.opinions import check_labels
from alttrain.run.session import Session, judge_model
from alttrain.run.stages import needs
from alttrain.run.stages.generate import check_trained, incomplete_benchmarks, incomplete_chunks
from alttrain.run.stages.judge import is_judged, judges_of, lacking_rows
from alttrain.run.stages.needs import Sizes
from alttrain.run.stages.rewrite import original_prompt, refuse_losses
from alttrain.run.stages.train import NAMED, check_precision, tokenize_examples
from alttrain.tokenization import Renderer

if TYPE_CHECKING:
    from alttrain.backbone.support import Purpose

log = logging.getLogger(__name__)

MODEL_STAGES = frozenset({"rewrite", "train", "generate"})
Tokens = tuple[str, int]  # a number of tokens, after the key or the words that it is named by


# --- first: what takes neither tokenizer nor weights ---


def check_light(run: Run, rows: Sequence[Example] | None = None, here: bool = True) -> None:
    """Check the files, parts, servers and hardware that the run's stages need. Raises RunError with all faults.

    `rows` are the rows to train on if another job of the sweep has read the same data; its files are not read again.
    `here` says whether the run will have the memory that is free on this machine now.
    """
    faults: dict[str, None] = {}

    def attempt(check: Callable[..., Any], *arguments: object) -> Any:
        """Return what a check returns; None if it finds a fault."""
        try:
            return check(*arguments)
        except (RunError, ValueError, OSError) as error:
            faults[str(error)] = None

    stages, structure, is_first = set(run.stages), run.structure, rows is None
    rewrites = "rewrite" in stages and run.training.trains and not run.is_rewritten
    trains = "train" in stages and run.needs_training
    gpu = run.hardware.accelerator != "cpu" and has_gpu_driver()
    model_fault = partial(_model_fault, run, here)

    # where it writes
    attempt(check_writable, run.output_dir)
    for logger in run.loggers.values() if {"train", "judge"} & stages else ():
        attempt(logger.check)

    # the rows to train on
    if run.training.trains:
        rows = attempt(_read_rows, run, rows)

    # the benchmarks, their judges and interventions
    for benchmark in run.benchmarks:
        attempt(run.protocol.decoding_for, benchmark)
        for judge_key, judge in (attempt(_judges_due, run, benchmark, is_first) or {}).items():
            attempt(check_rows, judge, benchmark.name, benchmark.examples)
            attempt(judge.check, judge_key, model_fault)
    unfinished = attempt(incomplete_benchmarks, run) or [] if "generate" in stages else []
    interventions = {each.intervention_name: each.intervention for each in unfinished if each.intervention}
    for name, intervention in interventions.items():  # once, however many benchmarks it is on
        attempt(intervention.check, f"intervention.{name}", model_fault)
    attempt(check_protocol, run)

    # who writes the new thoughts, and the guard of them
    for key, writer in (("teacher", structure.teacher), ("rewrite.understander", structure.understander)):
        if rewrites and writer is not None:
            attempt(writer.check, key)
    if rewrites and structure.guard is not None:
        attempt(structure.guard.check, "rewrite.guard", model_fault)
    backbone_writes = "rewrite" in stages and _backbone_writes(run, rows or ())

    # the backbone, and what answers with it
    attempt(_check_backbone, run, gpu, trains, backbone_writes or bool(unfinished))
    if backbone_writes:
        attempt(run.generation.check, None, gpu)
        attempt(run.generation.check_served, run.name, None, False)
    if unfinished:
        trained = run.adapter if run.training.trains else None
        attempt(run.generation.check, run.protocol.quantization, gpu)
        attempt(run.generation.check_served, run.name, trained, not run.needs_training)
        if run.training.trains and "train" not in stages:
            attempt(check_trained, run)

    # the training, and the machine
    if trains:
        attempt(_check_targets, run)
        attempt(run.hardware.check)
        attempt(_check_samples, run)
        attempt(needs.refuse_full_disk, [run])
    attempt(_refuse_without_gpu, run, gpu)

    # what the run's folder holds
    attempt(check_belongs, run)
    if MODEL_STAGES & stages:
        attempt(check_weights, run)
    if "train" in stages and run.training.trains:
        attempt(check_precision, run)
    if faults:
        raise RunError(*faults)


def _read_rows(run: Run, rows: Sequence[Example] | None) -> Sequence[Example]:
    """Return the rows to train on: `rows`, or those of the files. Raises an error if there are none, or unusable ones.

    A teacher without a server is shown the rows of the run's own seed.
    """
    if rows is None:
        for source in run.dataset.sources.values():
            source.read(run.seed)  # first: its fault is reported even if a benchmark cannot be read
        rows = run.rows
    if not rows and "train" in run.stages and run.needs_training and not run.is_rewritten:
        raise RunError(f"dataset={run.dataset.name}: it selects no rows to train on; raise dataset.amounts")
    if (teacher := run.structure.teacher) is not None and "rewrite" in run.stages:
        teacher.check_rows(run.rows if teacher.offline else rows)
    return rows


def _judges_due(run: Run, benchmark: Benchmark, reads_files: bool) -> Mapping[str, Judge]:
    """Return the judges, by config key, that are still to judge a benchmark or an intervention on it.

    Raises an error for the benchmark's files, if they are to be read, and for its labels.
    """
    if reads_files:
        benchmark.prompts()
    if "judge" not in run.stages:
        return {}
    check_labels(run, benchmark)  # first: its message names the key
    own = [each for each in run.all_benchmarks if each.base_name == benchmark.name]
    return {} if all(is_judged(run, each) for each in own) else judges_of(run, benchmark)


def _model_fault(run: Run, here: bool, source: str, revision: str | None, dtype: str | None) -> str:
    """Return why a judge's model cannot be had (`judges.ModelFault`), or does not fit in memory if it is `here`."""
    model = judge_model(run, source, revision)
    if dtype is None:
        return "" if offline_tokenizer(model) else why_absent(model)
    return why_absent(model) or (needs.too_large(run, model, dtype) if here else "")


def _backbone_writes(run: Run, rows: Sequence[Example]) -> bool:
    """Return whether the backbone writes thoughts or whole originals for the rewrite that is left."""
    writers = (run.structure.teacher, run.structure.understander)
    asks_backbone = any(writer is not None and writer.asks_backbone for writer in writers)
    return run.training.trains and not run.is_rewritten and (asks_backbone or needs.lacks_originals(run, rows))


def _check_backbone(run: Run, gpu: bool, trains: bool, generates: bool) -> None:
    """Raise RunError if the weights are not available, or the kernels lack their packages or hardware."""
    key, folder = f"backbone.source={run.backbone.source}", local_folder(run.backbone.source)
    if folder and not folder.is_dir() and {"check", *MODEL_STAGES} & set(run.stages):
        raise RunError(f"{key}: no such folder; give a model folder or a hub id such as Qwen/Qwen3-0.6B")
    # a server's weights are elsewhere, but its prompts are encoded here
    loads = trains or (generates and (run.generation.loads_weights or not offline_tokenizer(run.backbone)))
    if loads and (folder or run.backbone.wheel is None) and (absent := why_absent(run.backbone)):
        raise RunError(f"{key}: {absent}")
    if loads:
        module_names(run.backbone)  # refuses a damaged file
    if MODEL_STAGES & set(run.stages):
        optimizer = run.training.optimizer if run.training.trains and "train" in run.stages else "adamw"
        check_kernels(run.backbone.quantization, run.backbone.attention, gpu, optimizer)


def _check_targets(run: Run) -> None:
    """Raise RunError if LoRA's targets are not in the backbone, as far as its weights are at hand."""
    targets, modules = getattr(run.adapter, "target_modules", ()), module_names(run.backbone)
    if modules and (absent := [name for name in targets if name not in modules]):
        raise RunError(
            f"adapter.target_modules={list(targets)}: this backbone has no {absent[0]}; it has {', '.join(modules)}"
        )


def _check_samples(run: Run) -> None:
    """Raise RunError if the model in training is to answer prompts, and its attention is not the decoder's."""
    every, attention = run.hardware.samples_every, run.backbone.attention
    if every and attention != "packed":
        raise RunError(f"trainer.samples_every={every} needs backbone.attention=packed, or null; found {attention}")


def _refuse_without_gpu(run: Run, gpu: bool) -> None:
    """Raise RunError for settings that need a GPU, if there is none or it is not to be used."""
    if run.hardware.accelerator == "gpu" and MODEL_STAGES & set(run.stages) and not gpu:
        raise RunError(
            "trainer.accelerator=gpu, and there is no GPU here; set trainer=auto or cpu, or look at the plan alone by "
            "'stages=[check]'"
        )
    if "train" in run.stages and run.hardware.compiled == "on" and not gpu:
        raise RunError(
            "trainer.compiled=on is for a GPU, and there is none, or it is not to be used; set trainer.compiled=auto"
        )


def check_protocol(run: Run) -> None:
    """Raise RunError if the protocol names an unknown benchmark, or averages benchmarks of another measure."""
    protocol, hydra = run.protocol, GlobalHydra.instance()
    measures = {benchmark.name: benchmark.measure for benchmark in run.benchmarks}
    averaged = [(measure, name) for measure, names in protocol.means.items() for name in names]
    if hydra.is_initialized():
        known = {*KINDS, *measures, *hydra.config_loader().get_group_options("benchmark")}
        keys = [(f"settings.{name}", name) for name in protocol.settings]
        keys += [(f"judges.{name}", name) for name in protocol.judges if name not in get_args(Measure)]
        for key, name in [*keys, *((f"means.{measure}", name) for measure, name in averaged)]:
            if name not in known:
                unknown = f"there is no benchmark {name!r}, in this run or to choose"
                raise RunError(f"protocol.{key}: {unknown}{did_you_mean(name, known)}")
    for measure, name in averaged:
        if measures.get(name, measure) != measure:
            raise RunError(f"protocol.means.{measure} names {name}, whose measure is {measures[name]}")


def check_sources(run: Run, planned: Collection[str] = ()) -> None:
    """Raise RunError if an intervention that is to be made reads a run that neither exists nor is `planned`."""
    runs = run.folder.parent
    for benchmark in run.intervened_benchmarks if {"check", "generate"} & set(run.stages) else ():
        source = benchmark.intervention and benchmark.intervention.source
        if source and source not in planned and not (runs / source).is_dir() and incomplete_chunks(run, benchmark):
            key = f"intervention.{benchmark.intervention_name}.source={source}"
            names = [path.name for path in runs.glob("*") if path.is_dir()]
            raise RunError(f"{key}: {runs} has no such run; give one that has generated{did_you_mean(source, names)}")


def all_ready(jobs: Sequence[tuple[Run, int]]) -> bool:
    """Return whether these runs, whose check has passed, could do all their stages on this machine, and log it.

    Each run comes with the number of jobs like it.
    """
    total, lacking = sum(count for _, count in jobs), Counter[str]()
    rows: dict[str, Sequence[Example]] = {}  # by `Run.data`, each read once
    for run, count in jobs:
        job_rows = rows[run.data] = rows.get(run.data) or run.rows
        whole_run = partial(check_light, replace(run, stages=STAGES), job_rows)
        for check_run in (whole_run, partial(needs.refuse_too_large, run, job_rows, MODEL_STAGES)):
            try:
                check_run()
            except RunError as error:
                lacking.update(dict.fromkeys(error.faults, count))
    for reason, count in lacking.items():
        log.warning("not ready %s%s", reason, f" (in {count} of {total} jobs)" if total > 1 else "")
    if not lacking:
        log.info("ready     %s", jobs[0][0].name if total == 1 else f"{total} jobs")
    return not lacking


# --- the stage: what takes the tokenizer ---


def check(run: Run, session: Session) -> None:
    """Validate the rendering of every row and estimate the memory.

    Raises RunError that names rows or keys, and ValueError if a server would leave out the template's delimiters.
    """
    rows = run.rows
    for benchmark in run.benchmarks:
        if left_out := benchmark.rejected():
            reasons = "; ".join(f"{row.id}: {row.reason}" for row in left_out)
            log.info("check     %s: %d rows left out (%s)", benchmark.name, len(left_out), reasons)
        if lacking := lacking_rows(benchmark):
            message = "check     %s: the published set has %d rows, and here are %d"
            log.warning(message, benchmark.name, *lacking["rows"])
    rewritten = examples_without_model(run, rows)  # before anything is fetched: this may refuse the run
    renderer, reason = _tokenizer_alone(run)
    _refuse_unpacked(run, rows)
    if renderer and (incomplete_benchmarks(run) or _backbone_writes(run, rows)):
        run.generation.check_delimiters(renderer)
    sizes = prove(run, rows, rewritten, renderer) if renderer else None
    for line in needs.refuse_too_large(run, rows, run.stages, sizes):
        log.info("check     %s", line)
    if renderer is None and MODEL_STAGES & set(run.stages):
        prove(run, rows, rewritten, session.renderer)
    elif renderer is None:
        log.info("check     the rendering will be proved once the tokenizer is there: %s", reason)


def check_prompts(run: Run, session: Session) -> None:
    """Check only that the backbone computes prompts and rows rightly, and that prompts fit, without the stage `check`.

    Raises RunError.
    """
    rewrites = run.training.trains and "rewrite" in run.stages and not run.is_rewritten
    rows = run.rows if rewrites else []
    renderer = _tokenizer_alone(run)[0] or session.renderer
    _refuse_unpacked(run, rows)
    fits_context(run, rows, renderer)


def _tokenizer_alone(run: Run) -> tuple[Renderer | None, str]:
    """Return (renderer, "") without loading weights, or (None, the reason)."""
    try:
        folder = fetch_tokenizer(run.backbone)
    except OSError as error:
        return None, f"{run.backbone.source} is not at hand ({error})"
    from alttrain.backbone.weights import load_tokenizer

    return Renderer(run.backbone, load_tokenizer(folder)), ""


def _refuse_unpacked(run: Run, rows: Sequence[Example]) -> None:
    """Raise RunError if the backbone, as far as its config is at hand, would be trained or decoded wrongly here."""
    due = STAGES if "check" in run.stages else run.stages
    answers = "generate" in due and bool(incomplete_benchmarks(run))
    writes = "rewrite" in due and _backbone_writes(run, rows)
    uses: list[tuple[Purpose, Attention, str, int]] = []
    if "train" in due and run.training.trains and run.needs_training:
        uses.append(("training", run.backbone.attention, "training.max_length", run.training.max_length))
    if isinstance(run.generation, InProcess) and (answers or writes):
        uses.append(("generation", "packed", "backbone.context_length", run.backbone.context_length))
    if not uses or not (config := offline_file(run.backbone, "config.json")):
        return
    from alttrain.backbone.support import shared_context, why_unsupported

    for purpose, kernel, key, tokens in uses:
        try:
            fault = why_unsupported(config.parent, kernel, purpose)
        except ValueError as error:  # no causal language model, or not one that this transformers has
            fault = str(error)
        if fault:
            raise RunError(f"backbone.source={run.backbone.source}: {fault}")
        if (limit := shared_context(config.parent)) is not None and tokens > limit:
            longer = "; for longer ones, generation=vllm" if purpose == "generation" else ""
            neighbours = "a longer sequence would change the positions of the others in its row"
            raise RunError(f"{key}={tokens}: accepted: at most {limit}; {neighbours}{longer}")


def examples_without_model(run: Run, rows: Sequence[Example]) -> list[Example] | None:
    """Return the rows to train on: those of train.jsonl, unless it is absent or written anew; then rows rewritten here.

    Returns None if the rewrite needs a model for its originals or its teacher. Raises RunError if too many rows are
    lost.
    """
    is_kept = run.is_rewritten or "rewrite" not in run.stages
    if is_kept and (written := records.read_rows(run.folder / "train.jsonl", Example)):
        return written
    structure, teacher = run.structure, run.structure.teacher
    asks = any(lacks_understanding(structure, row, run.backbone.untrained_thought) for row in rows)
    if asks or (teacher and not teacher.offline) or needs.lacks_originals(run, rows):
        return None
    assessed = dict(teacher.assess(rows, run.seed, TeacherContext(cache_folder()))) if teacher else {}
    rewritten = [
        said if isinstance(said := assessed.get(row.id), Rejected) else structure.rewrite(row, run.seed, said)
        for row in rows
    ]
    refuse_losses(run, [row for row in rewritten if isinstance(row, Rejected)])
    return [row for row in rewritten if isinstance(row, Example)]


def prove(run: Run, rows: Sequence[Example], rewritten: Sequence[Example] | None, renderer: Renderer) -> Sizes:
    """Check that every prompt fits the context, and that the training rows satisfy `Renderer.problems`.

    `rows` are the dataset's rows. `rewritten` are None if rewriting needs a model. Returns the sizes
    in tokens. Raises RunError that names keys or rows.
    """
    _compare_templates(run, renderer)
    texts = {one.name: [(one.message(row), *row.turns) for row in one.examples] for one in run.benchmarks}
    texts["dataset"] = [(row.prompt, *row.turns, render(row.thought), row.answer) for row in rows]
    for name, row_texts in texts.items():
        if tokens := [token for parts in row_texts if (token := renderer.find_special_token(*parts))]:
            counts = f"{len(tokens)} of {len(row_texts)} {'rows' if name == 'dataset' else 'prompts'}"
            log.info("check     %s: %s spell a special token, such as %s; it stays text", name, counts, tokens[0])
    longest, prompt = fits_context(run, rows, renderer)
    if not run.training.trains:
        return Sizes(longest)
    trainable = [row for row in rewritten or () if row.shape != "prompt_only"]
    if rewritten is None:
        log.info("check     the rows to train on take a model to make; the rewrite stage makes them")
    if not trainable:  # the rewrite stage reports what is missing
        return Sizes(longest, prompt, needs.guessed_rows(rows, run.training.max_length))
    sequences, too_long = tokenize_examples(run, renderer, trainable)
    if run.training.objective.needs_key_sentence:
        marked = sum(sequence.marks is not None for sequence in sequences)
        log.info("check     a key sentence in %d of %d rows", marked, len(sequences))
    if too_long:
        ids = ", ".join(too_long[:NAMED]) + (", ..." if len(too_long) > NAMED else "")
        key = f"training.max_length={run.training.max_length}"
        log.warning("check     %d rows are longer than %s: %s", len(too_long), key, ids)
    log.info("check     rendering proved on %d rows", len(sequences))
    return Sizes(longest, prompt, tuple(map(len, sequences)), counted=True)


def _compare_templates(run: Run, renderer: Renderer) -> None:
    """Warn if the tokenizer's own chat template renders the prompt of a reasoning backbone differently from ours."""
    backbone = run.backbone
    if not renderer.tokenizer.chat_template or backbone.untrained_thought != "open":
        return
    system = [{"role": "system", "content": backbone.system_prompt}] if backbone.system_prompt else []
    messages = [*system, {"role": "user", "content": "Why?"}]
    try:
        tokenizer_prompt = renderer.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may take no system prompt, or be damaged
        tokenizer_prompt = f"{type(error).__name__}: {error}"
    prompt = backbone.template.prompt("Why?", backbone.system_prompt, "open")
    if prompt != tokenizer_prompt:
        message = "check     backbone.template prompts %r, but the tokenizer's own template %r"
        log.warning(message, prompt, tokenizer_prompt)


def fits_context(run: Run, rows: Sequence[Example], renderer: Renderer) -> tuple[int, int]:
    """Return the tokens of the longest prompt of the benchmarks and of the dataset.

    Raises RunError if the context cannot hold a prompt and its response.
    """
    longest, context, original = 0, run.backbone.context_length, run.structure.original
    whole_context, one_token = ("backbone.context_length", context), ("one token of response", 1)
    for benchmark in run.benchmarks if {"check", "generate"} & set(run.stages) else ():
        lengths = [len(renderer.encode(prompt_text(run, renderer, benchmark, row))) for row in benchmark.examples]
        longest = max([longest, *lengths])
        label, decoding = f"benchmark {benchmark.name}", run.protocol.decoding_for(benchmark)
        if (cut_at := decoding.cut_at(context)) is not None:
            limit = (run.protocol.key_for(benchmark, "context"), cut_at)
            _refuse_too_long(label, benchmark.examples, lengths, one_token, limit)
        else:
            key = run.protocol.key_for(benchmark, "max_new_tokens")
            remedy = f", or set {key.removesuffix('max_new_tokens')}context=backbone to cut responses there"
            _refuse_too_long(label, benchmark.examples, lengths, (key, decoding.max_new_tokens), whole_context, remedy)
    if not rows:
        return longest, 0
    lengths = [len(prompt) for prompt in renderer.prompts(rows, run.training.thought)]
    _refuse_too_long("dataset", rows, lengths, one_token, whole_context)
    if original is not None:
        lacking = [row for row in rows if lacks_original(run.structure, row)]
        asked = [len(renderer.encode(original_prompt(run, renderer, row))) for row in lacking]
        _refuse_too_long("dataset", lacking, asked, (needs.tokens_key(run), original.tokens), whole_context)
        lengths += asked
    return longest, max(lengths)


def _refuse_too_long(
    label: str, rows: Iterable[Example], lengths: Iterable[int], room: Tokens, limit: Tokens, remedy: str = ""
) -> None:
    """Raise RunError, naming the first row, if a prompt and `room` more tokens exceed the limit."""
    too_long = [(row, length) for row, length in zip(rows, lengths, strict=True) if length + room[1] > limit[1]]
    if too_long:
        row, length = too_long[0]
        others = f" (and {len(too_long) - 1} more rows like it)" if len(too_long) > 1 else ""
        raise RunError(
            f"{label}, row {row.id} ({row.source}): the prompt has {length} tokens, and with {room[1]} more "
            f"({room[0]}) it passes {limit[0]}={limit[1]}; shorten or leave out the row{others}{remedy}"
        )
