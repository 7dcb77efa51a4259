"""Kills a small run at random points, and lets the same command end it each time. A process of its own:

    python killed_runs.py FOLDER OVERRIDE...

It imports everything once, computes nothing itself, and forks a child for every run. A folder is killed in every stage,
one after another, before it may end. With ALTTRAIN_ALL_KILLS in the environment there are two such folders, and then
three kills on each stage, one of each kind, in folders of their own, as they were when an uninterrupted run began the
stage. A kill is one of

- `moment`     SIGKILL after a random share of the seconds that the stage takes
- `operation`  SIGKILL before a random one of the stage's changes of the file system: open to write, rename, remove
- `byte`       the kernel ends the process where a file would grow past a random size, which tears a line or a tensor

Prints a line of JSON for each kill: the stage it fell in, its kind, and the files that differ from those of the
uninterrupted run once the same command has ended. Points are drawn from a fixed seed, anew where a kill came too late.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import peft  # noqa: F401  what follows is imported here, once, for all children
import pytorch_lightning  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

import alttrain.backbone.weights
import alttrain.generation.decoder
import alttrain.report.figures
import alttrain.training.fit  # noqa: F401
from alttrain.config import register
from alttrain.evaluation import judged
from alttrain.run import execution

STAGES = ("rewrite", "train", "generate", "judge", "report")
KINDS = ("moment", "operation", "byte")
SERIES = ("operation", "moment")
MIXED = ("moment", "byte", "operation", "byte", "moment")
"""The kind of the one kill that each stage gets if not all kills are asked for."""
VOLATILE = ("logs", "run.log", "status.json", "README.md", "efficiency.*", ".stamp", ".lock")
"""Files that hold times or what was paid for: a log, the adapter's card, the report's table of seconds."""
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"})
SEED = 0


class Killed:
    """The runs below one folder."""

    def __init__(self, root: Path, config: DictConfig) -> None:
        self.root = root
        self.config = config
        self.output = Path(config.output_dir)
        self.cache = Path(os.environ["ALTTRAIN_CACHE"])
        self.draw = random.Random(SEED)
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.expected: dict[str, str] = {}

    def measure(self) -> None:
        """Run without a kill: what is written, the folder as each stage begins, and how much each stage does."""

        told = self._run(self.keep, lambda *unused: None)[1]
        for (stage, began, before), (_, ended, after) in pairwise(told):
            self.seconds[stage], self.operations[stage] = ended - began, after - before
        self.expected = self._hashes()
        sizes = {stage: self._sizes(self.root / "at" / stage) for stage in STAGES}
        sizes["end"] = self._sizes(self.root)
        for stage, following in zip(STAGES, [*STAGES[1:], "end"], strict=True):
            made = [size for path, size in sizes[following].items() if sizes[stage].get(path) != size]
            self.bytes[stage] = max(made)

    def series(self, aims: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """A folder as the first stage begins, killed at each aim, a stage and a kind; again where one came too late."""
        self.restore(aims[0][0])
        kills = []
        for stage, kind in aims:
            self.keep("before")
            while not (kill := self._kill(stage, kind)):
                self.restore("before")
            kills.append(kill)
        return kills

    def _kill(self, stage: str, kind: str) -> dict[str, Any]:
        """Kill the command in a stage; nothing where that had ended before."""
        share = 0.8 * self.draw.random()  # a stage may be quicker than it was when it was measured
        died, told = self._run(lambda name: None, self._killer(stage, kind, share))
        if died not in (0, signal.SIGKILL, signal.SIGXFSZ):
            raise SystemExit(f"the run ended with {died}")
        fell = told[-1][0]
        return {"fell": fell, "kind": kind, "share": round(share, 3)} if died and fell == stage else {}

    def keep(self, name: str) -> None:
        """Copy the folder as it is, as when a stage begins."""
        shutil.rmtree(self.root / "at" / name, ignore_errors=True)
        for folder in (self.output, self.cache):
            if folder.exists():
                shutil.copytree(folder, self.root / "at" / name / folder.name)

    def restore(self, name: str) -> None:
        """The folder as it was kept under this name."""
        for folder in (self.output, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
            if (kept := self.root / "at" / name / folder.name).exists():
                shutil.copytree(kept, folder)

    def finish(self) -> list[str]:
        """Run the same command to its end; the files that are not what they should be."""
        died, _ = self._run(lambda name: None, lambda *unused: None)
        if died:
            return [f"the run ended with {died}"]
        found = self._hashes()
        return sorted(name for name in found.keys() | self.expected if found.get(name) != self.expected.get(name))

    def _killer(self, stage: str, kind: str, share: float) -> Callable[[str, int, int], None]:
        """In the child, told that a stage began or that the file system is about to be changed: kill, if it is time."""
        count = int(share * self.operations[stage])
        size = max(1, int(share * self.bytes[stage]))
        began: list[int] = []

        def killer(now: str, before: int, child: int) -> None:
            if now != stage:
                return
            if not began:
                began.append(before)
                if kind == "byte":
                    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
                elif kind == "moment" and not os.fork():
                    time.sleep(share * self.seconds[stage])
                    if os.getppid() == child:  # it did not end meanwhile
                        os.kill(child, signal.SIGKILL)
                    os._exit(0)
            if kind == "operation" and before - began[0] >= count:
                os.kill(child, signal.SIGKILL)

        return killer

    def _run(
        self, begins: Callable[[str], None], killer: Callable[[str, int, int], None]
    ) -> tuple[int, list[tuple[str, float, int]]]:
        """Fork the command. The signal or exit code it ended with, and each stage with when it began and how many
        changes of the file system came before."""
        reads, writes = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.close(reads)
            code = 1
            try:
                _watched(self.config, self.root, writes, begins, killer)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writes)
        with os.fdopen(reads) as lines:
            told = [json.loads(line) for line in lines]
        status = os.waitpid(child, 0)[1]
        return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), told

    def _hashes(self) -> dict[str, str]:
        found = {}
        for path in (path for path in self.output.rglob("*") if path.is_file()):
            name, content = path.relative_to(self.output), path.read_bytes()
            if name.parts[0].startswith(".report."):
                continue  # begun reports are no one process's, so none may clear them up at once
            if path.name == "train.json":
                content = json.dumps(json.loads(content) | {"seconds": 0, "checksum": ""}).encode()
            if not any(fnmatch(part, volatile) for part in name.parts for volatile in VOLATILE):
                found[str(name)] = hashlib.sha256(content).hexdigest()
        return found

    def _sizes(self, root: Path) -> dict[str, int]:
        folders = (root / self.output.name, root / self.cache.name)
        return {str(p.relative_to(root)): p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file()}


def _watched(
    config: DictConfig,
    root: Path,
    tell: int,
    begins: Callable[[str], None],
    killer: Callable[[str, int, int], None],
) -> None:
    """In the child: run the stages, telling of each."""
    changes, now, own = 0, "", os.getpid()
    stage_of = execution._stage

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        opened = event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (opened or event in CHANGES) and str(arguments[0]).startswith(str(root)) and os.getpid() == own:
            killer(now, changes, own)
            changes += 1

    def stage(name: str, *parts: Any) -> None:
        nonlocal now
        if name in STAGES:
            begins(name)
            told(name)
        stage_of(name, *parts)

    def told(name: str) -> None:
        nonlocal now
        os.write(tell, (json.dumps([name, time.monotonic(), changes]) + "\n").encode())
        now = name
        killer(now, changes, own)

    execution._stage = stage
    judged.JUDGE_BATCH, judged.APPEND_BATCH = 3, 2  # so that there is something between one append and the next
    sys.addaudithook(audit)
    execution.execute(config)
    now = ""
    told("end")


def main() -> None:
    """Kill and finish; see above."""
    root, arguments = Path(sys.argv[1]), sys.argv[2:]
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        runs = Killed(root, compose("run", overrides=arguments))
    runs.measure()
    series = [[*zip(STAGES, MIXED, strict=True)]]
    if "ALTTRAIN_ALL_KILLS" in os.environ:
        series = [[(stage, kind) for stage in STAGES] for kind in SERIES]
        series += [[(stage, kind)] for stage in STAGES for kind in KINDS]
    for aims in series:
        kills = runs.series(aims)
        differ = runs.finish()
        for found in kills:
            print(json.dumps(found | {"differ": differ}), flush=True)


if __name__ == "__main__":
    main()
