"""What each stage needs of memory and disk, whether that is free, and settings that reduce it.

`needs_of` estimates, `refuse_*` compare with what is free, `fit_hardware` chooses settings with which a training fits.
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alttrain.backbone import Backbone, Shape
from alttrain.backbone.device import GIB, Device, detect_device, number_bytes
from alttrain.backbone.memory import Quantization, device_bytes, shape_of, training_bytes, weight_bytes
from alttrain.backbone.source import offline_file, stored_bytes
from alttrain.config import RunError
from alttrain.records import Example, read_json
from alttrain.rewrite import lacks_original, render
from alttrain.run.assembly import Run
from alttrain.run.folder import nearest_existing
from alttrain.run.session import release_model
from alttrain.run.stages.generate import incomplete_benchmarks
from alttrain.training import Hardware

CHARACTERS_PER_TOKEN = 4
STRUCTURE_TOKENS = 150
"""Estimates without a tokenizer: characters per token of English, and tokens that template and structure add."""
BFLOAT16_BYTES = 2
MOST_DEVICES = 8  # the most devices that a remedy names


@dataclass(frozen=True)
class Sizes:
    """Lengths in tokens: of the longest prompts, and of each row to train on, which are `counted` or estimated."""

    benchmark_prompt: int
    dataset_prompt: int = 0
    rows: tuple[int, ...] = ()
    counted: bool = False


@dataclass(frozen=True)
class Need:
    """The memory that one stage needs at its peak."""

    stage: str
    parts: Mapping[str, int]  # in bytes
    remedies: Callable[[], Iterator[tuple[str, int]]]  # yield (override, total bytes with it), least intrusive first
    certain: bool = True  # False if the lengths of rows, and therefore the activations, are estimated

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def guessed_rows(rows: Sequence[Example], max_length: int) -> tuple[int, ...]:
    """Estimate the tokens of each row to train on."""
    characters = (len(row.prompt) + len(render(row.thought)) + len(row.answer) for row in rows)
    return tuple(min(max_length, count // CHARACTERS_PER_TOKEN + STRUCTURE_TOKENS) for count in characters)


def lacks_originals(run: Run, rows: Sequence[Example]) -> bool:
    """Return whether the backbone must generate traces and answers before the rewrite."""
    return any(lacks_original(run.structure, row) for row in rows)


def shape_known(run: Run) -> Shape | None:
    """Return the backbone's dimensions, from a local config.json or else from the run's config; None if unknown."""
    path = offline_file(run.backbone, "config.json")
    return shape_of(read_json(path, remedy="fetch the backbone again")) if path else run.backbone.shape


def quantised_bytes(model: Backbone, shape: Shape | None) -> int | None:
    """Return the size of a model's weights that come quantised, as in FP8, AWQ or MXFP4; None if they do not.

    They are loaded as they are stored, or wider where the machine lacks their kernels. Until they are downloaded they
    count as nf4, about the smallest form, since an estimate must not refuse what may fit.
    """
    path = offline_file(model, "config.json")
    if path is None or not read_json(path, remedy="fetch the backbone again").get("quantization_config"):
        return None
    return stored_bytes(path.parent) or (weight_bytes(shape, BFLOAT16_BYTES, "nf4") if shape else 0)


def needs_of(run: Run, rows: Sequence[Example], device: Device, sizes: Sizes | None = None) -> list[Need]:
    """Return the needs of stages that have work left for a model in this process; [] if the shape is unknown.

    `rows` are the training rows before the rewrite. Without `sizes`, lengths are estimated from characters.
    """
    if (shape := shape_known(run)) is None:
        return []
    if sizes is None:
        examples = [row for benchmark in run.benchmarks for row in benchmark.examples]
        longest = [max((len(row.prompt) for row in prompts), default=0) for prompts in (examples, rows)]
        lengths = guessed_rows(rows, run.training.max_length) if run.training.trains else ()
        sizes = Sizes(longest[0] // CHARACTERS_PER_TOKEN, longest[1] // CHARACTERS_PER_TOKEN, lengths)
    needs: list[Need] = []
    if run.needs_training and run.adapter.trains:
        if run.structure.original is not None and not run.is_rewritten and lacks_originals(run, rows):
            caps = {tokens_key(run): run.structure.original.tokens}
            needs.append(_generation_need(run, shape, "rewrite", sizes.dataset_prompt, caps, device))
        needs.append(_training_need(run, shape, sizes, device))
    if run.benchmarks and (run.needs_training or incomplete_benchmarks(run)):
        caps = {
            run.protocol.key_for(benchmark, "max_new_tokens"): run.protocol.decoding_for(benchmark).max_new_tokens
            for benchmark in run.benchmarks
        }
        needs.append(_generation_need(run, shape, "generate", sizes.benchmark_prompt, caps, device))
    return [need for need in needs if need.parts]


def _training_need(run: Run, shape: Shape, sizes: Sizes, device: Device) -> Need:
    """Return the memory that training needs on one device, without SafeKey's second pass over short prefixes."""
    recipe, adapter = run.training, run.adapter
    assert recipe.trains
    width = number_bytes(run.hardware.precision, device)
    longest_first = sorted(sizes.rows, reverse=True)[: recipe.batch_size]

    def parts(hardware: Hardware, quantization: Quantization) -> dict[str, int]:
        lengths = longest_first[:: hardware.world_size * hardware.passes(recipe.batch_size)]
        undivided = training_bytes(
            shape,
            width,
            lengths=lengths,
            quantization=quantization,
            attention=run.backbone.attention,
            recompute=hardware.recompute,
            optimizer=recipe.optimizer,
            **adapter.footprint(width),
        )
        return device_bytes(undivided, shape, hardware.strategy, hardware.world_size)

    def remedies() -> Iterator[tuple[str, int]]:
        gpu = device.name != "cpu"
        options: list[tuple[Quantization | None, dict[str, Any]]]
        options = [(None, changes) for changes in _reductions(MOST_DEVICES if gpu else 1)]
        if gpu and adapter.freezes:
            options[2:2] = [("nf4", {}), ("nf4", {"recompute": True})]
        for quantization, changes in options:
            words = [f"backbone.quantization={quantization}"] if quantization else []
            words += [f"trainer.{key}={str(value).lower()}" for key, value in changes.items()]
            less = parts(replace(run.hardware, **changes), quantization or run.backbone.quantization)
            yield " ".join(words), sum(less.values())

    return Need("train", parts(run.hardware, run.backbone.quantization), remedies, certain=sizes.counted)


def _generation_need(run: Run, shape: Shape, stage: str, prompt: int, caps: Mapping[str, int], device: Device) -> Need:
    """Return the engine's memory need, without parts if it does not use this process's memory.

    `caps` maps config keys to their maximum of new tokens.
    """
    of_protocol = run.protocol.quantization if stage == "generate" else None
    quantization_key = "backbone.quantization" if of_protocol is None else "protocol.quantization"
    current, most_tokens = of_protocol or run.backbone.quantization, max(caps.values())
    stored = quantised_bytes(run.backbone, shape)

    def parts(new_tokens: int, quantization: Quantization) -> Mapping[str, int]:
        weights = quantization if stored is None else stored
        return run.generation.memory(shape, device, prompt, new_tokens, weights)

    def remedies() -> Iterator[tuple[str, int]]:
        if device.name != "cpu" and stored is None:
            yield f"{quantization_key}=nf4", sum(parts(most_tokens, "nf4").values())
        fewer = most_tokens // 2
        while fewer:
            lowered = (f"{key}={fewer}" for key, cap in caps.items() if cap > fewer)
            yield " ".join(lowered), sum(parts(fewer, current).values())
            fewer //= 2

    return Need(stage, parts(most_tokens, current), remedies)


def tokens_key(run: Run) -> str:
    """Return the config key of the maximum tokens of an original that the backbone generates."""
    kind = "reasoning" if run.backbone.untrained_thought == "open" else "short"
    nested = kind in (run.config["rewrite"].get("original") or {})
    return f"rewrite.original.{kind}.tokens" if nested else "rewrite.original.tokens"


def refuse_too_large(
    run: Run, rows: Sequence[Example], stages: Collection[str], sizes: Sizes | None = None
) -> list[str]:
    """Return a line for each need: how much memory, and what is free. Raises RunError if one of `stages` cannot fit.

    The activations of estimated rows refuse nothing.
    """
    if shape_known(run) is None:
        return ["no memory estimate: no backbone.shape, and no config.json of a plain decoder at hand"]
    device = detect_device(run.hardware.accelerator, run.hardware.memory_gib)
    free = "an unknown amount" if device.free is None else _gib(device.free)
    lines, refused = [], []
    for need in needs_of(run, rows, device, sizes):
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in need.parts.items())
        line = f"{need.stage} needs about {_gib(need.total)} GiB ({parts}), and {device.name} has {free} free"
        lines.append(line)
        least = need.total if need.certain else need.total - need.parts["activations"]
        if need.stage in stages and device.free is not None and least > device.free:
            fitting = (f"set {override}" for override, total in need.remedies() if total <= device.free)
            remedy = next(fitting, "choose a smaller backbone, or a device with more memory")
            refused.append(f"{line}: {remedy}")
    if refused and release_model():
        return refuse_too_large(run, rows, stages, sizes)
    if refused:
        raise RunError(*refused)
    return lines


def too_large(run: Run, model: Backbone, dtype: str) -> str:
    """Return why a judge's model, by its weights alone, does not fit; "" if it does, or if that is not known."""
    path, device = offline_file(model, "config.json"), detect_device(run.hardware.accelerator, run.hardware.memory_gib)
    shape = shape_of(read_json(path)) if path else None
    size = quantised_bytes(model, shape)
    if size is None:
        size = weight_bytes(shape, number_bytes(dtype, device)) if shape else 0
    if device.free is None or size <= device.free:
        return ""
    if release_model():
        return too_large(run, model, dtype)
    remedy = "choose a smaller judge, or ask a server that serves it (base_url)"
    return f"its weights take {_gib(size)} GiB, and {device.name} has {_gib(device.free)} free; {remedy}"


def refuse_full_disk(runs: Sequence[Run]) -> None:
    """Raise RunError if what runs of one output folder keep there, and one checkpoint, is more than is free."""
    trained, checkpoints = 0, [0]
    for run in {run.folder: run for run in runs}.values():
        shape = shape_known(run)
        if shape is None or not (run.needs_training and {"check", "train"} & set(run.stages)):
            continue
        parts = training_bytes(shape, BFLOAT16_BYTES, lengths=[], **run.adapter.footprint(BFLOAT16_BYTES))
        whole_model = BFLOAT16_BYTES * shape.parameters  # saved in this precision, whatever it is trained in
        trained += parts["adapter"] if run.adapter.freezes else whole_model
        checkpoints.append(parts["gradients"] + parts["optimizer"])  # as large as weights and moments
    needed, output_dir = trained + max(checkpoints), runs[0].output_dir
    if needed > (free := shutil.disk_usage(nearest_existing(output_dir)).free):
        raise RunError(
            f"output_dir={output_dir}: what is trained takes about {_gib(needed)} GiB with a checkpoint, and "
            f"{_gib(free)} are free there; make room, or set output_dir to a larger disk"
        )


def fit_hardware(run: Run, rows: Sequence[Example] | None = None, trained: bool = False) -> Run:
    """Return the run with hardware settings with which its training fits: the first that do, or else the last.

    `rows` are its training rows before the rewrite; None reads them. A run whose training is done is returned as it is,
    unless `trained`. Only with `trainer.memory_gib`.
    """
    hardware, recipe = run.hardware, run.training
    trains = (trained or run.needs_training) and {"check", "train"} & set(run.stages)
    if hardware.memory_gib is None or not trains or not recipe.trains or (shape := shape_known(run)) is None:
        return run
    device = detect_device(hardware.accelerator, hardware.memory_gib)
    sizes = Sizes(0, rows=guessed_rows(run.rows if rows is None else rows, recipe.max_length))
    for changes in ({}, *_reductions(hardware.most_devices)):
        run = replace(run, hardware=replace(hardware, **changes))
        if device.free is None or _training_need(run, shape, sizes, device).total <= device.free:
            break
    return run


def _reductions(most_devices: int) -> Iterator[dict[str, Any]]:
    """Yield settings of the hardware that need less and less memory, and leave the recipe as it is."""
    smallest_pass = {"recompute": True, "examples_per_pass": 1}
    yield {"recompute": True}
    yield smallest_pass
    devices = 2
    while devices <= most_devices:
        yield {"devices": devices, "strategy": "fsdp", **smallest_pass}
        devices *= 2


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.2f}"
