"""Stage check: what can be known to fail is told before any weights load. Writes nothing itself.

`check_light` runs always and first: data files, rows, the backbone's folder, packages it wants. The stage proper proves
the rendering on the ids of every row, refuses prompts that the context cannot hold, and estimates each stage's memory.

The tokenizer is taken from where it is, or from the hub alone; neither needs the weights. Where it cannot be had, a run
that goes on to load the model fetches both and proves the rendering then; a check by itself says what it left open.
Memory is refused only for stages that this run executes: a check by itself reports what they would need here.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alttrain.backbone import LoRA, NoAdapter, Shape
from alttrain.backbone.device import Device, check_kernels, cpu_has_bfloat16, has_gpu_driver, look
from alttrain.backbone.memory import (
    CACHE_SHARE,
    Quantization,
    full_training_bytes,
    generation_bytes,
    shape_of,
    training_bytes,
)
from alttrain.backbone.source import at_hand, cache_folder, fetch_tokenizer, is_path
from alttrain.config import RunError
from alttrain.evaluation import HumanEval
from alttrain.generation import InProcess
from alttrain.records import Example, Rejected, read_rows
from alttrain.rewrite import TemplateTeacher, render
from alttrain.rewrite.teachers import Desk
from alttrain.run.assembly import Run
from alttrain.run.folder import check_belongs, check_writable
from alttrain.run.session import Session
from alttrain.run.stages.generate import prompt_text
from alttrain.tokenization import Renderer
from alttrain.training import SupervisedFineTuning

log = logging.getLogger(__name__)

MODEL_STAGES = frozenset({"rewrite", "train", "generate"})
NAMED = 5
"""Rows named in one message; the rest are counted."""

CHARACTERS_PER_TOKEN = 4
STRUCTURE_TOKENS = 150
"""For rows that cannot be tokenised yet: English text, and what template and structure add to a row."""

GIB = 1 << 30


@dataclass(frozen=True)
class Sizes:
    """Tokens: the longest prompt of the benchmarks and of the dataset, and each row to train on, counted or guessed."""

    benchmark_prompt: int
    dataset_prompt: int = 0
    rows: tuple[int, ...] = ()
    counted: bool = False


@dataclass(frozen=True)
class Need:
    """The memory one stage needs, in bytes by part, and the overrides that would make it need less, mildest first.

    `certain` is False where the rows' lengths, and so the activations, are guessed.
    """

    stage: str
    parts: dict[str, int]
    remedies: Callable[[], Iterator[tuple[str, int]]]
    certain: bool = True

    @property
    def total(self) -> int:
        """Everything the stage holds at its peak."""
        return sum(self.parts.values())

    @property
    def least(self) -> int:
        """What it needs whatever the rows' lengths."""
        return self.total if self.certain else self.total - self.parts["activations"]


def check_light(run: Run, data: bool = True) -> None:
    """Read every data file, look at the backbone's folder and the output folder. Raises RunError or ValueError.

    Without `data` the files are not read: another job of a sweep had the same ones read.
    """
    check_writable(run.output_dir)
    if {"train", "judge"} & set(run.stages):
        run.tracker.verify()
    if data:
        run.dataset.examples(run.seed)
    for benchmark in run.benchmarks:
        if data:
            benchmark.rows.examples(None)
        if isinstance(benchmark.judge, HumanEval) and "judge" in run.stages:
            benchmark.judge.sandbox.verify()
    source = run.backbone.source
    if is_path(source) and not Path(source).expanduser().is_dir():
        raise RunError(
            f"backbone.source={source}: no such folder; give a model folder or a hub id such as Qwen/Qwen3-0.6B"
        )
    if MODEL_STAGES & set(run.stages):
        check_kernels(run.backbone.quantization, run.backbone.attention, cuda=has_gpu_driver())
    if run.hardware.compiled == "on" and "train" in run.stages and not has_gpu_driver():
        raise RunError(
            "trainer.compiled=on: layers are compiled for a GPU, and there is none; set trainer.compiled=auto"
        )
    check_belongs(run)


def check(run: Run, session: Session) -> None:
    """Prove the rendering of every row and estimate the memory. Raises RunError, naming rows or keys."""
    rows = run.dataset.examples(run.seed) if run.training.trains else []
    renderer, missing = _tokenizer_alone(run)
    refuse_too_large(run, rows, prove(run, rows, renderer) if renderer else _guess(run, rows))
    if renderer is None and MODEL_STAGES & set(run.stages):
        prove(run, rows, session.renderer)
    elif renderer is None:
        log.info("check     the rendering will be proved once the tokenizer is there: %s", missing)


def _tokenizer_alone(run: Run) -> tuple[Renderer | None, str]:
    """A renderer that needs no weights, or why there is none."""
    try:
        folder = fetch_tokenizer(run.backbone)
    except OSError as error:
        return None, f"{run.backbone.source} is not at hand ({error})"
    from alttrain.backbone.weights import load_tokenizer

    return Renderer(run.backbone, load_tokenizer(folder)), ""


def prove(run: Run, rows: Sequence[Example], renderer: Renderer) -> Sizes:
    """Every prompt fits the context, and the rows to train on keep the rules of `Renderer.problems`."""
    _compare_templates(run, renderer)
    cap, longest = run.protocol.decoding.max_new_tokens, [0]
    for benchmark in run.benchmarks:
        asked = benchmark.rows.examples(None)
        lengths = [len(renderer.encode(prompt_text(run, renderer, benchmark, row))) for row in asked]
        _refuse_too_long(run, f"benchmark {benchmark.name}", asked, lengths, cap, "protocol.decoding.max_new_tokens")
        longest += lengths
    if not isinstance(run.training, SupervisedFineTuning):
        return Sizes(max(longest))
    lengths = [len(prompt) for prompt in renderer.prompts(rows, run.training.thought)]
    _refuse_too_long(run, "dataset", rows, lengths, 1, "one token of response")
    trained = _prove_rows(run, rows, renderer, run.training.max_length)
    rendered = trained or _guessed_rows(rows, run.training.max_length)
    return Sizes(max(longest), max(lengths), rendered, counted=trained is not None)


def _compare_templates(run: Run, renderer: Renderer) -> None:
    """Warn where the tokenizer's own chat template prompts a reasoning backbone otherwise than ours."""
    backbone = run.backbone
    if not renderer.tokenizer.chat_template or backbone.untrained_thought != "open":
        return
    system = [{"role": "system", "content": backbone.system_prompt}] if backbone.system_prompt else []
    asked = [*system, {"role": "user", "content": "Why?"}]
    theirs = renderer.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ours = backbone.template.prompt("Why?", backbone.system_prompt, "open")
    if ours != theirs:
        log.warning("check     backbone.template prompts %r, but the tokenizer's own template %r", ours, theirs)


def _refuse_too_long(
    run: Run, where: str, rows: Sequence[Example], lengths: Sequence[int], room: int, room_name: str
) -> None:
    limit = run.backbone.context_length
    long = [(row, length) for row, length in zip(rows, lengths, strict=True) if length + room > limit]
    if long:
        row, length = long[0]
        others = f" (and {len(long) - 1} more rows like it)" if len(long) > 1 else ""
        raise RunError(
            f"{where}, row {row.id} ({row.source}): the prompt has {length} tokens, and with {room} more "
            f"({room_name}) it passes backbone.context_length={limit}; shorten or leave out the row{others}"
        )


def _prove_rows(run: Run, rows: Sequence[Example], renderer: Renderer, max_length: int) -> tuple[int, ...] | None:
    """Lengths in tokens of the rows that will be trained on, proved; None where making them takes a model."""
    examples = examples_without_model(run, rows)
    if examples is None:
        log.info("check     the rows to train on take a model to make; the rewrite stage makes them")
        return None
    trainable = [example for example in examples if example.thought and (example.answer or example.partial)]
    if not trainable:
        return None  # the rewrite stage says what is missing
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
    if too_long:
        named = ", ".join(too_long[:NAMED]) + (", ..." if len(too_long) > NAMED else "")
        log.warning("check     %d rows are longer than training.max_length=%d: %s", len(too_long), max_length, named)
    log.info("check     rendering proved on %d rows", len(kept))
    return tuple(map(len, kept))


def examples_without_model(run: Run, rows: Sequence[Example]) -> list[Example] | None:
    """The rows to train on: train.jsonl where it is, else rewritten here if neither originals nor teacher take a model.

    None where they do.
    """
    if written := read_rows(run.folder / "train.jsonl", Example):
        return written
    structure = run.structure
    asked = structure.understander is not None or not isinstance(structure.teacher, TemplateTeacher | None)
    if asked or _lacks_originals(run, rows):
        return None
    assessed = {}
    if structure.teacher is not None:
        assessed = dict(structure.teacher.assess(rows, run.seed, Desk(cache_folder())))
    made = []
    for example in rows:
        assessment = assessed.get(example.id)
        if not isinstance(assessment, Rejected):
            made.append(structure.rewrite(example, run.seed, assessment))
    return [example for example in made if not isinstance(example, Rejected)]


def _lacks_originals(run: Run, rows: Sequence[Example]) -> bool:
    """Whether the backbone must be asked for traces and answers before the rewrite."""
    return any(row.label in run.structure.continues and not row.thought for row in rows)


def _guess(run: Run, rows: Sequence[Example]) -> Sizes:
    """Sizes by the characters of the prompts, where there is no tokenizer to count tokens."""

    def longest(rows: Sequence[Example]) -> int:
        return max((len(row.prompt) for row in rows), default=0) // CHARACTERS_PER_TOKEN

    prompts = [longest(benchmark.rows.examples(None)) for benchmark in run.benchmarks]
    if not isinstance(run.training, SupervisedFineTuning):
        return Sizes(max(prompts, default=0))
    return Sizes(max(prompts, default=0), longest(rows), _guessed_rows(rows, run.training.max_length))


def _guessed_rows(rows: Sequence[Example], max_length: int) -> tuple[int, ...]:
    characters = (len(row.prompt) + len(render(row.thought)) + len(row.answer) for row in rows)
    return tuple(min(max_length, count // CHARACTERS_PER_TOKEN + STRUCTURE_TOKENS) for count in characters)


def refuse_too_large(run: Run, rows: Sequence[Example], sizes: Sizes) -> None:
    """Log what each stage needs against what is free; RunError where a stage of this run cannot fit."""
    shape = _shape(run)
    if shape is None:
        log.info("check     no memory estimate: no backbone.shape, and no config.json of a plain decoder at hand")
        return
    device = look(run.hardware.accelerator)
    needs = list(_needs(run, rows, shape, sizes, device))
    due = [n for n in needs if n.stage in run.stages and device.free is not None and n.least > device.free]
    if due:
        raise RunError("\n".join(_refusal(need, device) for need in due))
    if needs:
        log.info("%s", table(needs, device))


def estimate(run: Run, device: Device, rows: Sequence[Example]) -> list[Need]:
    """What each stage that has work left would need, guessed by the characters of the rows."""
    shape = _shape(run)
    return list(_needs(run, rows, shape, _guess(run, rows), device)) if shape else []


def _shape(run: Run) -> Shape | None:
    path = at_hand(run.backbone, "config.json")
    return shape_of(json.loads(path.read_text(encoding="utf-8"))) if path else run.backbone.shape


def _needs(run: Run, rows: Sequence[Example], shape: Shape, sizes: Sizes, device: Device) -> Iterator[Need]:
    """The stages with work left for a model in this process."""
    engine = run.generation
    if (
        isinstance(run.training, SupervisedFineTuning)
        and not isinstance(run.adapter, NoAdapter)
        and not (run.folder / "train.json").exists()
    ):
        if isinstance(engine, InProcess) and _lacks_originals(run, rows) and run.structure.original is not None:
            tokens = run.structure.original.tokens
            yield _generating(run, engine, shape, "rewrite", sizes.dataset_prompt, tokens, device)
        yield _training(run, shape, run.training, sizes, device)
    if run.benchmarks and isinstance(engine, InProcess):
        tokens = run.protocol.decoding.max_new_tokens
        yield _generating(run, engine, shape, "generate", sizes.benchmark_prompt, tokens, device)


def _training(run: Run, shape: Shape, recipe: SupervisedFineTuning, sizes: Sizes, device: Device) -> Need:
    width = _width(run.hardware.precision, device)
    longest_first = sorted(sizes.rows, reverse=True)
    attention, own, adapter = run.backbone.attention, run.hardware.recompute, run.adapter

    def parts(
        batch: int, quantization: Quantization = run.backbone.quantization, recompute: bool = own
    ) -> dict[str, int]:
        rows = longest_first[:batch]
        if not isinstance(adapter, LoRA):
            return full_training_bytes(shape, width, rows, attention, recompute)
        dropout, targets = adapter.dropout > 0, adapter.target_modules
        return training_bytes(
            shape, width, adapter.rank, targets, rows, quantization, attention, dropout, recompute=recompute
        )

    def remedies() -> Iterator[tuple[str, int]]:
        full = recipe.batch_size
        yield "trainer.recompute=true", sum(parts(full, recompute=True).values())
        for batch in range(full - 1, 0, -1):
            yield f"training.batch_size={batch}", sum(parts(batch).values())
        if device.name != "cpu" and isinstance(adapter, LoRA):
            yield "backbone.quantization=nf4", sum(parts(full, "nf4").values())
            yield "backbone.quantization=nf4 trainer.recompute=true", sum(parts(full, "nf4", True).values())
        yield "trainer.recompute=true training.batch_size=1", sum(parts(1, recompute=True).values())

    return Need("train", parts(recipe.batch_size), remedies, certain=sizes.counted)


def _generating(
    run: Run, engine: InProcess, shape: Shape, stage: str, prompt: int, new_tokens: int, device: Device
) -> Need:
    """Decoding holds weights, one pass and as much of the cache as there is room for: one slot at least."""
    width, slots, given = _width(engine.dtype, device), engine.slots, engine.memory_gib

    def parts(new_tokens: int, quantization: Quantization = run.backbone.quantization) -> dict[str, int]:
        whole = generation_bytes(shape, width, slots, prompt, new_tokens, quantization)
        one = generation_bytes(shape, width, 1, prompt, new_tokens, quantization)["cache"]
        room = whole["cache"]
        if given is not None:
            room = int(given * GIB)
        elif device.free is not None:
            room = int(CACHE_SHARE * (device.free - sum(whole.values()) + whole["cache"]))
        return whole | {"cache": max(one, min(whole["cache"], room))}

    def remedies() -> Iterator[tuple[str, int]]:
        if device.name != "cpu":
            yield "backbone.quantization=nf4", sum(parts(new_tokens, "nf4").values())
        fewer = new_tokens // 2
        while fewer:
            yield f"{CAPS[stage]}={fewer}", sum(parts(fewer).values())
            fewer //= 2

    return Need(stage, parts(new_tokens), remedies)


CAPS = {"rewrite": "rewrite.original.tokens", "generate": "protocol.decoding.max_new_tokens"}
"""What caps the new tokens of a stage that generates."""


def _width(dtype: str, device: Device) -> int:
    """Bytes a number takes in a config's dtype on this device."""
    if dtype == "auto":
        dtype = "bfloat16" if device.name != "cpu" or cpu_has_bfloat16() else "float32"
    return 4 if dtype == "float32" else 2


def _refusal(need: Need, device: Device) -> str:
    assert device.free is not None
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in need.parts.items() if size >= GIB // 20)
    fitting = next((override for override, total in need.remedies() if total <= device.free), None)
    remedy = f"set {fitting}" if fitting else "choose a smaller backbone, or a device with more memory"
    return (
        f"{need.stage} needs about {_gib(need.total)} GiB ({parts}), and {device.name} has {_gib(device.free)} free: "
        f"{remedy}"
    )


def table(needs: Sequence[Need], device: Device) -> str:
    """The needs as aligned columns in GiB; a guess is marked with "~"."""
    names = [name for name in _COLUMNS if any(name in need.parts for need in needs)]
    free = "unknown" if device.free is None else _gib(device.free)
    lines = [f"check     memory in GiB, {free} free on {device.name}"]
    lines.append(f"          {'':<9}" + "".join(f"{name:>12}" for name in [*names, "total"]))
    for need in needs:
        cells = [_gib(need.parts[name]) if name in need.parts else "" for name in names]
        cells.append(("" if need.certain else "~ ") + _gib(need.total))
        lines.append(f"          {need.stage:<9}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


_COLUMNS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "cache", "logits")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.2f}"
