"""Decode steps launched as one: recorded as CUDA graphs, and with compiled layers.

A decode step of a large backbone is a thousand small kernels that take longer to launch than to run. Recorded once,
they are launched together. A recording has fixed shapes, so the number of slots and how far attention reaches are
rounded up to few values; what changes from step to step, tokens and positions, stands in tensors that stay in place.

Compiled layers join kernels. Attention over slots is left out of them (`alttrain.backbone.attention`), so that one
program serves every layer, every number of slots and every reach.
"""

import logging
from collections.abc import Callable
from functools import partial

import torch

from alttrain.backbone.slots import SlotCache

log = logging.getLogger(__name__)

STRIDE = 128
"""Reaches of attention are multiples of this, and of an eighth of the next power of two."""

Forward = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(ids (1, n), positions (1, n), reach above every position) -> the next tokens' logits (n, vocabulary)."""
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a call launches, without running it -> a call that launches it."""


class Recorded:
    """Decode steps over one cache. A step of new shapes runs as it is, which also readies what recording must find
    ready; the second is recorded, and replayed from then on. Good as long as the cache's tensors stay the same.
    """

    def __init__(self, forward: Forward, cache: SlotCache, device: torch.device, record: Recorder) -> None:
        self.forward = forward
        self.cache = cache
        self.record = record
        # two tensors: parts of one have an offset or a stride that is at first the number of slots in use, which
        # compiled code would take for a rule
        self._ids = torch.zeros(cache.slots, dtype=torch.long, device=device)
        self._positions = torch.zeros_like(self._ids)
        self._logits: torch.Tensor | None = None
        self._replays: dict[tuple[int, int], Callable[[], None] | None] = {}

    def step(self, ids: list[int], positions: list[int]) -> torch.Tensor:
        """Logits after the newest token of each of the first slots (slots in use, vocabulary), until the next step."""
        shapes = few_slots(len(ids), self.cache.slots), few_reaches(max(positions) + 1, self.cache.length)
        idle = [0] * (shapes[0] - len(ids))  # in slots that nobody uses
        self._ids[: shapes[0]] = torch.tensor(ids + idle)
        self._positions[: shapes[0]] = torch.tensor(positions + idle)
        if shapes not in self._replays:
            self._replays[shapes] = None
            self._run(*shapes)
        else:
            replay = self._replays[shapes]
            if replay is None:
                replay = self._replays[shapes] = self.record(partial(self._run, *shapes))
            replay()
        assert self._logits is not None
        return self._logits[: len(ids)]

    def _run(self, slots: int, reach: int) -> None:
        logits = self.forward(self._ids[:slots][None], self._positions[:slots][None], reach)
        if self._logits is None:
            self._logits = logits.new_empty((self.cache.slots, logits.shape[-1]))
        self._logits[:slots] = logits  # all recordings share the memory they work in; what is read later stands here


def few_slots(count: int, slots: int) -> int:
    """The next power of two from 2 on, for compiled code takes a size of 1 for another program; or all slots."""
    return min(slots, max(2, 1 << (count - 1).bit_length()))


def few_reaches(longest: int, length: int) -> int:
    """Rounded up by at most an eighth, or to `STRIDE`; a slot's length at most."""
    stride = max(STRIDE, (1 << (longest - 1).bit_length()) // 8)
    return min(length, -(-longest // stride) * stride)


def cuda_recorder() -> Recorder:
    """Records CUDA graphs that share a pool of memory. What cannot be recorded runs as it is, and a warning says so."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as fault:
            log.warning("generation  a decode step cannot be recorded, and is launched kernel by kernel: %s", fault)
            return run
        return graph.replay

    return record
