"""Rows of published sets: column maps, traces cut by their tags, the hub, and data_dir in place of the hub."""

import json
import os
import shutil
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alttrain.dataset import Rows, columns
from alttrain.dataset.columns import Unusable, split_response
from alttrain.records import Example, Segment
from alttrain.rewrite import render

THINK = ("<think>", "</think>")
ROW = {"prompt": "Hi?", "label": "benign"}
SLICE = {"summary_end_idx": 7, "next_sentence_end_idx": 9}


def written(path: Path, *rows: dict[str, Any]) -> str:
    """A JSON lines file of some rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", ["/dev/zero", "pipe.jsonl"])
def test_a_device_or_a_pipe_is_no_data_file(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jsonl")
    for ask in (Rows("x", path=path).content, lambda: Rows("x", path=path).examples(None)):
        with pytest.raises(FileNotFoundError, match="no such data file"):
            ask()


# --- responses ---


def cut_of(*given: Any) -> tuple[str, str] | str:
    """The parts of a response, or why it is refused."""
    try:
        return split_response(*given)
    except Unusable as reason:
        return str(reason)


@pytest.mark.parametrize(
    ("response", "cut"),
    [
        ("<think>\nt u\n</think>\n\na", ("t u", "a")),
        ("t\n</think>a", ("t", "a")),  # the template has opened the thought
        (" \n<think>t</think> a ", ("t", "a")),
        ("<think>t", "the thought is not closed"),
        ("a", "the thought is not closed"),
        ("<think>t</think><think>u</think>a", "several thoughts"),
        ("<think>t</think>a</think>", "several thoughts"),
        ("<think>t<think>u</think>a", "several thoughts"),
        ("so <think>t</think>a", "text before the thought"),
        ("t</think>a<think>", "the thought is closed before it is opened"),
        ("<think> \n</think>a", "the thought is empty"),
        ("<think>t</think> ", "the answer is empty"),
    ],
)
def test_response_is_cut_at_its_tags_or_refused_by_name(response: str, cut: Any) -> None:
    assert cut_of(response, THINK) == cut


def test_rows_without_a_usable_trace_are_counted_by_id(tmp_path: Path) -> None:
    responses = ["<think>t</think>a", "<think>t", "<think>t</think>b"]
    path = written(tmp_path / "a.jsonl", *({**ROW, "out": response} for response in responses))
    reading = Rows("x", path, columns={"response": "out"}, thought_tags=THINK).read(None)
    assert [(e.id, e.thought, e.answer) for e in reading.examples] == [
        ("a-1", (Segment("reasoning", "t", "trace"),), "a"),
        ("a-3", (Segment("reasoning", "t", "trace"),), "b"),
    ]
    assert [(row.id, row.reason) for row in reading.rejected] == [("a-2", "the thought is not closed")]


# --- column maps ---


def one(tmp_path: Path, row: dict[str, Any], **mapping: Any) -> Example:
    """The Example in a file of one row."""
    (example,) = Rows("x", written(tmp_path / "a.jsonl", row), **mapping).examples(None)
    return example


def test_nested_listed_and_alternative_columns(tmp_path: Path) -> None:
    row = {
        **ROW,
        "score": {"Accuracy": 9},
        "tags": ["main", "other"],
        "texts": ["A", "B"],
        "a.b": "flat",
        "a": {"b": 1},
    }
    columns = {"category": "tags", "answer": "texts.1", "phrasing": "score.Accuracy", "gold": ["none", "texts"]}
    example = one(tmp_path, row, columns=columns)
    assert (example.category, example.answer, example.phrasing, example.gold) == ("main", "B", "9", ("A", "B"))
    assert one(tmp_path, row, columns={"category": "a.b"}).category == "flat"


def test_absent_values_of_optional_fields_are_left_out(tmp_path: Path) -> None:
    example = one(tmp_path, {**ROW, "id": None, "kind": None, "gold": None}, columns={"category": "kind"})
    assert (example.id, example.category, example.gold) == ("a-1", "", ())


def test_a_thought_in_a_column_of_that_name_is_taken_where_nothing_maps_it(tmp_path: Path) -> None:
    row = {**ROW, "thought": "T", "answer": "A", "out": "<think>R</think>B"}
    example = one(tmp_path, row)
    assert (example.thought, example.answer) == ((Segment("reasoning", "T", "trace"),), "A")
    response = {"columns": {"response": "out"}, "thought_tags": THINK}
    assert one(tmp_path, row, **response).thought[0].text == "R"
    answer_only = {**row, "out": "B"}
    assert not one(tmp_path, answer_only, **response, shapes=["answer_only"]).thought
    assert one(tmp_path, row, constants={"thought": "C"}).thought[0].text == "C"
    assert one(tmp_path, row, columns={"thought": "answer"}).thought[0].text == "A"
    for other in ("", " ", None, [{"step": "reasoning", "text": "T"}]):
        assert not one(tmp_path, {**row, "thought": other}).thought


def test_numbers_of_a_column_with_gaps_are_integers(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {name: [42.0, 0.5, float("nan")] for name in ("gold", "topic")}
    table = pyarrow.table({"prompt": ["P?", "Q?", "R?"], "label": ["benign"] * 3, **columns})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = Rows("x", str(tmp_path / "a.parquet"), columns={"gold": "gold", "category": "topic"})
    assert [(row.gold, row.category) for row in rows.examples(None)] == [(("42",), "42"), (("0.5",), "0.5"), ((), "")]
    assert [row.gold[0] for row in replace(rows, columns={}, golds=["gold"]).examples(None)][:2] == ["42", "0.5"]


@pytest.mark.parametrize(
    ("row", "mapping", "reason"),
    [
        ({"label": "benign", "r": None}, {"columns": {"prompt": "label", "response": "r"}}, "no response"),
        ({"label": "benign", "q": None, "A": "x"}, {"columns": {"prompt": "q"}, "choices": ["A"]}, "no prompt"),
        ({**ROW, "A": None, "B": "x"}, {"choices": ["A", "B"], "choice_seed": 1}, "no right choice"),
        ({**ROW, "A": "x", "B": None}, {"golds": ["A", "B"]}, "no gold"),
    ],
)
def test_a_null_is_no_text(row: dict[str, Any], mapping: Any, reason: str, tmp_path: Path) -> None:
    if "response" in mapping.get("columns", {}):
        mapping = {**mapping, "thought_tags": THINK, "shapes": ["answer_only"]}
    path = written(tmp_path / "a.jsonl", row, {key: value or "text" for key, value in row.items()})
    assert [rejected.reason for rejected in Rows("x", path, **mapping).read(None).rejected] == [reason]


def test_a_null_choice_is_left_out_and_the_others_keep_their_letters(tmp_path: Path) -> None:
    row = {**ROW, "A": "x", "B": None, "C": ["y", None]}
    assert one(tmp_path, row, choices=["A", "B", "C"]).prompt == "Hi?\n\nA. x\nC. y"
    shuffled = one(tmp_path, row, choices=["A", "B", "C"], choice_seed=1)
    assert sorted(shuffled.prompt.splitlines()[2:]) in (["A. x", "B. y"], ["A. y", "B. x"])
    assert f"{shuffled.gold[0]}. x" in shuffled.prompt


def test_more_choices_than_letters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl:1: 27 choices; there are letters for 26"):
        one(tmp_path, {**ROW, "A": ["x"] * 27}, choices=["A"])


def test_a_null_among_the_texts_of_a_pattern_is_no_text(tmp_path: Path) -> None:
    row = {**ROW, "key_sentence": None, "gold": ["#1", None]}
    example = one(tmp_path, row, columns={"gold": "gold"}, erase={"key_sentence": "x", "gold": "#"})
    assert (example.key_sentence, example.gold) == ("", ("1",))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt,label,prompt\nfirst,benign,second\n"),
        ("a.jsonl", '{"prompt": "first", "label": "benign", "prompt": "second"}\n'),
        ("a.json", '[{"prompt": "first", "label": "benign", "prompt": "second"}]'),
        ("a.parquet", ""),
    ],
)
def test_two_columns_of_one_name_are_refused(name: str, text: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    if text:
        (tmp_path / name).write_text(text)
    else:
        values = [pyarrow.array([value]) for value in ("first", "benign", "second")]
        parquet.write_table(pyarrow.table(values, names=["prompt", "label", "prompt"]), tmp_path / name)
    with pytest.raises(ValueError, match="'prompt' occurs twice; give each column a name of its own"):
        Rows("x", str(tmp_path / name)).examples(None)


def test_many_columns_take_no_time(tmp_path: Path) -> None:
    names = ["prompt", "label", *(f"c{number}" for number in range(30_000))]
    (tmp_path / "a.csv").write_text(f"{','.join(names)}\nHi?,benign{',' * 30_000}\n")
    began = time.process_time()
    assert Rows("x", str(tmp_path / "a.csv")).examples(None)[0].prompt == "Hi?"
    assert time.process_time() - began < 3


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,label,,\nHi?,benign,,\n")
    assert Rows("x", str(tmp_path / "a.csv")).examples(None)[0].prompt == "Hi?"


def test_labels_map_floats_as_integers_and_a_star_is_no_null(tmp_path: Path) -> None:
    labels = {"1": "harmful", "*": "benign"}
    for value, label in ((1.0, "harmful"), (0.0, "benign"), (0.5, "benign")):
        assert one(tmp_path, {"prompt": "P", "y": value}, columns={"label": "y"}, labels=labels).label == label
    for absent in (None, float("nan")):
        with pytest.raises(ValueError, match=r"a\.jsonl:1: label 'None' is not mapped; accepted: 1, \*"):
            one(tmp_path, {"prompt": "P", "y": absent}, columns={"label": "y"}, labels=labels)
    with pytest.raises(ValueError, match=r"rows x: labels map a column, and constants\.label replaces it; leave one"):
        Rows("x", "a.jsonl", constants={"label": "benign"}, labels=labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, "cut \ud83d") for field in ("id", "prompt", "category", "answer", "goal", "key_sentence", "thought")),
        ("gold", ["a", "cut \ud83d"]),
        ("turns", ["cut \ud83d"]),
    ],
)
def test_half_a_surrogate_pair_is_refused_in_any_field(field: str, value: Any, tmp_path: Path) -> None:
    columns = {"dialogue": "turns"} if field == "turns" else {}
    value = [*value, "the last"] if field == "turns" else value
    with pytest.raises(ValueError, match=rf"a\.jsonl:1: the {field} holds half a surrogate pair"):
        one(tmp_path, {**ROW, field: value}, columns=columns)


def test_last_turn_of_a_dialogue_is_the_prompt(tmp_path: Path) -> None:
    example = one(tmp_path, {"label": "harmful", "turns_": ["one", "two", "three"]}, columns={"dialogue": "turns_"})
    assert (example.turns, example.prompt) == (("one", "two"), "three")


def test_form_is_filled_once_from_the_columns(tmp_path: Path) -> None:
    row = {"label": "benign", "ask": "Add {tests}?", "tests": ["f(1)", "f(2)"]}
    assert one(tmp_path, row, forms={"prompt": "{ask}\n{tests.1} {}"}).prompt == "Add {tests}?\nf(2) {}"
    with pytest.raises(ValueError, match=r"a\.jsonl:1: missing field 'test' \(the column for prompt\); columns: label"):
        one(tmp_path, row, forms={"prompt": "{test}"})
    with pytest.raises(ValueError, match=r"prompt needs a text or number in 'tests', found \['f\(1\)'"):
        one(tmp_path, row, forms={"prompt": "{tests}"})


def test_first_form_without_an_empty_column_is_used(tmp_path: Path) -> None:
    forms = {"prompt": ["{ask}: {code}", "{ask}, {more}", "{ask}"]}
    for values, prompt in (
        ({"code": "f", "more": "g"}, "Q: f"),
        ({"code": "", "more": "g"}, "Q, g"),
        ({"code": None, "more": 0}, "Q, 0"),
        ({"code": "", "more": ""}, "Q"),
    ):
        assert one(tmp_path, {"label": "benign", "ask": "Q", **values}, forms=forms).prompt == prompt
    with pytest.raises(ValueError, match=r"a\.jsonl:1: missing field 'code' \(the column for prompt\)"):
        one(tmp_path, {"label": "benign", "ask": "Q", "more": ""}, forms=forms)


def test_golds_that_are_lists_are_json(tmp_path: Path) -> None:
    row = {**ROW, "names": ["é", "b"], "arguments": [{"n": 3, "none": None}], "test": "x = [1]", "n": 2}
    example = one(tmp_path, row, golds=["names", "arguments", "test", "n"])
    assert example.gold == ('["\\u00e9", "b"]', '[{"n": 3, "none": null}]', "x = [1]", "2")


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", 'One?\n"Two, ""or"" three?"\n'), ("a.tsv", 'One?\nTwo, "or" three?\n')]
)
def test_file_without_the_names_of_its_columns(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    rows = Rows("x", str(tmp_path / name), header=["prompt"], constants={"label": "benign"}).examples(None)
    assert [(row.id, row.prompt) for row in rows] == [("a-1", "One?"), ("a-2", 'Two, "or" three?')]
    (tmp_path / name).write_text(f"prompt\n{text}", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} begins with its columns' names; leave `header`"):
        Rows("x", str(tmp_path / name), header=["prompt"], constants={"label": "benign"}).examples(None)


def test_where_takes_values_lists_and_paths(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *({**ROW, "kind": "abc"[i % 3], "ok": [i % 2 == 0]} for i in range(6)))
    rows = Rows("x", path, where={"kind": ["a", "b"], "ok.0": True})
    assert [example.id for example in rows.examples(None)] == ["a-1", "a-5"]


@pytest.mark.parametrize(
    ("ends", "kept"),
    [
        ([None, None], "abcd"),
        (["2025-01-02", None], "bcd"),
        ([None, "2025-01-02"], "ab"),
        (["2025-01-02", "2025-01-02"], "b"),
        (["2025-01-02T00:00:01", "2025-01-03T12:30"], "cd"),
    ],
)
def test_dates_keep_a_window_with_its_ends(ends: list[str | None], kept: str, tmp_path: Path) -> None:
    """An end without a time is its midnight, as in LiveCodeBench."""
    days = ["2025-01-01T23:59:59", "2025-01-02T00:00:00", "2025-01-02T00:00:01", "2025-01-03T12:30:00+00:00"]
    path = written(tmp_path / "a.jsonl", *({**ROW, "id": id, "day": day} for id, day in zip("abcd", days, strict=True)))
    assert "".join(row.id for row in Rows("x", path, dates={"day": ends}).examples(None)) == kept


def test_dates_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {**ROW, "day": "2025-01-01"}, {**ROW, "day": "May"})
    with pytest.raises(ValueError, match=r"a\.jsonl:2: day='May' is no ISO date to filter by"):
        Rows("x", path, dates={"day": [None, None]}).examples(None)
    with pytest.raises(ValueError, match=r"a\.jsonl:1: missing field 'date' \(the column to filter by\); columns: "):
        Rows("x", path, dates={"date": [None, None]}).examples(None)
    with pytest.raises(ValueError, match=r"no row passes the filter \{'day': \['2026-01-01', None\]\}"):
        Rows("x", written(tmp_path / "b.jsonl", {**ROW, "day": "2025-01-01"}), dates={"day": ["2026-01-01", None]}
        ).examples(None)  # fmt: skip


def test_json_lines_stream(tmp_path: Path) -> None:
    """Rows that are not used are not kept: less memory than the file has characters."""
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(64):
            file.write(json.dumps({**ROW, "day": f"2025-01-{1 + number % 2:02}", "tests": "x" * (1 << 20)}) + "\n")
    tracemalloc.start()
    rows = Rows("x", str(path), dates={"day": ["2025-01-02", None]}).examples(None)
    assert (len(rows), rows[0].id) == (32, "a-2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_patterns_take_and_erase(tmp_path: Path) -> None:
    row = {**ROW, "work": "1 + 1 = <<1+1=2>>2\nso 2,000\n#### 2,000"}
    columns = {"thought": "work", "answer": "work", "gold": "work"}
    extract = {"thought": r"^(.*?)\n####", "answer": r"####(.*)$", "gold": r"####(.*)$"}
    example = one(tmp_path, row, columns=columns, extract=extract, erase={"thought": "<<[^>]*>>", "gold": ","})
    assert [segment.text for segment in example.thought] == ["1 + 1 = 2\nso 2,000"]
    assert (example.answer, example.gold) == ("2,000", ("2000",))


def test_row_that_a_pattern_misses_is_left_out_by_name(tmp_path: Path) -> None:
    works = [{**ROW, "work": work} for work in ("a #### 1", "none", "nothing")]
    reading = Rows(
        "x", written(tmp_path / "a.jsonl", *works), columns={"answer": "work"}, extract={"answer": "####(.*)|thing"}
    ).read(None)
    assert [row.reason for row in reading.rejected] == ["no answer where extract.answer looks for it"] * 2
    assert [example.answer for example in reading.examples] == ["1"]


@pytest.mark.parametrize("key", ["extract", "erase"])
def test_pattern_that_takes_too_long_is_refused(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PATTERN_SECONDS", 0.05)
    path = written(tmp_path / "a.jsonl", {**ROW, "answer": "1," * 400})
    with pytest.raises(ValueError, match=rf"a\.jsonl.*1: {key}\.answer='.*': took more than 0\.05 s on a text of 800"):
        Rows("x", path, **{key: {"answer": "^((?:.*?,){14}P)"}}).read(None)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"extract": {"answer": "("}}, r"extract\.answer='\(': not a pattern"),
        ({"extract": {"answer": "a"}}, r"extract\.answer='a': needs a group"),
        (
            {"thought_tags": ["<think>"], "columns": {"response": "r"}},
            r"thought_tags=\['<think>'\]: accepted: an opening",
        ),
        ({"columns": {"response": "r"}}, r"columns\.response and thought_tags go together"),
        ({"thought_tags": THINK}, r"columns\.response and thought_tags go together"),
        ({"forms": {"promt": "{ask}"}}, r"forms\.promt='{ask}': no such field; .* did you mean 'prompt'\?"),
        (
            {"dates": {"day": ["2025-01-01"]}},
            r"dates\.day=\['2025-01-01'\]: accepted: two dates as YYYY-MM-DD, also with",
        ),
        ({"dates": {"day": ["May", None]}}, r"dates\.day=\['May', None\]: accepted: two dates"),
        ({"dates": {"day": [None, "2025-01-01T00:00:00Z"]}}, r"dates\.day=.*: accepted: two dates as"),
        ({"hub": "a/b"}, r"give either path, or hub or file"),
        ({"path": None}, r"give either path, or hub or file"),
    ],
)
def test_contradictory_source_is_refused_before_it_is_read(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"rows x: .*{message}"):
        Rows("x", **{"path": "a.jsonl", **mapping})


# --- Parquet, data_dir and the hub ---


@pytest.fixture
def hub_like(tmp_path: Path) -> Path:
    """A folder that the datasets library reads as it reads a set on the hub."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"ask": f"Question {i}?", "label": "benign", "tags": ["a", "b"]} for i in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    return folder


def test_parquet_is_read(hub_like: Path) -> None:
    examples = Rows("x", str(hub_like / "train.parquet"), columns={"prompt": "ask", "category": "tags"}).examples(None)
    assert [(e.id, e.prompt, e.category) for e in examples] == [
        (f"train-{i + 1}", f"Question {i}?", "a") for i in range(3)
    ]
    assert examples[2].source == "train.parquet: row 3"


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a\.parquet: not readable as Parquet: "):
        Rows("x", str(tmp_path / "a.parquet")).examples(None)


def test_hub_rows_are_those_of_the_file(hub_like: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    columns = {"prompt": "ask"}
    from_hub = Rows("x", hub=str(hub_like), columns=columns)
    from_disk = Rows("x", hub="a/b", file="train.parquet", data_dir=str(hub_like), columns=columns)
    assert [e.prompt for e in from_hub.examples(1)] == [e.prompt for e in from_disk.examples(1)]
    assert from_hub.examples(None)[0].source == f"{hub_like}:train: row 1"
    (digest,) = from_hub.content().values()
    assert len(digest) == 16


OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cached_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of `datasets` with two commits of org/myset, NEW the later, and no hub."""
    import datasets

    for name in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for second, commit in enumerate((OLD, NEW)):
        folder = tmp_path / commit / "myset"
        folder.mkdir(parents=True)
        written(folder / "train.jsonl", {"prompt": f"What is in {commit[0]}?", "label": "benign"})
        (file,) = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "local")).cache_files
        cached = tmp_path / "cache" / "org___myset" / "default" / "0.0.0" / commit
        shutil.copytree(Path(file["filename"]).parent, cached)
        os.utime(cached, (second, second))


@pytest.mark.parametrize("revision", [None, NEW])
def test_commit_of_the_hub_is_recorded(revision: str | None, cached_commits: None) -> None:
    rows = Rows("x", hub="org/myset", revision=revision)
    assert [row.prompt for row in rows.examples(None)] == ["What is in b?"]
    assert rows.read(None).origin == f"org/myset@{NEW}"
    assert rows.content() == {"org/myset:train": NEW}


@pytest.mark.parametrize("revision", [OLD, "v1"])
def test_another_revision_than_the_cached_one_is_refused_offline(revision: str, cached_commits: None) -> None:
    rows = Rows("x", hub="org/myset", revision=revision)
    for read in (rows.content, lambda: rows.read(None)):
        with pytest.raises(FileNotFoundError, match=f"revision={revision} .* set revision={NEW}"):
            read()


@pytest.mark.parametrize(("revision", "refused"), [("v1", False), (OLD, True)])
def test_a_tag_leads_to_a_commit_online_and_a_commit_to_itself(
    revision: str, refused: bool, cached_commits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked = []
    loaded = datasets.load_dataset("org/myset", split="train")
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: asked.append((given, options)) or loaded)
    for name in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, False)
    monkeypatch.setattr("alttrain.hub.why_unreachable", lambda endpoint: "")
    rows = Rows("x", hub="org/myset", config="main", split="test", revision=revision)
    if refused:  # the hub did not answer after all
        with pytest.raises(FileNotFoundError, match=f"revision={OLD}"):
            rows.read(None)
    else:
        assert rows.read(None).origin == f"org/myset@{NEW}"
    assert asked[0] == (("org/myset", "main"), {"split": "test", "revision": revision, "keep_in_memory": False})


def test_rows_that_no_cache_has_are_of_an_unknown_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: datasets.Dataset.from_list([ROW]))
    monkeypatch.setattr("alttrain.hub.why_unreachable", lambda endpoint: "")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    rows = Rows("x", hub="a/b", revision="v1")
    assert rows.read(None).origin == "a/b@unknown"
    assert len(rows.content()["a/b:train"]) == 16


def test_hub_out_of_reach_is_told_in_one_line_with_the_remedy() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Rows("x", hub="no-such/set", file="set/rows.json").examples(None)
    told = str(caught.value)
    assert told.startswith("no-such/set: cannot be read from the hub: ")
    assert told.endswith("; set data_dir to a folder that holds set/rows.json, or read it online once")
    assert "\n" not in told


def test_data_dir_must_hold_the_file(tmp_path: Path) -> None:
    rows = Rows("x", hub="a/b", file="set/rows.json", data_dir=str(tmp_path))
    for read in (rows.examples, lambda _: rows.content()):
        with pytest.raises(FileNotFoundError) as caught:
            read(None)
        assert str(caught.value) == (
            f"{tmp_path}/set/rows.json: no such data file (data_dir={tmp_path}); "
            "put it there, or set data_dir=null to read a/b from the hub"
        )


def test_set_that_is_not_on_the_hub_asks_for_data_dir() -> None:
    with pytest.raises(
        ValueError, match=r"rows x: not on the hub; set data_dir to the folder that holds set/rows\.json"
    ):
        Rows("x", file="set/rows.json").examples(None)


# --- the shared data, through the shipped configs ---

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED}")


def shipped(name: str, **changes: Any) -> Rows:
    """The source that conf/dataset/source/NAME.yaml builds, reading from the shared data."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = Path(__file__).parents[1] / "conf" / "dataset" / "source" / f"{name}.yaml"
    node = OmegaConf.merge({"data_dir": str(SHARED)}, {"source": OmegaConf.load(path)})
    rows = instantiate({**OmegaConf.to_container(node, resolve=True)["source"], **changes}, _convert_="all")  # type: ignore[dict-item,index,call-overload]
    assert isinstance(rows, Rows)
    return rows


@pytest.mark.parametrize(
    ("name", "rows", "read"),
    [
        (
            "safechain",
            [
                {"instruction": "Q?", "label": "vanilla_harmful", "response": "t\n</think>\n\na"},
                {"instruction": "R?", "label": "adversarial_benign", "response": "u\n</think>\n\nb"},
            ],
            [("Q?", "harmful", "vanilla_harmful", "t", "a"), ("R?", "benign", "adversarial_benign", "u", "b")],
        ),
        (
            "r1_act",
            [
                {"instruction": "Q?", "response": "t\n\nu\n</think>"},
                {"instruction": "R?", "response": "a\n"},
                {"instruction": "S?", "response": "<think>\nt\n</think>\n"},
            ],
            [("Q?", "harmful", "", "t\n\nu", ""), ("R?", "benign", "", "", "a"), ("S?", "harmful", "", "t", "")],
        ),
        (
            "safekey",
            [
                {"question": "Q?", "source": "4o_rewrite", "response": "<think>\nt\n</think>\n\na", **SLICE},
                {"question": "R?", "source": "HarmBench", "response": "<think>\nu\n</think>\n\nb", **SLICE},
            ],
            [("Q?", "benign", "", "t", "a"), ("R?", "harmful", "", "u", "b")],
        ),
        (
            "safechain_prompts",
            [{"instruction": "Q?", "label": "adversarial_harmful", "response": "a thought that does not end"}],
            [("Q?", "harmful", "adversarial_harmful", "", "")],
        ),
        (
            "openr1_math",
            [
                {
                    "problem": "Q?",
                    "generations": ["<think>\nt\n</think>\n\na", "x"],
                    "correctness_math_verify": [True, False],
                },
                {"problem": "R?", "generations": ["<think>\nt\n</think>\n\na"], "correctness_math_verify": [False]},
            ],
            [("Q?", "benign", "mathematics", "t", "a")],
        ),
        (
            "direct_refusal",
            [{"prompt": "as sent", "refusal": "Question: Q?\nand?\nAnswer: I will not.\nNo."}],
            [("Q?\nand?", "harmful", "", "I should not answer this question!", "I will not.\nNo.")],
        ),
    ],
)
def test_columns_of_sets_on_the_hub_alone(name: str, rows: list[dict[str, Any]], read: Any, tmp_path: Path) -> None:
    """As their cards and training code have them; the sets themselves cannot be had here."""
    written(tmp_path / "a.jsonl", *rows)
    examples = shipped(name, data_dir=str(tmp_path), file="a.jsonl").examples(None)
    assert [(e.prompt, e.label, e.category, render(e.thought), e.answer) for e in examples] == read


def test_r1_acts_rows_are_labelled_by_their_shape(tmp_path: Path) -> None:
    """859 thoughts that end unanswered and 100 answers without a thought; another shape is left out by name."""
    refusals = [{"instruction": f"Q{n}?", "response": f"Thought {n}.\n</think>"} for n in range(859)]
    plain = [{"instruction": f"R{n}?", "response": f"Answer {n}."} for n in range(100)]
    others = [{"instruction": "S?", "response": "t</think>a"}, {"instruction": "T?", "response": "<think>cut off"}]
    written(tmp_path / "a.jsonl", *refusals, *plain, *others)
    reading = shipped("r1_act", data_dir=str(tmp_path), file="a.jsonl").read(None)
    assert Counter((e.label, e.shape) for e in reading.examples) == {
        ("harmful", "thought_only"): 859,
        ("benign", "answer_only"): 100,
    }
    assert [row.reason for row in reading.rejected] == [
        "it has both a thought and an answer",
        "the thought is not closed",
    ]


def test_a_response_leaves_no_column_to_fill_its_answer(tmp_path: Path) -> None:
    row = {"prompt": "Hi?", "label": "harmful", "r": "No.</think>", "answer": "an older one"}
    mapping: Any = {"thought_tags": THINK, "shapes": ["thought_only"]}
    assert one(tmp_path, row, columns={"response": "r"}, **mapping).shape == "thought_only"
    assert one(tmp_path, row, columns={"response": "r", "answer": "answer"}, **mapping).answer == "an older one"


def test_first_rows_are_those_of_the_file_that_pass_the_filter(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "label": "benign", "kind": n % 2} for n in range(9)]
    path = written(tmp_path / "a.jsonl", *rows)
    source = Rows("a", str(path), where={"kind": 1}, first=3)
    assert [example.prompt for example in source.examples(None)] == ["p1", "p3", "p5"]


def test_safekeys_key_sentence_is_the_slice_its_data_names(tmp_path: Path) -> None:
    thought = "The user asks how. That would hurt people. No."
    row = {"question": "Q?", "source": "AttaQ", "response": f"<think>\n{thought}\n</think>\n\na"}
    at = {"summary_end_idx": 8 + 18, "next_sentence_end_idx": 8 + 42}
    written(tmp_path / "a.jsonl", {**row, **at})
    (example,) = shipped("safekey", data_dir=str(tmp_path), file="a.jsonl").examples(None)
    assert example.key_sentence == "That would hurt people."
    for end in (4, 999):
        written(tmp_path / "a.jsonl", {**row, **at, "next_sentence_end_idx": end})
        with pytest.raises(ValueError, match=rf"=26, next_sentence_end_idx={end}: not characters of response"):
            shipped("safekey", data_dir=str(tmp_path), file="a.jsonl").examples(None)
    with pytest.raises(ValueError, match=r"slices\.key_sentence=\['response'\]: accepted: columns of text, start, end"):
        Rows("r", path="x", slices={"key_sentence": ["response"]})


@needs_shared
@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("star1", {}, 1000),
        ("gsm8k", {}, 500),
        ("gsm8k", {"file": "gsm8k/test.jsonl"}, 1319),
        ("math", {"file": "math500/test.jsonl"}, 500),
    ],
)
def test_published_sets_are_read_whole(name: str, changes: dict[str, Any], count: int) -> None:
    reading = shipped(name, **changes).read(None)
    assert len(reading.examples) == count
    assert all(example.thought and example.thought[0].text and example.answer for example in reading.examples)
    tags = ("think>", "<<", "####")
    assert not [e.id for e in reading.examples for tag in tags if tag in e.thought[0].text + e.answer]
    assert not reading.rejected


@needs_shared
def test_gsm8k_gives_its_number_without_commas_and_its_steps_without_annotations() -> None:
    rows = shipped("gsm8k", file="gsm8k/test.jsonl").examples(None)
    first = rows[0]
    assert first.thought[0].text.splitlines()[0] == "Janet sells 16 - 3 - 4 = 9 duck eggs a day."
    assert (first.answer, first.gold, first.category) == ("18", ("18",), "gsm8k")
    assert sum("," in row.answer for row in rows) == 14
    assert all(row.gold[0].removeprefix("-").isdigit() for row in rows)


@needs_shared
def test_star1_rows_keep_their_ids_and_first_category() -> None:
    rows = shipped("star1").examples(None)
    assert Counter(row.category for row in rows)["Illicit / Criminal Behavior"] == 255
    assert (len({row.category for row in rows}), len({row.id for row in rows})) == (8, 1000)
    assert sum(len(row.thought[0].text) for row in rows) / len(rows) == pytest.approx(1348, abs=1)


def test_a_silent_hub_is_asked_once_and_only_its_cache_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    seen: list[bool] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, False)
    for answer in ("no answer", ""):
        monkeypatch.setattr("alttrain.hub.why_unreachable", lambda endpoint, answer=answer: answer)
        with pytest.raises(FileNotFoundError, match="not in the cache"):
            Rows(name="far", hub="nobody/nothing").examples(None)
    assert seen == [True, False]
    assert not datasets.config.HF_HUB_OFFLINE
