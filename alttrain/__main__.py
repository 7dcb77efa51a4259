"""The console script `alttrain`, which is `python -m alttrain` too: sets its process up, and starts the app."""

import os
import sys

PAGES = "GLIBC_TUNABLES"
SETTINGS = {
    # glibc's allocator asks for huge pages: a training step on a CPU is 5 % faster
    PAGES: "glibc.malloc.hugetlb=1",
    # How long an OpenMP thread waits busily for its sisters. GNU's default, 30 times as long, is 3 % faster on an idle
    # machine, and several times slower as soon as anything else wants a core; a fifth of this costs a quarter of the
    # speed where a sleeping thread is slow to wake.
    "GOMP_SPINCOUNT": "10000",
    # Shapes of matrix products for which oneDNN keeps its code, and torch its calls of it. Their own 1,024 fill over
    # thousands of prompts, whose rows are all of another length, with hundreds of megabytes; more than this are of a
    # few percent's use.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
"""Environment variables that torch or the allocator reads when it loads, as measured (docs/performance.md). One that is
set already is kept."""


def main() -> None:
    """Do what is asked, in a process so set; it begins again, for the allocator reads its own before all else."""
    again = sys.platform == "linux" and PAGES not in os.environ
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if again:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from alttrain.run import app

    app.main()


if __name__ == "__main__":
    main()
