"""A second process that does a part of a report's work."""

import gc
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import TypeVar

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

    other = None
    if many and sys.platform == "linux":
        answer, told = os.pipe()
        gc.freeze()  # garbage is not looked for in what both have
        try:
            other = os.fork()
        except OSError:  # no memory, or too many processes
            os.close(answer)
            os.close(told)
            gc.unfreeze()
    if other is None:
        yield here
        return
    if other == 0:
        with suppress(BaseException), open(told, "wb") as file:
            os.close(answer)  # so that it ends if this process is killed
            file.write(pickle.dumps(here()))
        os._exit(0)
    os.close(told)

    def results() -> list[Value]:
        with suppress(EOFError, pickle.UnpicklingError), open(answer, "rb", closefd=False) as file:
            if wait([answer], PATIENCE_S):
                return list(pickle.load(file))
        log.warning("report    a second process gave no results; its part is done here")
        os.kill(other, signal.SIGKILL)
        return here()

    try:
        yield results
    finally:
        with suppress(OSError):  # it has been waited for elsewhere
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)
        os.close(answer)
        gc.unfreeze()
