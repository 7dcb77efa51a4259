"""Rows: what the embedded sets promise, near-duplicates, stratified subsets, and files row by row."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alttrain.dataset import Dataset, Rows, embedded_rows
from alttrain.dataset.selection import stratified
from alttrain.dataset.similarity import NearDuplicateFilter, words
from alttrain.dataset.sources import content_hash, read_raw
from alttrain.records import Example

TRAIN = embedded_rows("train").examples(None)
HARMFUL = embedded_rows("evaluation_harmful").examples(None)
BENIGN = embedded_rows("evaluation_benign").examples(None)
SHORT = embedded_rows("short_answer").examples(None)
DEVELOPMENT = {
    name: embedded_rows(name).examples(None)
    for name in ("development_harmful", "development_benign", "development_short_answer")
}
EVALUATION = {"evaluation_harmful": HARMFUL, "evaluation_benign": BENIGN, "short_answer": SHORT}
SETS = {"train": TRAIN, **EVALUATION, **DEVELOPMENT}


def prompts(examples: Sequence[Example]) -> list[str]:
    """The prompts of some examples."""
    return [example.prompt for example in examples]


def near(*lists: Sequence[str], threshold: float = 0.65) -> list[tuple[int, int, float]]:
    """(number of a prompt in the last list, number of the earlier one that it is like, similarity)."""
    distinct = NearDuplicateFilter(threshold)
    for texts in lists:
        distinct.skipped.clear()
        distinct.first([Example(str(number), text, "benign") for number, text in enumerate(texts)], None)
    return [(int(number), int(like), similarity) for number, like, similarity in distinct.skipped]


# --- what the embedded sets promise ---


def test_training_set_has_enough_harmful_prompts() -> None:
    harmful = [example for example in TRAIN if example.label == "harmful"]
    assert len(harmful) >= 320
    assert len({example.category for example in harmful}) >= 10


def test_every_hazard_category_has_all_four_phrasings() -> None:
    phrasings: dict[str, set[str]] = {}
    for example in TRAIN:
        if example.label == "harmful":
            phrasings.setdefault(example.category, set()).add(example.phrasing)
    assert set(map(frozenset, phrasings.values())) == {frozenset({"question", "order", "role_play", "indirect"})}


def test_training_set_has_enough_benign_prompts() -> None:
    categories = Counter(example.category for example in TRAIN if example.label == "benign")
    assert categories.total() >= 320
    assert categories["borderline"] >= 120
    assert set(categories) == {"borderline", "everyday", "knowledge", "code", "maths", "writing"}


def test_no_category_is_both_harmful_and_benign() -> None:
    labels: dict[str, set[str]] = {}
    for example in [*TRAIN, *HARMFUL, *BENIGN]:
        labels.setdefault(example.category, set()).add(example.label)
    assert [category for category, found in labels.items() if len(found) > 1] == []


def test_evaluation_sets_have_their_sizes() -> None:
    assert Counter(example.label for example in HARMFUL) == {"harmful": 100}
    assert Counter(example.label for example in BENIGN) == {"benign": 100}
    assert sum(example.category == "borderline" for example in BENIGN) == 50
    assert len(SHORT) == 60


def test_evaluation_covers_the_categories_of_training() -> None:
    assert {example.category for example in [*HARMFUL, *BENIGN]} == {example.category for example in TRAIN}


def test_every_short_answer_question_has_gold() -> None:
    assert [example.id for example in SHORT if not example.gold or not all(map(words, example.gold))] == []


def test_no_gold_answer_stands_in_its_own_question() -> None:
    told = [
        (example.id, gold)
        for example in SHORT
        for gold in example.gold
        if f" {' '.join(words(gold))} " in f" {' '.join(words(example.prompt))} "
    ]
    assert told == []


def test_ids_are_unique_over_all_sets() -> None:
    counts = Counter(example.id for examples in SETS.values() for example in examples)
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", SETS)
def test_rows_are_tidy(name: str) -> None:
    """No stray blanks, no empty category, and only the short answers have gold."""
    for example in SETS[name]:
        assert example.prompt == " ".join(example.prompt.split()), example.id
        assert example.category, example.id
        assert bool(example.gold) == name.endswith("short_answer"), example.id


@pytest.mark.parametrize("name", SETS)
def test_no_near_duplicates_inside_a_set(name: str) -> None:
    assert near(prompts(SETS[name])) == []


@pytest.mark.parametrize("name", [*EVALUATION, *DEVELOPMENT])
def test_no_near_duplicates_between_training_and_evaluation(name: str) -> None:
    assert near(prompts(TRAIN), prompts(SETS[name])) == []


@pytest.mark.parametrize("name", DEVELOPMENT)
def test_no_near_duplicates_between_development_and_evaluation(name: str) -> None:
    evaluation = [prompt for examples in EVALUATION.values() for prompt in prompts(examples)]
    assert near(evaluation, prompts(SETS[name])) == []


def test_development_covers_the_categories_of_training() -> None:
    found = Counter(example.category for name in DEVELOPMENT for example in SETS[name] if not example.gold)
    assert set(found) == {example.category for example in TRAIN}
    assert min(found.values()) >= 12


# --- near-duplicates ---

PAIRS: list[tuple[str, str, float]] = [
    ("What is the capital of France?", "What is the capital of Spain?", 5 / 6),
    ("What is the capital of France?", "what is the CAPITAL of France", 1.0),
    ("Hello, world!", "hello -- world", 1.0),
    ("Don't run so fast today", "Don't run so slow today", 4 / 5),
    ("Don’t run so fast today", "Don't run so fast today", 1.0),
    ("How do I bake rye bread at home?", "How do I bake bread at home?", 7 / 8),
    ("one two three four", "four three two one", 1 / 4),
    ("a b c d", "a b x y z", 2 / 5),
    ("Ｆｕｌｌ width", "full width", 1.0),
]


@pytest.mark.parametrize(("left", "right", "similarity"), PAIRS)
def test_similarity_is_the_common_subsequence_over_the_longer(left: str, right: str, similarity: float) -> None:
    for pair in ([left, right], [right, left]):
        ((i, j, found),) = near(pair, threshold=0.01)
        assert (i, j) == (1, 0)
        assert found == pytest.approx(similarity, abs=1e-6)


def test_unrelated_prompts_are_no_pair() -> None:
    assert near(["Name a river in Peru.", "Why does bread rise?"], threshold=0.01) == []
    assert near([]) == near(["alone here"]) == []


def test_each_is_named_with_the_first_that_it_is_like() -> None:
    texts = ["Name a river.", "Why does bread rise?", "name a river", "Name a river!"]
    assert near(texts) == [(2, 0, 1.0), (3, 0, 1.0)]


def test_pairs_against_another_list_index_both() -> None:
    left, right = ["Why does bread rise?", "Name a river."], ["Name a lake now.", "why does bread rise"]
    assert near(left, right) == [(1, 0, 1.0)]
    assert near(right, left) == [(0, 1, 1.0)]


@pytest.mark.parametrize(("same", "of"), [(13, 20), (5, 6), (2, 3), (7, 10)])
def test_threshold_itself_counts(same: int, of: int) -> None:
    left = [f"w{index}" for index in range(of)]
    right = [*left[:same], *(f"v{index}" for index in range(same, of))]
    both = [" ".join(left), " ".join(right)]
    assert [(i, j) for i, j, _ in near(both, threshold=same / of)] == [(1, 0)]
    assert near(both, threshold=(same + 0.5) / of) == []


# --- stratified ---


def rows_of(sizes: dict[str, int]) -> list[Example]:
    """Rows of the given categories."""
    return [Example(f"{name}{i}", "x", "benign", name) for name, size in sizes.items() for i in range(size)]


def test_larger_amount_contains_every_smaller_one() -> None:
    rows = rows_of({"a": 9, "b": 5, "c": 2})
    chosen = [[row.id for row in stratified(rows, amount, 3)] for amount in range(17)]
    assert [len(ids) for ids in chosen] == list(range(17))
    assert all(set(small) < set(large) for small, large in pairwise(chosen))
    assert set(chosen[16]) == {row.id for row in rows}


@pytest.mark.parametrize("amount", [3, 4, 5, 7, 12, 29])
def test_equal_categories_share_equally(amount: int) -> None:
    counts = Counter(row.category for row in stratified(rows_of({"a": 10, "b": 10, "c": 10}), amount, 0))
    assert len(counts) == 3
    assert max(counts.values()) - min(counts.values()) <= 1


def test_unequal_categories_share_by_their_sizes() -> None:
    counts = Counter(row.category for row in stratified(rows_of({"a": 40, "b": 20, "c": 10}), 7, 0))
    assert counts == {"a": 4, "b": 2, "c": 1}


def test_choice_is_decided_by_the_seed() -> None:
    rows = rows_of({"a": 30, "b": 30})
    ids = {seed: [row.id for row in stratified(rows, 10, seed)] for seed in (0, 1, None)}
    assert ids == {seed: [row.id for row in stratified(rows, 10, seed)] for seed in (0, 1, None)}
    assert len({tuple(sorted(chosen)) for chosen in ids.values()}) == 3


# --- the embedded prompts as a dataset ---

GROUPS = {"harmful": None, "borderline": None, "benign": None}


def embedded(**amounts: int) -> Dataset:
    """What conf/dataset/embedded.yaml builds, with some amounts overridden."""
    return Dataset("embedded", {"embedded": embedded_rows("train")}, {**GROUPS, **amounts})


def group(example: Example) -> str:
    """The group `amounts` counts an example in."""
    return "borderline" if example.category == "borderline" else example.label


CHOSEN = {
    0: "h-elc-012 h-ipv-012 h-ncr-012 b-ctx-036 b-mat-028 h-iwp-012 b-day-036 h-hte-012 b-tgt-008 b-hom-028 b-kno-076 "
    "h-dfm-012",
    1: "b-kno-034 b-day-006 b-mat-014 h-ipv-107 b-tgt-302 h-elc-107 h-ncr-107 b-ctx-031 h-hte-107 h-dfm-107 b-hom-004 "
    "h-iwp-107",
}


@pytest.mark.parametrize("seed", CHOSEN)
def test_choice_of_the_embedded_prompts_is_pinned(seed: int) -> None:
    """A published result names its seed, so that the seed must go on choosing the same rows in the same order."""
    chosen = embedded(harmful=6, borderline=3, benign=3).examples(seed)
    assert [example.id for example in chosen] == CHOSEN[seed].split()


def test_embedded_prompts_that_ask_what_an_embedded_benchmark_asks_are_not_trained_on() -> None:
    """None stands in one word for word; a few are the same question in other words, and are left out."""
    benchmarks = {name: prompts(rows) for name, rows in EVALUATION.items()}
    selection = embedded().select(0, benchmarks)
    matches = selection.report["decontamination"]
    assert Counter((match["benchmark"], match["how"]) for match in matches) == {
        ("short_answer", "similar"): 6,
        ("evaluation_harmful", "similar"): 1,
    }
    assert not {match["id"] for match in matches} & {row.id for row in selection.examples}
    assert "Which wall came down in 1989 in a divided German city?" in {match["prompt"] for match in matches}


def test_embedded_groups_are_mixed_by_the_seed() -> None:
    """A batch from the front holds more than one group."""
    front = embedded().examples(0)[:40]
    assert {group(example) for example in front} == {"harmful", "borderline", "benign"}


def test_content_is_the_hash_of_the_file(tmp_path: Path) -> None:
    assert embedded().content() == {"embedded/train.jsonl": content_hash(Path(embedded_rows("train").path or ""))}
    path = tmp_path / "a.csv"
    path.write_bytes(b"abc")
    assert Rows("x", str(path)).content() == {"a.csv": "ba7816bf8f01cfea"}


# --- files ---

ROW = {"prompt": "Hi?", "label": "benign"}


def jsonl(path: Path, *rows: Any) -> str:
    """Write JSON lines; a string stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_json_lines_are_read(tmp_path: Path) -> None:
    row = {"id": 7, "prompt": "Hi?", "label": "harmful", "category": "c", "phrasing": "order", "answer": "A"}
    path = jsonl(tmp_path / "a.jsonl", {**row, "gold": "G", "other": 1}, "", {**ROW, "gold": ["x", "y"]})
    assert Rows("x", path).examples(None) == [
        Example("7", "Hi?", "harmful", "c", "order", (), "A", ("G",), "a.jsonl:1"),
        Example("a-2", "Hi?", "benign", gold=("x", "y"), source="a.jsonl:3"),
    ]


def test_json_array_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW, {**ROW, "prompt": "Two?"}], indent=1), encoding="utf-8")
    examples = Rows("x", str(path)).examples(None)
    assert [(e.id, e.prompt, e.source) for e in examples] == [
        ("a-1", "Hi?", "a.json: row 1"),
        ("a-2", "Two?", "a.json: row 2"),
    ]


def test_csv_holds_a_trace_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,label\n{'x' * 200_000},benign\n", encoding="utf-8")
    csv.field_size_limit(1 << 17)
    assert [len(example.prompt) for example in Rows("x", str(path)).examples(None)] == [200_000]


def test_csv_keeps_quoted_newlines_and_skips_the_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffprompt,label\r\n"One, ""é""\nand two",benign\r\n\r\nThree,harmful\r\n'.encode())
    examples = Rows("x", str(path)).examples(None)
    assert [(e.prompt, e.label) for e in examples] == [('One, "é"\nand two', "benign"), ("Three", "harmful")]
    assert examples[1].source == "a.csv:5"


def test_json_lines_skip_the_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n" + json.dumps(ROW).encode() + b"\r\n")
    assert len(Rows("x", str(path)).examples(None)) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl.gz", json.dumps(ROW) + "\n"),
        ("a.json.gz", json.dumps([ROW])),
        ("a.csv.gz", "prompt,label\nHi?,benign\n"),
    ],
)
def test_gz_is_inflated(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert prompts(Rows("x", str(tmp_path / name)).examples(None)) == ["Hi?"]


def test_columns_and_constants_fill_fields(tmp_path: Path) -> None:
    """As for XSTest: a mapped column beats one of the same name, and a constant the column of its name."""
    path = tmp_path / "a.csv"
    path.write_text("ask,prompt,type,label\nHow?,no,homonym,safe\n", encoding="utf-8")
    source = Rows("x", str(path), columns={"prompt": "ask", "category": "type"}, constants={"label": "benign"})
    (example,) = source.examples(None)
    assert (example.prompt, example.category, example.label) == ("How?", "homonym", "benign")


def test_field_that_is_mapped_and_constant_is_not_called_missing(tmp_path: Path) -> None:
    """Mapped columns come first."""
    path = jsonl(tmp_path / "a.jsonl", {**ROW, "kind": "harmful"})
    source = Rows("x", path, columns={"label": "kind"}, constants={"label": "benign"})
    assert source.examples(None)[0].label == "harmful"


def test_rows_that_the_filter_drops_are_not_checked(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "", "label": "unsafe", "set": "b"}, {**ROW, "set": "a"})
    assert prompts(Rows("x", path, where={"set": "a"}).examples(None)) == ["Hi?"]


def test_limit_cuts_after_the_shuffle(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({**ROW, "prompt": str(i)} for i in range(50)))
    assert prompts(Rows("x", path, limit=3).examples(None)) == ["0", "1", "2"]
    cut = prompts(Rows("x", path, limit=10).examples(4))
    assert cut == prompts(Rows("x", path).examples(4))[:10]
    assert cut != prompts(Rows("x", path, limit=10).examples(5))
    assert len(Rows("x", path, limit=99).examples(4)) == 50


BAD_LINES: list[tuple[Any, str]] = [
    ("{broken", ":2: malformed JSON: "),
    ("[1]", ":2: expected a JSON object, found list"),
    ({"label": "benign"}, ":2: no prompt; columns: "),
    ({"prompt": "Hi?"}, ":2: no label; columns: "),
    ({**ROW, "label": "bad"}, ":2: field 'label': Invalid enum value 'bad'; accepted: harmful, benign"),
    ({**ROW, "prompt": 5}, ":2: field 'prompt': Expected `str`, got `int`"),
    ({**ROW, "prompt": " \n"}, ":2: the prompt is empty"),
    ({**ROW, "gold": 5}, ":2: field 'gold': Expected `array`, got `int`"),
]


@pytest.mark.parametrize(("row", "message"), BAD_LINES)
def test_bad_json_line_is_named(row: Any, message: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROW, row, ROW)
    with pytest.raises(ValueError, match=r".") as caught:
        Rows("x", path).examples(None)
    assert str(caught.value).startswith(path + message)


def test_duplicate_id_names_both_places(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**ROW, "id": "q"}, ROW, {**ROW, "id": "q"})
    with pytest.raises(ValueError, match=r".") as caught:
        Rows("x", path).examples(None)
    assert str(caught.value) == f"{path}:3: id 'q' is already at {path}:1; ids must be unique"


def test_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"goal": "Hi?", "label": "benign"})
    with pytest.raises(ValueError, match=r".") as caught:
        Rows("x", path, columns={"prompt": "gaol"}).examples(None)
    assert str(caught.value) == f"{path}:1: missing field 'gaol' (the column for prompt); columns: goal, label"


def test_missing_filter_column_is_named_with_those_there(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROW)
    with pytest.raises(
        ValueError, match=r"a\.jsonl:1: missing field 'set' \(the column to filter by\); columns: prompt, label"
    ):
        Rows("x", path, where={"set": "a"}).examples(None)


@pytest.mark.parametrize(("columns", "constants"), [({"promt": "prompt"}, {}), ({}, {"promt": "prompt"})])
def test_unknown_field_of_a_mapping_is_named(columns: dict[str, str], constants: dict[str, str]) -> None:
    named = r"rows x: (columns|constants)\.promt='prompt': no such field; accepted: id, prompt, "
    with pytest.raises(ValueError, match=named):
        Rows("x", "a.jsonl", columns=columns, constants=constants)


def test_filter_that_nothing_passes_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**ROW, "set": "a"})
    with pytest.raises(ValueError, match=r"a\.jsonl: no row passes the filter \{'set': 'b'\}"):
        Rows("x", path, where={"set": "b"}).examples(None)


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("a.jsonl", b"", ": the file holds no rows"),
    ("a.jsonl", b"\n \n", ": the file holds no rows"),
    ("a.csv", b"", ": the file holds no rows"),
    ("a.csv", b"prompt,label\n", ": the file holds no rows"),
    ("a.json", b"[]", ": the file holds no rows"),
    ("a.json", b'{"prompt": "Hi?"}', ": expected a JSON array of rows, found dict"),
    ("a.json", b'[{"a": 1}, 3]', ": row 2: expected a JSON object, found int"),
    ("a.json", b'[\n{"a": 1},\n{"a" 1}\n]', ": malformed JSON (line 3): "),
    ("a.json", b"[" * 100_000, ": malformed JSON: maximum recursion depth exceeded"),
    ("a.jsonl", b'{"a": ' + b"9" * 6000 + b"}", ":1: malformed JSON: Exceeds the limit"),
    ("a.csv", b"prompt,label\nHi?,benign\nHi?\n", ":3: the row has not as many cells as the header has columns"),
    ("a.csv", b"prompt,label\nHi?,benign,x\n", ":2: the row has not as many cells as the header has columns"),
    ("a.csv", b'prompt,label\n"Hi?" x,benign\n', ":2: malformed CSV: "),
    ("a.csv", b'prompt,label\nHi?,benign\n"Hi', ":3: malformed CSV: "),
    (
        "a.txt",
        b"Hi?",
        ": unknown kind of data file 'txt'; accepted: jsonl, json, csv, tsv, each also as .gz, and parquet",
    ),
    ("a.jsonl", b'{"prompt": "\xe9"}', ": not readable as UTF-8 text: "),
    ("a.jsonl.gz", b'{"prompt": "x"}', ": not readable as UTF-8 text: "),
    ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}', mtime=0)[:-12], ": not readable as UTF-8 text: "),
    ("a.jsonl.gz", gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 20, ": not readable as UTF-8 text: "),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), BAD_FILES, ids=[f"{index}-{row[0]}" for index, row in enumerate(BAD_FILES)]
)
def test_bad_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r".") as caught:
        list(read_raw(path))
    assert str(caught.value).startswith(f"{path}{message}")


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such data file"):
        Rows("x", str(tmp_path / "none.csv")).examples(None)


def test_embedded_rows_are_a_packaged_file() -> None:
    source = embedded_rows("short_answer", limit=2)
    assert source.name == "short_answer"
    assert [example.id for example in source.examples(None)] == ["sa-001", "sa-002"]
    assert source.examples(None)[0].source == "short_answer.jsonl:1"
