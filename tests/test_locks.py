"""Work that several jobs share is done once: the jobs of a sweep that start at the same moment wait for each other."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from processes import Command
from stub_server import Serve, right

from alttrain.generation import Decoding
from alttrain.generation.engine import CachedEngine, Completion, Prompt
from alttrain.records import exclusive
from alttrain.run.status import lock_folder

KEPT = """
import sys, time
from pathlib import Path
from alttrain.generation import Decoding
from alttrain.generation.engine import CachedEngine, Prompt, Completion

folder, log = Path(sys.argv[1]), Path(sys.argv[2])

class Slow:
    def generate(self, prompts, decoding, *unused):
        with log.open("a") as file:
            file.write("decoded\\n")
        time.sleep(0.5)
        return [(number, Completion(prompt.text * 2, "stop")) for number, prompt in enumerate(prompts)]

print("ready", flush=True)
sys.stdin.readline()
prompts = [Prompt([1], "a", "a"), Prompt([2, 3], "b", "b")]
print([text.text for _, text in CachedEngine(Slow, {"weights": "w"}, folder).generate(prompts, Decoding(4))])
"""


def test_what_a_backbone_writes_is_decoded_by_one_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", KEPT, str(tmp_path / "kept"), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    assert {job.communicate()[0] for job in jobs} == {"['aa', 'bb']\n"}
    assert log.read_text() == "decoded\n"


def test_a_killed_job_keeps_no_other_waiting(tmp_path: Path) -> None:
    """A lock ends with its process, and the file that it left half-made is made anew."""
    path = tmp_path / "shared.json"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom alttrain.records import exclusive\n"
        f"with exclusive(Path({str(path)!r})):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
    began = time.monotonic()
    with exclusive(path):
        pass
    assert time.monotonic() - began < 5


def test_a_file_system_without_locks_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a file there a lock: it would stay after a kill, and no other host could know that its owner is gone."""

    def unable(*unused: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))  # as Lustre without its option flock

    monkeypatch.setattr("fcntl.flock", unable)
    (tmp_path / "run").mkdir()
    for lock in (tmp_path / "run" / ".lock", tmp_path / ".shared.lock"):
        lock.write_text("4321\nanother-host\n")

    class Echo:
        streams = False

        def generate(self, prompts: Sequence[Prompt], *unused: object) -> Iterator[tuple[int, Completion]]:
            yield from ((number, Completion(prompt.text, "stop")) for number, prompt in enumerate(prompts))

    with lock_folder(tmp_path / "run"), exclusive(tmp_path / "shared"):
        pass
    for _ in range(2):
        found = CachedEngine(Echo, {}, tmp_path).generate([Prompt([5], "a", "a")], Decoding(1))
        assert list(found) == [(0, Completion("a", "stop"))]


def test_jobs_that_start_at_once_ask_teacher_and_backbone_once(
    tiny_arguments: list[str], tmp_path: Path, serve: Serve
) -> None:
    stub = serve(lambda prompt, asked: right(prompt))
    arguments = [*tiny_arguments, "stages=[rewrite]", "teacher=server"]
    arguments += ["teacher.writer.model_name=m", f"teacher.writer.base_url={stub.url}"]
    cache = str(tmp_path / "cache")
    with (
        Command([*arguments, "tag=one"], ALTTRAIN_CACHE=cache) as one,
        Command([*arguments, "tag=other"], ALTTRAIN_CACHE=cache) as other,
    ):
        ended = [job.wait() for job in (one, other)]
    said = [job.stderr for job in ended]
    assert [job.returncode for job in ended] == [0, 0], said
    assert set(stub.asked.values()) == {1}
    assert sum(text.count(f"teacher   asking m at {stub.url} for") for text in said) == 1
    folders = sorted((tmp_path / "outputs" / "runs").iterdir())
    assert len(folders) == 2
    for name in ("train.jsonl", "originals.jsonl"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
