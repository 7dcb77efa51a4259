"""A finished run of which a file is spoiled: the same command repairs it or names the file, and so do the views.

Each case spoils one file of a copy of the run, and runs the command, alttrain-show and alttrain-status. An outcome is
`repaired` (the numbers as before, nothing said or a file made again), `named` (one error with the file's name, or a
report without the run that says which file) or a fault. Where the error says to delete the file and run again, that is
done, and has to end in the same numbers.
"""

import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from conftest import tiny_overrides
from hydra import compose, initialize_config_module

from alttrain.config import RunError, register
from alttrain.generation import Decoding
from alttrain.generation.engine import CachedEngine, Completion, Prompt
from alttrain.records import REMEDY, DamagedError, seal
from alttrain.run import show, status
from alttrain.run.execution import execute
from alttrain.run.stages import report

RUN = "runs/tiny-embedded-alttrain-demo-s0"
SET = f"{RUN}/evaluation/embedded_harmful"
DEEP = b"[" * 100_000
HALF = b'"\\ud83d'
SECONDS = 300

Spoil = Callable[[Path], None]


def holding(content: bytes) -> Spoil:
    """The file holds something else."""
    return lambda path: (path.write_bytes(content), None)[1]


def changed(change: Callable[[bytes], bytes]) -> Spoil:
    """The file's content, changed."""
    return lambda path: (path.write_bytes(change(path.read_bytes())), None)[1]


def line(change: Callable[[bytes], bytes], number: int = 1) -> Spoil:
    """One of a file's lines, changed; it has its newline."""

    def spoil(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        lines[number] = change(lines[number])
        path.write_bytes(b"".join(lines))

    return spoil


def field(name: str, value: object) -> Spoil:
    """A document's field, or that of its second row, with another value; without it where that is None."""

    def change(content: bytes) -> bytes:
        found = json.loads(content)
        found[name] = value
        if value is None:
            del found[name]
        return json.dumps(found).encode() + b"\n"

    def spoil(path: Path) -> None:
        (line(change) if path.suffix == ".jsonl" else changed(change))(path)

    return spoil


def folder(path: Path) -> None:
    """A folder of this name."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


ANY: dict[str, Spoil] = {
    "empty": holding(b""),
    "null": holding(b"null\n"),
    "list": holding(b"[]\n"),
    "string": holding(b'"text"\n'),
    "deep": holding(DEEP),
    "deep_objects": holding(b'{"a":' * 100_000),
    "nan": holding(b"NaN\n"),
    "nul": changed(lambda content: b"\0" * len(content)),
    "utf_16": changed(lambda content: content.decode().encode("utf-16")),
    "latin": changed(lambda content: content.replace(b'"', b'"\xe9', 1)),
    "torn": changed(lambda content: content[: len(content) // 2]),
    "digits": holding(b'{"run": ' + b"9" * 6000 + b"}\n"),
    "other": holding(b'{"a": 1}\n'),
    "folder": folder,
    "pipe": pipe,
}
ROWS: dict[str, Spoil] = {
    "twice": line(lambda row: row * 2),
    "without_a_row": line(lambda row: b""),
    "torn_last": changed(lambda content: content[:-20]),
    "torn_within": line(lambda row: row[:20] + b"\n"),
    "null_row": line(lambda row: b"null\n"),
    "list_row": line(lambda row: b"[]\n"),
    "deep_row": line(lambda row: DEEP + b"\n"),
    "nul_row": line(lambda row: b"\0" * (len(row) - 1) + b"\n"),
    "latin_row": line(lambda row: row.replace(b'"', b'"\xe9', 1)),
    "half_pair": line(lambda row: row.replace(b': "', b": " + HALF, 1)),
    "no_id": field("id", None),
    "number_for_id": field("id", 3),
    "digits_in_row": line(lambda row: row[:-2] + b', "sample": ' + b"9" * 6000 + b"}\n"),
    "blank_row": line(lambda row: b"\n" + row),
    "stranger": line(lambda row: row.replace(b'"id": "', b'"id": "x', 1)),
}
JSON = ("run.json", "fingerprint.json", "rewrite.json", "train.json", "status.json")
LINES = ("generations.jsonl", "judgements.jsonl", "adherence.jsonl")
FILES: dict[str, dict[str, Spoil]] = {
    **{f"{RUN}/{name}": ANY for name in JSON},
    **{f"{SET}/{name}": ANY for name in ("metrics.json", "judges.json", "fingerprint.json")},
    f"{RUN}/config.yaml": ANY,
    f"{RUN}/logs/metrics.csv": ANY,
    "report/.stamp": ANY,
    **{f"{SET}/{name}": {**ANY, **ROWS} for name in LINES},
    **{f"{RUN}/{name}": {**ANY, **ROWS} for name in ("train.jsonl", "originals.jsonl")},
}
FIELDS: list[tuple[str, str, Spoil]] = [
    (f"{RUN}/run.json", "number_for_label", field("label", 3)),
    (f"{RUN}/run.json", "no_seed", field("seed", None)),
    (f"{RUN}/run.json", "no_label", field("label", None)),
    (f"{RUN}/run.json", "other_label", field("label", "a\u2028b")),
    (f"{SET}/metrics.json", "no_metrics", field("metrics", [])),
    (f"{SET}/metrics.json", "no_analysis", field("analysis", None)),
    (f"{SET}/metrics.json", "no_checksum", field("checksum", None)),
    (f"{SET}/metrics.json", "other_benchmark", field("benchmark", "x")),
    (f"{SET}/metrics.json", "a_number", changed(lambda content: content.replace(b'"n": 4', b'"n": 5', 1))),
    (f"{SET}/metrics.json", "nan", changed(lambda content: content.replace(b'"n": 4', b'"n": NaN', 1))),
    (f"{SET}/judgements.jsonl", "no_checksum", field("checksum", None)),
    (f"{SET}/judges.json", "no_meaning", changed(lambda content: content.replace(b"true means", b"means"))),
    (f"{SET}/judgements.jsonl", "turned", line(lambda row: row.replace(b"false", b"true").replace(b"null", b"true"))),
    (f"{SET}/adherence.jsonl", "turned", line(lambda row: row.replace(b"false", b"true"))),
    (f"{RUN}/train.json", "text_for_steps", field("steps", "ten")),
    (f"{RUN}/train.json", "no_files", field("files", None)),
    (f"{RUN}/train.json", "no_checksum", field("checksum", None)),
    (f"{RUN}/train.json", "other_loss", field("final_loss", 0.5)),
    (f"{RUN}/rewrite.json", "list_for_labels", field("labels", [])),
    (f"{RUN}/rewrite.json", "no_files", field("files", None)),
    (f"{RUN}/rewrite.json", "other_labels", field("labels", {"harmful": 99})),
]
CASES = [(name, kind, spoil) for name, kinds in FILES.items() for kind, spoil in kinds.items()] + FIELDS
EVERY = os.environ.get("ALTTRAIN_ALL_DAMAGE")
"""Set, all cases run (minutes); else every eleventh, and all of FIELDS."""
SHOWN = CASES if EVERY else CASES[::11] + FIELDS


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """End what hangs."""

    def late(*unused: object) -> None:
        pytest.fail("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Finished:
    """A finished run, and what is run again in a copy of it."""

    def __init__(self, root: Path, arguments: list[str]) -> None:
        self.root = root
        self.overrides = [*arguments, "trainer.log_every=1"]
        self.outputs = root / "outputs"
        with initialize_config_module("alttrain.conf", version_base="1.3"):
            self.config = compose("run", overrides=self.overrides)
        self.command()
        self.numbers = self.found()
        shutil.copytree(self.outputs, root / "kept")
        shutil.copytree(root / "cache", root / "kept_cache")

    def command(self) -> None:
        """The same command, in this process."""
        execute(self.config)

    def found(self) -> dict[str, object]:
        """All numbers of the run and of the report."""
        own = sorted((self.outputs / RUN).glob("evaluation/*/metrics.json"))
        told: dict[str, object] = {str(path): json.loads(path.read_text())["metrics"] for path in own}
        report = self.outputs / "report"
        names = ("metrics.csv", "comparisons.csv", "tables/overview.md")
        return told | {name: (report / name).read_text() for name in names}

    def restore(self) -> None:
        """The folder and the cache as they were."""
        for kept, there in (("kept", self.outputs), ("kept_cache", self.root / "cache")):
            shutil.rmtree(there)
            shutil.copytree(self.root / kept, there)

    def outcome(self, path: Path, log: pytest.LogCaptureFixture) -> str:
        """Run the same command and tell how it ended; AssertionError where it is none of what is allowed."""
        log.clear()
        said = ""
        try:
            with within(SECONDS):
                self.command()
        except RunError as error:
            said = str(error)
        if said:
            assert path.name in said or path.name == "fingerprint.json"  # it tells what differs, and the folder
            assert len(said.splitlines()) <= 3 or path.name == "fingerprint.json"
            return "delete" if REMEDY in said else "named"
        if self.found() == self.numbers:
            return "repaired"
        told = [r.getMessage() for r in log.records if r.levelno >= logging.WARNING and path.name in r.getMessage()]
        assert told
        assert RUN.partition("/")[2] not in (self.outputs / "report" / "metrics.csv").read_text()
        return "delete" if REMEDY in told[0] else "named"


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("damaged")
    register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALTTRAIN_CACHE", str(root / "cache"))
        # figures take most of the time, and are not read
        patch.setattr(report, "draw_all", lambda *unused: nullcontext(list))
        yield Finished(root, tiny_overrides(tiny_folder, root))


@pytest.mark.parametrize(("name", "kind", "spoil"), SHOWN, ids=[f"{Path(n).name}-{k}" for n, k, _ in SHOWN])
def test_a_spoiled_file_is_repaired_or_named(
    finished: Finished,
    name: str,
    kind: str,
    spoil: Spoil,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished.restore()
    path = finished.outputs / name
    spoil(path)
    for view, arguments in (
        (show.main, ["alttrain-show", str(finished.outputs / RUN), "--batch"]),
        (show.main, ["alttrain-show", str(finished.outputs / RUN), "--row", "zz"]),
        (status.main, ["alttrain-status", str(finished.outputs)]),
    ):
        monkeypatch.setattr(sys, "argv", arguments)
        with within(SECONDS), suppress(SystemExit):
            view()
    told = finished.outcome(path, caplog)
    if told == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert finished.outcome(path, caplog) == "repaired"
    with capsys.disabled():
        if EVERY:
            print(f"\n{Path(name).name} {kind}: {told}", end="")


# --- a run that is not finished: what was changed meanwhile is said, or made again ---


def answered(row: bytes) -> bytes:
    """The row with another answer."""
    return row.replace(b'"answer": "', b'"answer": "Well. ', 1)


@pytest.mark.parametrize(
    ("name", "gone", "told"),
    [
        (f"{RUN}/train.jsonl", "train.json", "is not what was written"),
        (f"{SET}/generations.jsonl", "metrics.json", "1 rows, such as .* are not what this run generated"),
    ],
)
def test_rows_that_were_changed_half_way_are_told(
    finished: Finished, name: str, gone: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    finished.restore()
    path = finished.outputs / name
    line(answered)(path)
    path.with_name(gone).unlink()
    caplog.clear()
    finished.command()
    assert any(re.search(f"{path.name}.*{told}", r.getMessage()) for r in caplog.records if r.levelname == "WARNING")


def test_a_verdict_that_was_turned_half_way_is_named(finished: Finished, caplog: pytest.LogCaptureFixture) -> None:
    finished.restore()
    path = finished.outputs / SET / "judgements.jsonl"
    line(lambda row: row.replace(b'"verdict": ', b'"verdict":  '))(path)
    path.with_name("metrics.json").unlink()
    assert finished.outcome(path, caplog) == "delete"
    path.unlink()
    assert finished.outcome(path, caplog) == "repaired"


# --- caches: made again, never taken ---

SPOILT: dict[str, Spoil] = {
    **{kind: ANY[kind] for kind in ("empty", "null", "list", "deep", "nan", "nul", "torn", "pipe")},
    **{
        f"byte_{share}": changed(lambda content, share=share: _turned(content, len(content) * share // 10))
        for share in range(10)
    },
}


def _turned(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


class Counted:
    """An engine that counts how often it is asked."""

    asked, streams = 0, False

    def generate(self, prompts: Sequence[Prompt], *unused: object) -> Iterator[tuple[int, Completion]]:
        self.asked += 1
        yield from ((number, Completion(f"text {number}", "stop")) for number in range(len(prompts)))


ASKED = [Prompt([number], "text", f"row {number}") for number in (1, 2, 3)]


@pytest.mark.parametrize("kind", SPOILT)
def test_spoiled_kept_generations_are_made_again(kind: str, tmp_path: Path) -> None:
    engine = Counted()
    kept = CachedEngine(lambda: engine, {"model": "x"}, tmp_path)
    first = dict(kept.generate(ASKED, Decoding(5)))
    (path,) = tmp_path.rglob("*.json")
    SPOILT[kind](path)
    assert dict(kept.generate(ASKED, Decoding(5))) == first
    assert engine.asked == 2
    assert dict(kept.generate(ASKED, Decoding(5))) == first
    assert engine.asked == 2


def test_kept_generations_without_their_checksum_or_of_other_prompts_are_made_again(tmp_path: Path) -> None:
    engine = Counted()
    kept = CachedEngine(lambda: engine, {"model": "x"}, tmp_path)
    first = dict(kept.generate(ASKED[:2], Decoding(5)))
    (path,) = tmp_path.rglob("*.json")
    (sealed,) = tmp_path.rglob("*.sha256")
    sealed.unlink()
    assert dict(kept.generate(ASKED[:2], Decoding(5))) == first
    assert engine.asked == 2
    for content in ('[{"text": "a", "finish": "stop"}]', '[{"text": 1}, {"text": 2}]', "[1, 2]", "{}"):
        path.write_text(content)
        seal(path)
        assert dict(kept.generate(ASKED[:2], Decoding(5))) == first
    assert engine.asked == 6


@pytest.mark.parametrize("spoil", [pipe, folder])
def test_a_checkpoint_that_is_no_file_is_named(spoil: Spoil, tmp_path: Path) -> None:
    from alttrain.training.fit import _first_step

    (tmp_path / "last.ckpt").touch()
    assert _first_step(tmp_path / "last.ckpt", "") == 0
    spoil(tmp_path / "last.ckpt")
    with within(SECONDS), pytest.raises(DamagedError, match=r"last\.ckpt: is no regular file; remove it"):
        _first_step(tmp_path / "last.ckpt", "")


def test_spoiled_originals_are_asked_for_again(finished: Finished) -> None:
    finished.restore()
    cache = finished.root / "cache" / "generations"
    for path in cache.rglob("*.json"):
        SPOILT["torn"](path)
    shutil.rmtree(finished.outputs)
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        execute(compose("run", overrides=[*finished.overrides, "stages=[rewrite]"]))
    rows = finished.outputs / RUN / "train.jsonl"
    assert rows.read_bytes() == (finished.root / "kept" / RUN / "train.jsonl").read_bytes()
