"""Records: what is written is read back, torn lines are cut, and a bad line is named with what is accepted."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_runs import make_run

from alttrain.records import (
    UNFINISHED,
    DamagedError,
    Example,
    Generation,
    Judgement,
    RewriteDocument,
    Segment,
    TrainDocument,
    append_rows,
    build,
    checksum,
    encode,
    iterate_rows,
    known_checksum,
    named_lines,
    read_document,
    read_rows,
    repair_rows,
    subject_of,
    write_json,
    write_rows,
    write_text,
)
from alttrain.records.documents import MetricsDocument
from alttrain.run.status import lock_folder

EXAMPLE = {"id": "a", "prompt": "Hi?", "label": "benign"}
FULL = Example(
    id="a-1",
    prompt='Say "hé"\nand\ttwo\u2028lines \\ 日本',
    label="harmful",
    category="privacy",
    phrasing="order",
    thought=(Segment("understanding", "One.", "restatement"), Segment("refusal", "Two\n\nthree.")),
    answer="No.\r\n",
    gold=("Paris", "the city of Paris"),
    source="train.jsonl:1",
)
GENERATION = Generation("g", "Hi?", "benign", "", ("x",), "<think>t</think>a", "t", "a", True, "stop", 3, 0)
ROWS: list[Any] = [
    Segment("assessment", "This is harmless."),
    Example("a", "Hi?", "benign"),
    FULL,
    GENERATION,
    Generation("g2", "Hi?", "harmful", "hate", (), "t", "t", "", False, "length", 512, 0),
    Judgement("g", "refusal", True, "I can't"),
    Judgement("g", "refusal", False),
    Judgement("g", "short_answer", None, error="the row has no gold answer"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_row_survives_a_line(row: Any) -> None:
    line = encode(row)
    assert "\n" not in line
    assert msgspec.json.decode(line, type=type(row)) == row
    assert build(json.loads(line), type(row), "here") == row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
@pytest.mark.parametrize("write", [write_rows, append_rows])
def test_rows_survive_a_file(write: Callable[[Path, list[Any]], None], row: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, [row, row])
    assert list(iterate_rows(path, type(row))) == [row, row]
    assert path.read_bytes().count(b"\n") == 2
    assert path.read_bytes().endswith(b"}\n")


def test_text_is_kept_readable() -> None:
    """Letters outside ASCII are written as themselves."""
    assert "日本" in encode(FULL)
    first = {"step": "understanding", "text": "One.", "origin": "restatement", "prompt_hash": ""}
    assert json.loads(encode(FULL))["thought"][0] == first


def test_defaults_fill_absent_fields() -> None:
    assert build(EXAMPLE, Example, "here") == Example("a", "Hi?", "benign", "", "", (), "", (), "")


def test_absent_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl", Example) == []
    assert repair_rows(tmp_path / "none.jsonl") == 0
    assert not (tmp_path / "none.jsonl").exists()


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{json.dumps(EXAMPLE)}\n  \n\n", encoding="utf-8")
    assert [row.id for row in read_rows(path, Example)] == ["a"]


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    """A bad second line does not keep the first from being read."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(EXAMPLE) + "\nnot json\n", encoding="utf-8")
    rows = iterate_rows(path, Example)
    assert next(rows).id == "a"
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2: "):
        next(rows)


LINE = encode(FULL).encode() + b"\n"


@pytest.mark.parametrize("torn", [1, 2, LINE.index("é".encode()) + 1, len(LINE) // 2, len(LINE) - 2, len(LINE) - 1])
def test_torn_last_line_is_cut(torn: int, tmp_path: Path) -> None:
    """Wherever a kill cut the last line, also inside a letter and just before its newline, the whole lines stay."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE * 2 + LINE[:torn])
    assert repair_rows(path) == torn
    assert path.read_bytes() == LINE * 2
    assert repair_rows(path) == 0
    append_rows(path, [FULL])
    assert list(iterate_rows(path, Example)) == [FULL] * 3


def test_an_appended_row_that_was_changed_is_named(tmp_path: Path) -> None:
    row = ROWS[5]
    path = tmp_path / "rows.jsonl"
    append_rows(path, [row])
    write_rows(path, read_rows(path, type(row)))
    assert read_rows(path, type(row)) == [row]
    sealed = path.read_bytes()
    without = re.sub(rb', "checksum": "\w+"', b"", sealed)
    for content in (sealed.replace(b'"id": "', b'"id": "x'), without, re.sub(rb'"\w+"}$', b'""}', sealed, flags=re.M)):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=r"rows\.jsonl line 1: the row is not what was written"):
            read_rows(path, type(row))


def test_a_folder_in_the_place_of_a_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    with pytest.raises(OSError, match=r"Is a directory; remove it, and run the same command again: .*place"):
        write_text(tmp_path / "place", "")


@pytest.mark.parametrize("content", [b"", LINE, LINE * 3, b"\n"])
def test_intact_file_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert repair_rows(path) == 0
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == 1


@pytest.mark.parametrize("torn", [1, 20, len(LINE) - 1])
def test_names_are_those_of_whole_rows_and_the_file_stays(torn: int, tmp_path: Path) -> None:
    path = tmp_path / "generations.jsonl"
    assert [name for name, _ in named_lines(path)] == []
    path.write_bytes(LINE + b'{"id":"b","sample":3}\n' + LINE[:torn])
    assert [name for name, _ in named_lines(path)] == [("a-1", 0), ("b", 3)]
    assert len(path.read_bytes()) == len(LINE) + 22 + torn
    path.write_bytes(LINE + b"torn in the middle\n" + LINE)
    with pytest.raises(ValueError, match=r"generations\.jsonl line 2: "):
        list(named_lines(path))


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("rows.jsonl", "rows.part", ".rows.jsonl")]
    left = [tmp_path / f".status.json.x{UNFINISHED}", tmp_path / "evaluation" / f".metrics.json.y{UNFINISHED}"]
    left[1].parent.mkdir()
    for path in (*kept, *left):
        path.touch()
    with lock_folder(tmp_path):
        assert all(path.exists() for path in kept)
        assert not any(path.exists() for path in left)


@pytest.mark.parametrize("torn", [1, LINE.index("é".encode()) + 1, len(LINE) - 1])
def test_file_without_any_newline_is_emptied(torn: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE[:torn])
    assert repair_rows(path) == torn
    assert path.read_bytes() == b""


@pytest.mark.parametrize("torn", [65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("whole", [b"", LINE])
def test_torn_line_longer_than_a_block_is_cut(whole: bytes, torn: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(whole + b"x" * torn)
    assert repair_rows(path) == torn
    assert path.read_bytes() == whole


def test_append_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [FULL])
    append_rows(path, [])
    append_rows(path, [FULL, FULL])
    assert path.read_bytes() == LINE * 3


def test_append_writes_whole_lines_or_nothing(tmp_path: Path) -> None:
    """Rows that cannot all be made leave the file as it was."""

    def rows() -> Iterator[Example]:
        yield FULL
        raise RuntimeError("killed")

    path = tmp_path / "rows.jsonl"
    append_rows(path, [FULL])
    with pytest.raises(RuntimeError, match="killed"):
        append_rows(path, rows())
    assert path.read_bytes() == LINE


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    """A received folder may hold one that leads to a file of its reader's."""
    outside, link = tmp_path / "outside.jsonl", tmp_path / "rows.jsonl"
    outside.write_bytes(LINE + b"torn")
    link.symlink_to(outside)
    with pytest.raises(OSError, match="a link, which may lead outside of the run"):
        append_rows(link, [FULL])
    with pytest.raises(DamagedError, match="is a link"):
        repair_rows(link)
    assert outside.read_bytes() == LINE + b"torn"


def test_a_row_that_is_there_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    """It would count twice. Of judgements one row differs from another by its judge and part as well."""
    path = tmp_path / "rows.jsonl"
    for rows, again in (([FULL, ROWS[1], FULL], 3), (ROWS[5:7], 2)):
        write_rows(path, rows)
        with pytest.raises(DamagedError, match=f"rows.jsonl line {again}: the row of line 1 again"):
            read_rows(path, type(rows[0]))
    others = [replace(ROWS[5], **{name: "other"}) for name in ("judge", "part")]
    write_rows(path, [ROWS[5], *others])
    assert read_rows(path, Judgement) == [ROWS[5], *others]


def test_a_generation_is_named_with_its_own_line(tmp_path: Path) -> None:
    """Also behind an empty line, and not where it is torn."""
    path, lines = tmp_path / "generations.jsonl", [encode(row).encode() + b"\n" for row in ROWS[3:5]]
    path.write_bytes(b"\n".join(lines) + b'{"id": "torn"')
    assert list(named_lines(path)) == [(("g", 0), lines[0]), (("g2", 0), lines[1])]


STEPS = "accepted: understanding, assessment, reasoning, refusal"
BAD_EXAMPLES: list[tuple[Any, str]] = [
    ("{not json", ": JSON is malformed: "),
    ('{"id": "a"', ": Input data was truncated"),
    ("[1, 2]", ": Expected `object`, got `array`"),
    ("null", ": Expected `object`, got `null`"),
    ({"id": "a", "label": "benign"}, ": Object missing required field `prompt`"),
    ({**EXAMPLE, "label": None}, ": field 'label': Expected `str`, got `null`; accepted: harmful, benign"),
    ({**EXAMPLE, "label": "bad"}, ": field 'label': Invalid enum value 'bad'; accepted: harmful, benign"),
    ({**EXAMPLE, "label": 1}, ": field 'label': Expected `str`, got `int`; accepted: harmful, benign"),
    ({**EXAMPLE, "prompt": 3}, ": field 'prompt': Expected `str`, got `int`"),
    ({**EXAMPLE, "answer": None}, ": field 'answer': Expected `str`, got `null`"),
    ({**EXAMPLE, "gold": "Paris"}, ": field 'gold': Expected `array`, got `str`"),
    ({**EXAMPLE, "gold": ["Paris", 3]}, ": field 'gold[1]': Expected `str`, got `int`"),
    ({**EXAMPLE, "thought": ["x"]}, ": field 'thought[0]': Expected `object`, got `str`"),
    (
        {**EXAMPLE, "thought": [{"step": "plan", "text": "x"}]},
        f": field 'thought[0].step': Invalid enum value 'plan'; {STEPS}",
    ),
    ({**EXAMPLE, "thought": [{"step": "refusal"}]}, ": field 'thought[0]': Object missing required field `text`"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_EXAMPLES, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_line_is_named(bad: Any, message: str, tmp_path: Path) -> None:
    """The error names file and line, the field, and what is accepted."""
    path = tmp_path / "rows.jsonl"
    line = bad if isinstance(bad, str) else json.dumps(bad)
    path.write_text(f"{json.dumps(EXAMPLE)}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r".") as caught:
        read_rows(path, Example)
    assert str(caught.value).startswith(f"{path} line 2{message}")


def test_a_field_we_do_not_know_is_named(tmp_path: Path) -> None:
    """Looked for in the first row: one version writes a whole file."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**EXAMPLE, "lable": "x"}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r" line 1: unknown field 'lable'; accepted: id, prompt, label, category,"):
        read_rows(path, Example)


BAD_GENERATIONS: list[tuple[str, Any, str]] = [
    ("finish", "eos", "Invalid enum value 'eos'; accepted: stop, length, error"),
    ("closed", 1, "Expected `bool`, got `int`"),
    ("thought_tokens", True, "Expected `int`, got `bool`"),
    ("answer_tokens", 2.5, "Expected `int`, got `float`"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_GENERATIONS)
def test_wrong_type_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        build({**json.loads(encode(GENERATION)), name: value}, Generation, "here:7")
    assert str(caught.value) == f"here:7: field {name!r}: {message}"


@pytest.mark.parametrize("verdict", [1, "true", []])
def test_verdict_is_a_bool_or_none(verdict: Any) -> None:
    with pytest.raises(ValueError, match=r"here: field 'verdict': Expected `bool \| null`, got "):
        build({"id": "g", "judge": "j", "verdict": verdict}, Judgement, "here")


def test_verdict_may_not_be_left_out() -> None:
    with pytest.raises(ValueError, match="here: Object missing required field `verdict`"):
        build({"id": "g", "judge": "j"}, Judgement, "here")


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE + LINE.replace("é".encode(), b"\xe9"))
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2: "):
        read_rows(path, Example)


def test_write_text_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "one é\n")
    write_text(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_write_json_is_indented_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a kill at any step leaves the old file, and no temporary one beside it."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.txt"
    write_text(path, "old\n")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new\n")
    assert path.read_bytes() == b"old\n"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800\n")
    assert path.read_bytes() == b"old\n"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the rename a reader sees the old text whole."""
    path = tmp_path / "file.txt"
    write_text(path, "old\n")
    seen: list[tuple[str, str]] = []
    replace = os.replace

    def watch(temporary: str, target: Path) -> None:
        seen.append((path.read_text(encoding="utf-8"), Path(temporary).read_text(encoding="utf-8")))
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", watch)
    write_text(path, "new\n")
    assert seen == [("old\n", "new\n")]
    assert path.read_text(encoding="utf-8") == "new\n"


@pytest.mark.parametrize("name", ["metrics.json", "train.json", "rewrite.json"])
def test_a_document_without_its_checksum_is_damaged_like_one_that_was_changed(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, {"x": ("accuracy", "yn")}, labels={"benign": 1}, trained={})
    (path,) = run.rglob(name)
    schema: Any = {"metrics.json": MetricsDocument, "train.json": TrainDocument, "rewrite.json": RewriteDocument}[name]
    record = read_document(path, schema)
    write_json(path, record | {"more": 1})
    with pytest.raises(DamagedError, match="its checksum is another"):
        read_document(path, schema)
    del record["checksum"]
    write_json(path, record)
    with pytest.raises(DamagedError, match="missing required field `checksum`"):
        read_document(path, schema)


def test_an_unchanged_file_is_hashed_once_and_a_changed_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "a", list[Path]()
    path.write_bytes(b"one")

    def counted(file: Path) -> str | None:
        read.append(file)
        return checksum(file)

    monkeypatch.setattr("alttrain.records.files.checksum", counted)
    first = known_checksum(path)
    assert [first, known_checksum(path)] == [checksum(path)] * 2
    assert read == [path]
    path.write_bytes(b"another")
    assert known_checksum(path) == checksum(path) != first
    with pytest.raises(FileNotFoundError):
        known_checksum(tmp_path / "none")


def test_rows_with_the_same_goal_or_the_same_prompt_have_the_same_subject() -> None:
    row = Generation("a", "Bake  bread.", "harmful", "", (), "", "", "", True, "stop", 0, 0)
    same = [replace(row, prompt="bake bread."), replace(row, prompt="Sir, ...", turns=("Hi.",), goal="Bake bread.\n")]
    other = [replace(row, turns=("Hi.",)), replace(row, goal="Bake rolls."), replace(row, prompt="Bake")]
    assert {subject_of(one) for one in same} == {subject_of(row)}
    assert len({subject_of(one) for one in (row, *other)}) == 4
