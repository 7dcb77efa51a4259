"""A second process that does a part of a report's work."""

import gc
import os
import pickle
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

Value = TypeVar("Value")
MANY = 100  # number of judged benchmarks from which a second process helps
PATIENCE_S = 60
"""How many seconds the second process may take after its results are asked for; after this it counts as locked up."""


@contextmanager
def second_process(jobs: Sequence[Callable[[], Value]], many: bool) -> Iterator[Callable[[], list[Value]]]:
    """Do jobs in a second process while the block runs. Yields a function that waits for their results.

    If there is not `many` to do, they are done when it is called.

    The process is a copy of this one. Threads are not copied, so a lock that one holds stays held: if the process fails
    or locks up, the jobs are done here, where their error is raised. It is gone when the block ends.
    """
    if sys.platform != "linux" or not many:
        yield lambda: [job() for job in jobs]
        return
    answer, told = os.pipe()
    gc.freeze()  # garbage is not looked for in what both have
    if (other := os.fork()) == 0:
        with suppress(BaseException), open(told, "wb") as file:
            file.write(pickle.dumps([job() for job in jobs]))
        os._exit(0)
    os.close(told)

    def results() -> list[Value]:
        with suppress(EOFError, pickle.UnpicklingError), open(answer, "rb", closefd=False) as file:
            if select.select([answer], [], [], PATIENCE_S)[0]:
                return list(pickle.load(file))
        os.kill(other, signal.SIGKILL)
        return [job() for job in jobs]

    try:
        yield results
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        os.close(answer)
        gc.unfreeze()
