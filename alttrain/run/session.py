"""The loaded backbone of a run. Its stages share it, and it loads when a stage first needs it."""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alttrain.backbone import Backbone, Weights, resolve
from alttrain.backbone.device import detect_device, keep_freed_memory
from alttrain.backbone.memory import CACHE_SHARE, Attention, Quantization
from alttrain.backbone.source import fetch_tokenizer
from alttrain.config.identity import shaping_of_engine
from alttrain.generation import InProcess
from alttrain.generation.engine import CachedEngine, Engine, Model
from alttrain.llm import ServerSettings
from alttrain.records import cache_folder
from alttrain.run.assembly import Run
from alttrain.run.folder import check_weights

if TYPE_CHECKING:
    from alttrain.backbone.support import Purpose
    from alttrain.backbone.weights import Adapter

_SHELF: dict[tuple[str, ...], Any] = {}  # the last backbone or judge's model that generated in this process


def clear_shelf() -> None:
    """Release the model on the shelf before another one loads."""
    _SHELF.clear()
    free_memory()


def release_model() -> bool:
    """Release the model on the shelf. Returns whether there was one."""
    if was_held := bool(_SHELF):
        clear_shelf()
    return was_held


def free_memory() -> None:
    """Collect garbage and empty torch's GPU cache, so that the next stage can load a model."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def judge_model(run: Run, source: str, revision: str | None) -> Backbone:
    """Return a judge's model as a backbone, so that it can be fetched as one."""
    return replace(run.backbone, name="judge", source=source, revision=revision, wheel=None)


class Session:
    """Weights, tokenizer and models of one run. Its methods import torch when they are called."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def weights(self) -> Weights:
        """The backbone's weights, downloaded if needed. Raises RunError if the run has used others."""
        weights = resolve(self.run.backbone)
        check_weights(self.run, weights)
        return weights

    @cached_property
    def renderer(self) -> Any:
        from alttrain.backbone.weights import load_tokenizer
        from alttrain.tokenization import Renderer

        return Renderer(self.run.backbone, load_tokenizer(self.weights.folder))

    @cached_property
    def device(self) -> str:
        """The device of this run: "cpu" or "cuda"."""
        import torch

        if self.run.hardware.threads:
            torch.set_num_threads(self.run.hardware.threads)
        if detect_device(self.run.hardware.accelerator).name != "cpu":
            return "cuda"
        keep_freed_memory()
        return "cpu"

    def dtype(self, requested: str) -> Any:
        from alttrain.backbone.weights import choose_dtype

        return choose_dtype(requested, self.device)

    def model(
        self,
        requested: str,
        kernel: Attention = "packed",
        device: str | None = None,
        quantization: Quantization | None = None,
        purpose: "Purpose" = "generation",
    ) -> Any:
        """Load the backbone without adapter. A `quantization` of None is the backbone's.

        The slot decoder needs the kernel "packed"; training uses the backbone's.
        """
        from alttrain.backbone.weights import load_model

        clear_shelf()
        quantization = quantization or self.run.backbone.quantization
        return load_model(self.weights, self.dtype(requested), device or self.device, kernel, quantization, purpose)

    def engine(self, trained: Path | None, quantization: Quantization | None = None) -> AbstractContextManager[Engine]:
        """Start the engine for the untrained backbone, or for what was trained. Stops a server that it started.

        `quantization` applies to weights in this process; None is the backbone's. What the untrained backbone writes in
        this process is kept for all runs.
        """
        kept = trained is None and self.run.generation.batched
        return self.untrained(quantization) if kept else self._started(trained, quantization)

    @contextmanager
    def untrained(self, quantization: Quantization | None = None) -> Iterator[CachedEngine]:
        """Yield an engine of the untrained backbone that keeps its texts for all runs, and starts once one lacks."""
        with ExitStack() as stack:
            yield CachedEngine(
                lambda: stack.enter_context(self._started(None, quantization)),
                self.identity(quantization),
                cache_folder() / "generations",
            )

    def identity(self, quantization: Quantization | None = None) -> dict[str, Any]:
        """Return what shapes texts of the untrained backbone, besides prompt ids and decoding. Cache keys contain it.

        A `quantization` of None is the backbone's.
        """
        run, generation = self.run, self.run.generation
        here = {}
        if generation.dtype:
            device = detect_device(run.hardware.accelerator).name
            here = {"dtype": str(self.dtype(generation.dtype)), "device": device}
        return here | {
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "source": run.backbone.source,
            "weights": self.weights.identity,
            "quantization": quantization or run.backbone.quantization,
            "engine": type(generation).__name__,
            "generation": shaping_of_engine(run.config["generation"], generation.batched),
            "end": self.renderer.end_id,
        }

    @contextmanager
    def _started(self, trained: Path | None, quantization: Quantization | None) -> Iterator[Engine]:
        from alttrain.backbone.weights import CONFIG, read_adapter

        run, quantized = self.run, quantization or self.run.backbone.quantization
        # a server would answer as the bare backbone with an adapter that changes nothing: `read_adapter` refuses that
        adapter = read_adapter(trained) if trained and (trained / CONFIG).exists() else None
        full_model = None if adapter else trained

        def weights() -> Path:
            clear_shelf()
            return full_model or self.weights.folder

        decoder = partial(self._decoder, adapter=adapter, full_model=full_model, quantization=quantized)
        log = run.folder / "server.log" if trained else run.output_dir / "cache" / f"{run.name}.server.log"
        folder = adapter.folder if adapter else None
        with run.generation.start(Model(run.name, self.renderer, folder, full_model, weights, decoder, log)) as engine:
            yield engine

    def _decoder(
        self, generation: InProcess, adapter: "Adapter | None", full_model: Path | None, quantization: Quantization
    ) -> Any:
        """Return a decoder of the backbone, of the backbone with an adapter, or of a `full_model` that was trained.

        The backbone that adapters are merged into stays on the shelf, so that jobs of one process do not reload it.
        """
        from alttrain.backbone.weights import Base, attach_adapter, load_model
        from alttrain.generation.decoder import Decoder

        dtype = self.dtype(generation.dtype)
        if full_model is not None:
            clear_shelf()
            model = load_model(Weights(full_model, "trained"), dtype, self.device, "packed", quantization)
        elif quantization != "none":
            model = self.model(generation.dtype, quantization=quantization)
            model = attach_adapter(model, adapter) if adapter else model
        else:
            key = (self.weights.identity, str(self.weights.folder), str(dtype), self.device)
            if key not in _SHELF:
                _SHELF[key] = Base(self.model(generation.dtype, quantization="none"))
            model = _SHELF[key].merge(adapter)
        free_bytes = detect_device(self.run.hardware.accelerator).free
        memory = None if free_bytes is None else int(CACHE_SHARE * free_bytes)
        return Decoder(model, self.renderer.end_id, generation.slots, self.device, memory)

    def scorer(self, source: str, revision: str | None, dtype: str, server: ServerSettings | None) -> Any:
        """Return a judge's model, which stays on the shelf until another model loads, or what asks a server for it."""
        from alttrain.generation.scorer import ServedScorer, load_scorer

        if server is not None:
            return ServedScorer(server, fetch_tokenizer(judge_model(self.run, source, revision)))
        weights = resolve(judge_model(self.run, source, revision))
        key = ("judge", str(weights.folder), weights.identity, dtype)
        if key not in _SHELF:
            clear_shelf()
            _SHELF[key] = load_scorer(weights.folder, dtype, self.device)
            _SHELF[key].weights = weights.identity
        return _SHELF[key]
