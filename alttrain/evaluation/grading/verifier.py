"""math-verify (Hugging Face) in a process of its own, one pair of expressions at a time.

math-verify's timeouts are signals, which fail outside the main thread and cannot stop an operation on big integers. A
process can be stopped from any thread, and its memory can be limited. It starts with the first pair (about a second)
and ends with its input. The protocol is one JSON line each way: [gold, candidate] -> whether they are equal.
"""

import functools
import json
import os
import select
import subprocess
import sys
import threading
from contextlib import suppress

MEMORY = 4 << 30
SECONDS = 20.0
"""Time limit for one pair. math-verify's own limits of 5 s are off, since they silently count a pair as unequal."""
_LOCK = threading.Lock()


def verified(gold: str, candidate: str) -> bool:
    """Whether two LaTeX expressions are equal. Raises TimeoutError after `SECONDS`; the next pair has a new process."""
    with _LOCK:
        if _process().poll() is not None:  # killed for its memory, or by somebody
            _process.cache_clear()
        process = _process()
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):  # then it gives no line
            process.stdin.write(json.dumps([gold, candidate]).encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.communicate()
            _process.cache_clear()
            raise TimeoutError(f"math-verify did not finish {candidate[:80]!r} against {gold[:80]!r}")
        return json.loads(line) is True


@functools.cache
def _process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


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
