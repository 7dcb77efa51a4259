"""A run that is killed anywhere and run again ends with the bytes of one that was not. See `killed_runs`."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

STAGES = ("rewrite", "train", "generate", "judge", "report")
EVERY = os.environ.get("ALTTRAIN_ALL_KILLS")
"""Set, there are twenty-five kills (minutes); else five, in one run."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_kills_lose_and_double_no_byte(tiny_arguments: list[str], tmp_path: Path) -> None:
    """One in each stage of one run; with all, two such runs, and three in each stage with an end of its own."""
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "ALTTRAIN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), *tiny_arguments, "adapter.dropout=0.1"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == (25 if EVERY else 5)
    assert [kill for kill in kills if kill["differ"]] == []
    assert {kill["kind"] for kill in kills} == {"moment", "operation", "byte"}
    assert Counter(kill["fell"] for kill in kills) == dict.fromkeys(STAGES, 5 if EVERY else 1)
