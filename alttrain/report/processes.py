"""A second process that does a part of a report's work."""

import gc
import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from tempfile import TemporaryFile
from typing import IO, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Job = Callable[[], Value]
MANY = 100  # number of judged benchmarks from which a second process helps
PATIENCE_S = 120
"""How many seconds the second process may take after this one has done its own jobs; then it counts as locked up."""


@contextmanager
def second_process(jobs: Sequence[Job[Value]], many: bool) -> Iterator[Callable[[], list[Value]]]:
    """Do jobs in a second process while the block runs, and in both once their results are wanted.

    Yields a function that returns all results. If there is not `many` to do, or no process can be begun, the jobs are
    done when it is called. The process is a copy of this one. Threads are not copied, so a lock that one holds stays
    held: if the process fails or locks up, its jobs are done here, where their error is raised. It is gone when the
    block ends.
    """
    done: dict[int, Value] = {}

    def all_results() -> list[Value]:
        return [done[number] if number in done else job() for number, job in enumerate(jobs)]

    if not many or sys.platform != "linux" or multiprocessing.current_process().daemon:  # a daemon may have no children
        yield all_results
        return
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    with TemporaryFile(buffering=0) as queue:  # both processes read the numbers of jobs, with one position in the file
        queue.write(b"".join(number.to_bytes(4) for number in range(len(jobs))))
        queue.seek(0)
        process = fork.Process(target=_send_results, args=(jobs, queue, sender, receiver), daemon=True)
        gc.freeze()  # the collector then skips what both processes share
        try:
            process.start()
        except OSError as error:  # no memory, or too many processes
            log.info("report    without a second process: %s", error)
        sender.close()

        def results() -> list[Value]:
            done.update(_do_jobs(jobs, queue))
            with suppress(EOFError, pickle.UnpicklingError):
                if process.pid and receiver.poll(PATIENCE_S):
                    done.update(receiver.recv())
            if len(done) < len(jobs):
                log.warning("report    a second process gave no results; its part is done here")
            return all_results()

        try:
            yield results
        finally:
            if process.pid:
                process.kill()
                process.join()
            receiver.close()
            gc.unfreeze()


def _do_jobs(jobs: Sequence[Job[Value]], queue: IO[bytes]) -> dict[int, Value]:
    """Do the jobs whose numbers are read from the queue, until it is empty. Returns their results by number."""
    numbers = map(int.from_bytes, iter(partial(queue.read, 4), b""))
    return {number: jobs[number]() for number in numbers}


def _send_results(jobs: Sequence[Job[Value]], queue: IO[bytes], sender: Connection, receiver: Connection) -> None:
    """Send the results of jobs, and end without the clean-up of the process that this one is a copy of."""
    with suppress(BaseException):
        receiver.close()  # so that sending fails if the first process is killed
        sender.send(_do_jobs(jobs, queue))
    os._exit(0)
