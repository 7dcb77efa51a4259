"""What a process of `alttrain` is set to before torch loads, and that settings of one's own are kept."""

import os
import subprocess
import sys

import pytest

SHOWN = ("GLIBC_TUNABLES", "GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
SHOW = f"""
import os, sys
print("begun", flush=True)
import alttrain.run.app as app
app._app = lambda: print(sys.argv[1:], *(os.environ.get(name) for name in {SHOWN}))
from alttrain.__main__ import main
main()
"""


def shown(own: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in SHOWN} | own
    command = [sys.executable, "-c", SHOW, "--cfg", "job"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_allocator_threads_and_products_are_set_and_the_process_begins_again_once() -> None:
    assert shown({}) == "begun\nbegun\n['--cfg', 'job'] glibc.malloc.hugetlb=1 10000 64 64\n"


def test_own_settings_are_kept() -> None:
    own = dict(zip(SHOWN, ("glibc.malloc.check=0", "7", "8", "9"), strict=True))
    assert shown(own) == "begun\n['--cfg', 'job'] glibc.malloc.check=0 7 8 9\n"
