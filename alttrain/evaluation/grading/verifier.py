"""math-verify (Hugging Face) in a process of its own, one pair of expressions at a time.

math-verify's timeouts are signals, which fail outside the main thread and cannot stop an operation on big integers. A
process can be stopped from any thread, and its memory can be limited. It starts with the first pair (about a second)
and ends with the parent process. The protocol is one JSON line each way: [gold, candidate] -> whether they are equal.
"""

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import threading

MEMORY = 4 << 30
SECONDS = 20.0
"""Time limit for one pair. math-verify's own limits of 5 s are off, since they silently count a pair as unequal."""


class Verifier:
    """The math-verify process. It is restarted after a pair that it did not finish."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)

    def equal(self, gold: str, candidate: str) -> bool:
        """Whether two LaTeX expressions are equal. Raises TimeoutError after `seconds`."""
        with self._lock:
            process = self._process if self._process and self._process.poll() is None else self._start()
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps([gold, candidate]).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], self.seconds)
            line = process.stdout.readline() if ready else b""
            if not line:
                self.stop()
                raise TimeoutError(f"math-verify did not finish {candidate[:80]!r} against {gold[:80]!r}")
            return json.loads(line) is True

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self._process

    def stop(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def verifier() -> Verifier:
    """The process that all graders share."""
    return Verifier()


def _answer_questions() -> None:
    import resource

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # math-verify's list of units is off: it has letters that may be variables ("2s", "2h").
    notation = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    plain = LatexExtractionConfig(normalization_config=notation)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # keep prints of libraries out of the reply pipe
    for line in sys.stdin:
        gold, candidate = (parse(f"${text}$", [plain], parsing_timeout=None) for text in json.loads(line))
        same = verify(gold, candidate, allow_set_relation_comp=True, timeout_seconds=None)
        print(json.dumps(bool(same)), file=replies, flush=True)


if __name__ == "__main__":
    _answer_questions()
