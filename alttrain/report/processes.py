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
"""How many seconds the second process may take after its results are asked for; after this it counts as locked up."""


@contextmanager
def second_process(jobs: Sequence[Callable[[], Value]], many: bool) -> Iterator[Callable[[], list[Value]]]:
    """Do jobs in a second process while the block runs. Yields a function that waits for their results.

    If there is not `many` to do, or no process can be begun, the jobs are done when it is called. The process is a copy
    of this one. Threads are not copied, so a lock that one holds stays held: if the process fails or locks up, the jobs
    are done here, where their error is raised. It is gone when the block ends.
    """

    def here() -> list[Value]:
        return [job() for job in jobs]

    if not many or sys.platform != "linux" or multiprocessing.current_process().daemon:  # a daemon may have no children
        yield here
        return
    fork = multiprocessing.get_context("fork")
    answers, answering = fork.Pipe(duplex=False)
    other = fork.Process(target=_answer, args=(here, answering, answers), daemon=True)
    gc.freeze()  # garbage is not looked for in what both have
    try:
        other.start()
    except OSError as error:  # no memory, or too many processes
        log.info("report    without a second process: %s", error)
    answering.close()

    def results() -> list[Value]:
        with suppress(EOFError, pickle.UnpicklingError):
            if answers.poll(PATIENCE_S):
                return list(answers.recv())
        log.warning("report    a second process gave no results; its part is done here")
        return here()

    try:
        yield results if other.pid else here
    finally:
        if other.pid:
            other.kill()
            other.join()
        answers.close()
        gc.unfreeze()


def _answer(work: Callable[[], Any], answering: Connection, answers: Connection) -> None:
    """Send the results of the work, and end without the clean-up of what this process is a copy of."""
    with suppress(BaseException):
        answers.close()  # so that sending fails if the first process is killed
        answering.send(work())
    os._exit(0)
