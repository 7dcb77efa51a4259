"""The memory that each stage needs, and settings that reduce it. Writes no file.

Lengths are counted in tokens if there is a tokenizer, and otherwise estimated from characters.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alttrain.backbone import Shape
from alttrain.backbone.config import Trainable
from alttrain.backbone.device import GIB, Device, look, number_bytes
from alttrain.backbone.memory import Quantization, device_bytes, shape_of
from alttrain.backbone.source import at_hand
from alttrain.config import RunError
from alttrain.records import Example, read_json
from alttrain.rewrite import lacks_original, render
from alttrain.run.assembly import Run
from alttrain.training import Hardware, SupervisedFineTuning

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
STRUCTURE_TOKENS = 150
"""Estimates without a tokenizer: characters per token of English, and tokens that template and structure add."""


@dataclass(frozen=True)
class Sizes:
    """Lengths in tokens: of the longest prompts, and of each row to train on, which are `counted` or estimated."""

    benchmark_prompt: int
    dataset_prompt: int = 0
    rows: tuple[int, ...] = ()
    counted: bool = False


@dataclass(frozen=True)
class Need:
    """The memory that one stage needs, in bytes by part.

    `remedies` yields (override, total bytes with it) for settings that need less memory, least intrusive first.
    `certain` is False if the lengths of rows, and therefore the activations, are estimated.
    """

    stage: str
    parts: dict[str, int]
    remedies: Callable[[], Iterator[tuple[str, int]]]
    certain: bool = True

    @property
    def total(self) -> int:
        """Bytes at the stage's peak."""
        return sum(self.parts.values())

    @property
    def least(self) -> int:
        """Bytes that the stage needs at any row length."""
        return self.total if self.certain else self.total - self.parts["activations"]


def guess(run: Run, rows: Sequence[Example]) -> Sizes:
    """Estimate sizes from the characters of the prompts, without a tokenizer."""

    def longest(rows: Sequence[Example]) -> int:
        return max((len(row.prompt) for row in rows), default=0) // CHARACTERS_PER_TOKEN

    asked = max((longest(benchmark.examples) for benchmark in run.benchmarks), default=0)
    recipe = run.training
    return Sizes(asked, longest(rows), guessed_rows(rows, recipe.max_length)) if recipe.trains else Sizes(asked)


def guessed_rows(rows: Sequence[Example], max_length: int) -> tuple[int, ...]:
    characters = (len(row.prompt) + len(render(row.thought)) + len(row.answer) for row in rows)
    return tuple(min(max_length, count // CHARACTERS_PER_TOKEN + STRUCTURE_TOKENS) for count in characters)


def lacks_originals(run: Run, rows: Sequence[Example]) -> bool:
    """Return whether the backbone must generate traces and answers before the rewrite."""
    return any(lacks_original(run.structure, row) for row in rows)


def refuse_too_large(run: Run, rows: Sequence[Example], sizes: Sizes) -> None:
    """Log the memory that each stage needs and the free memory. Raises RunError if a stage of this run cannot fit."""
    shape = shape_known(run)
    if shape is None:
        log.info("check     no memory estimate: no backbone.shape, and no config.json of a plain decoder at hand")
        return
    device = look(run.hardware.accelerator, run.hardware.memory_gib)
    needs = list(_needs(run, rows, shape, sizes, device))
    due = [n for n in needs if n.stage in run.stages and device.free is not None and n.least > device.free]
    if due:
        raise RunError("\n".join(_refusal(need, device) for need in due))
    if needs:
        log.info("%s", table(needs, device))


def estimate(run: Run, device: Device, rows: Sequence[Example]) -> list[Need]:
    """Estimate the memory of each stage with work left, from the characters of the rows."""
    shape = shape_known(run)
    return list(_needs(run, rows, shape, guess(run, rows), device)) if shape else []


def fitted(run: Run, rows: Sequence[Example] | None = None) -> Run:
    """Return the run with the hardware settings its training needs: the first of `_larger` that fits, or the last.

    `rows` are its training rows before the rewrite; None reads them.
    """
    hardware, recipe = run.hardware, run.training
    due = {"check", "train"} & set(run.stages) and not (run.folder / "train.json").exists()
    shape = shape_known(run) if hardware.memory_gib is not None and due else None
    if shape is None or not recipe.trains:
        return run
    device = look(hardware.accelerator, hardware.memory_gib)
    lengths = Sizes(0, rows=guessed_rows(run.rows if rows is None else rows, recipe.max_length))
    for larger in _larger(hardware, run.adapter):
        run = replace(run, hardware=larger)
        need = _training(run, shape, recipe, lengths, device)
        if device.free is None or need.total <= device.free:
            break
    return run


def _larger(hardware: Hardware, adapter: Trainable) -> Iterator[Hardware]:
    """Yield the configured hardware, then slower settings that need less memory, then more devices."""
    yield hardware
    yield replace(hardware, recompute=True)
    one = replace(hardware, recompute=True, examples_per_pass=1)
    yield one
    devices = 2
    while devices <= hardware.most_devices:
        yield replace(one, devices=devices, strategy=adapter.sharding)
        devices *= 2
    if not adapter.freezes and hardware.most_devices > 1:
        yield replace(one, devices=hardware.most_devices, strategy="deepspeed_stage_3_offload")


def shape_known(run: Run) -> Shape | None:
    """Return the backbone's dimensions, from a local config.json or else from the run's config; None if unknown."""
    path = at_hand(run.backbone, "config.json")
    return shape_of(read_json(path, remedy="fetch the backbone again")) if path else run.backbone.shape


def _needs(run: Run, rows: Sequence[Example], shape: Shape, sizes: Sizes, device: Device) -> Iterator[Need]:
    """Yield the memory needs of stages that have work left for a model in this process."""
    if run.training.trains and run.adapter.trains and not (run.folder / "train.json").exists():
        if run.structure.original is not None and lacks_originals(run, rows):
            caps = {tokens_key(run): run.structure.original.tokens}
            yield from _generating(run, shape, "rewrite", sizes.dataset_prompt, caps, device)
        yield _training(run, shape, run.training, sizes, device)
    if run.benchmarks:
        caps = {
            run.protocol.key_for(benchmark, "max_new_tokens"): run.protocol.decoding_for(benchmark).max_new_tokens
            for benchmark in run.benchmarks
        }
        yield from _generating(run, shape, "generate", sizes.benchmark_prompt, caps, device)


def _training(run: Run, shape: Shape, recipe: SupervisedFineTuning, sizes: Sizes, device: Device) -> Need:
    """Return the memory that training needs on one device.

    SafeKey's second pass, over a short prefix of each response, is not counted.
    """
    width = number_bytes(run.hardware.precision, device)
    longest_first = sorted(sizes.rows, reverse=True)[: recipe.batch_size]
    adapter = run.adapter
    how = {"attention": run.backbone.attention, "optimizer": recipe.optimizer}

    def parts(hardware: Hardware, quantization: Quantization = run.backbone.quantization) -> dict[str, int]:
        share = -(-recipe.batch_size // hardware.world_size)
        passes = -(-share // (hardware.examples_per_pass or share))
        rows = longest_first[:: hardware.world_size * passes]
        whole = adapter.memory(shape, width, rows, quantization, recompute=hardware.recompute, **how)
        return device_bytes(whole, shape, hardware.strategy, hardware.world_size)

    def less(quantization: Quantization | None = None, **changes: Any) -> tuple[str, int]:
        words = [f"trainer.{key}={str(value).lower()}" for key, value in changes.items()]
        words = [f"backbone.quantization={quantization}", *words] if quantization else words
        shrunk = parts(replace(run.hardware, **changes), quantization or run.backbone.quantization)
        return " ".join(words), sum(shrunk.values())

    def remedies() -> Iterator[tuple[str, int]]:
        """Yield settings that do not change the recipe and then, on a GPU, 4-bit weights or several devices."""
        yield less(recompute=True)
        fewer = -(-recipe.batch_size // run.hardware.world_size) // 2
        while fewer:
            yield less(examples_per_pass=fewer)
            fewer //= 2
        yield less(recompute=True, examples_per_pass=1)
        if device.name == "cpu":
            return
        if adapter.freezes:
            yield less("nf4")
            yield less("nf4", recompute=True)
        for devices in (2, 4, 8):
            yield less(devices=devices, strategy=adapter.sharding, recompute=True, examples_per_pass=1)

    return Need("train", parts(run.hardware), remedies, certain=sizes.counted)


def _generating(
    run: Run, shape: Shape, stage: str, prompt: int, caps: Mapping[str, int], device: Device
) -> Iterator[Need]:
    """Yield the engine's memory need, if it uses this process's memory.

    `caps` maps config keys to their maximum of new tokens.
    """
    of_protocol = run.protocol.quantization if stage == "generate" else None
    shrunk = "backbone.quantization" if of_protocol is None else "protocol.quantization"
    own, most = of_protocol or run.backbone.quantization, max(caps.values())

    def total(new_tokens: int, quantization: Quantization = own) -> int:
        return sum((run.generation.memory(shape, device, prompt, new_tokens, quantization) or {}).values())

    def remedies() -> Iterator[tuple[str, int]]:
        if device.name != "cpu":
            yield f"{shrunk}=nf4", total(most, "nf4")
        fewer = most // 2
        while fewer:
            lowered = (f"{key}={fewer}" for key, cap in caps.items() if cap > fewer)
            yield " ".join(lowered), total(fewer)
            fewer //= 2

    parts = run.generation.memory(shape, device, prompt, most, own)
    if parts is not None:
        yield Need(stage, dict(parts), remedies)


def tokens_key(run: Run) -> str:
    """Return the config key of the maximum tokens of an original that the backbone generates."""
    kind = "reasoning" if run.backbone.untrained_thought == "open" else "short"
    nested = kind in (run.config["rewrite"].get("original") or {})
    return f"rewrite.original.{kind}.tokens" if nested else "rewrite.original.tokens"


def _refusal(need: Need, device: Device) -> str:
    assert device.free is not None
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in need.parts.items() if size >= GIB // 20)
    fitting = (f"set {override}" for override, total in need.remedies() if total <= device.free)
    remedy = next(fitting, "choose a smaller backbone, or a device with more memory")
    needed = f"{need.stage} needs about {_gib(need.total)} GiB ({parts})"
    return f"{needed}, and {device.name} has {_gib(device.free)} free: {remedy}"


def table(needs: Sequence[Need], device: Device) -> str:
    """Return the needs as aligned columns in GiB. Estimates are marked with "~"."""
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
