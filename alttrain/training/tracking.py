"""A sink that may fail or hang, kept from the run: its calls are made in a thread, one after another.

The first call that raises is told in the log, and the sink gets no more. Whoever ends the tracking waits `PATIENCE_S`
seconds at most; what is still to be said then is said while the run goes on.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from alttrain.training.sinks import Sink, one_line
from alttrain.training.trackers import Table, Tracked, Tracker

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
HELD = 10_000
"""Calls that wait for a slow sink; what comes then is dropped."""


class Tracking:
    """The tracking of one run in one stage; ended by `close`, whatever came between."""

    def __init__(self, tracker: Tracker, run: Tracked, patience_s: float = PATIENCE_S) -> None:
        self.run = run
        self._patience_s = patience_s
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(HELD)
        self._failed = False
        self._sink: Sink | None = None
        self._thread: threading.Thread | None = None
        try:
            self._sink = tracker.sink(run)
        except Exception as error:
            self._fail(error)
        if self._sink is not None:
            # a daemon: a hanging sink does not keep the process
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()

    @property
    def on(self) -> bool:
        """Whether anything listens beyond the files in the run's folder."""
        return self._sink is not None and not self._failed

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """What was measured at an optimizer step."""
        if self._sink is not None:
            sink, told = self._sink, {name: float(value) for name, value in values.items()}
            self._call(lambda: sink.scalars(told, step))

    def judged(self, metrics: Mapping[str, float], tables: Mapping[str, Table]) -> None:
        """The run's final metrics, and each benchmark's samples."""
        if self._sink is not None:
            sink = self._sink
            self._call(lambda: sink.summary(metrics))
            for benchmark, table in tables.items():
                self._call(partial(sink.table, benchmark, table))

    def trained(self, folder: Path) -> None:
        """What was trained is saved in this folder."""
        if self._sink is not None:
            sink = self._sink
            self._call(lambda: sink.trained(folder))

    def close(self) -> None:
        """End the sink, and wait a little for it."""
        if self._thread is None:
            return
        self._put(None)
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            log.warning("tracker   has not ended after %.0f s; the run does not wait for it", self._patience_s)
        self._thread = None

    def _call(self, call: Callable[[], None]) -> None:
        if not self._failed:
            self._put(call)

    def _put(self, call: Callable[[], None] | None) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(TimeoutError(f"{HELD:,} calls are waiting for it"))

    def _work(self) -> None:
        assert self._sink is not None
        while (call := self._calls.get()) is not None:
            if not self._failed:
                self._try(call)
        self._try(self._sink.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a tracker never stops a run, whatever it raises
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning("tracker   failed, and the run goes on without it: %s", one_line(error))


def lightning_loggers(tracking: Tracking) -> list[Any]:
    """Lightning's loggers of a training: logs/metrics.csv, and what hands each row on to the tracking."""
    from alttrain.training.forwarding import CsvLog, Forwarding

    return [CsvLog(tracking.run.folder / "logs" / "metrics.csv"), Forwarding(tracking)]
