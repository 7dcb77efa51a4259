"""A second process that does a part of a report's work."""

import gc
import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")
MANY = 100  # number of judged benchmarks from which a second process helps
PATIENCE_S = 120
"""How many seconds the second process may take after its results are requested; then it counts as locked up."""


@contextmanager
def second_process(jobs: Sequence[Callable[[], Value]], many: bool) -> Iterator[Callable[[], list[Value]]]:
    """Do jobs in a second process while the block runs. Yields a function that waits for their results.

    If there is not `many` to do, or no process can be begun, the jobs are done when it is called. The process is a copy
    of this one. Threads are not copied, so a lock that one holds stays held: if the process fails or locks up, the jobs
    are done here, where their error is raised. It is gone when the block ends.
    """

    def do_jobs() -> list[Value]:
        return [job() for job in jobs]

    if not many or sys.platform != "linux" or multiprocessing.current_process().daemon:  # a daemon may have no children
        yield do_jobs
        return
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_send_results, args=(do_jobs, sender, receiver), daemon=True)
    gc.freeze()  # the collector then skips what both processes share
    try:
        process.start()
    except OSError as error:  # no memory, or too many processes
        log.info("report    without a second process: %s", error)
    sender.close()

    def results() -> list[Value]:
        with suppress(EOFError, pickle.UnpicklingError):
            if receiver.poll(PATIENCE_S):
                return list(receiver.recv())
        log.warning("report    a second process gave no results; its part is done here")
        return do_jobs()

    try:
        yield results if process.pid else do_jobs
    finally:
        if process.pid:
            process.kill()
            process.join()
        receiver.close()
        gc.unfreeze()


def _send_results(do_jobs: Callable[[], Any], sender: Connection, receiver: Connection) -> None:
    """Send the results of the jobs, and end without the clean-up of the process that this one is a copy of."""
    with suppress(BaseException):
        receiver.close()  # so that sending fails if the first process is killed
        sender.send(do_jobs())
    os._exit(0)
