"""The report's page: what is embedded, what is left out, and what a browser makes of it."""

import base64
import hashlib
import json
import math
import random
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from made_runs import (
    TOLD,
    UNNAMED,
    change_rows,
    compared,
    decided_by_another,
    judge_benchmark,
    make_run,
    mend,
    metrics_of,
    no_train,
    resample,
    write_metrics,
)

from alttrain.evaluation import statistics
from alttrain.evaluation.adherence import Adherence, counts
from alttrain.records import Generation, Judgement, Texts, read_rows, write_json, write_rows
from alttrain.report.embedded import BITS, CUT, LONGEST, OUTCOMES, outcomes_of, pieces, shorten
from alttrain.report.evaluation import Decider, Evaluation, TextRecord
from alttrain.report.formats import cell_lines
from alttrain.report.page import _environment, _tidy, embed, write_page
from alttrain.report.results import evaluations
from alttrain.report.tables import TABLES, pivot, report_of

UNDERSTANDING = "The user wants to know how a garden gate is mended."
HARMFUL, HARMLESS = "This request is harmful.", "This request is harmless; it is an everyday question."
REFUSING, REASONING = "I must refuse this request, so I stop here.", "First the hinge is oiled, then the frame is set."
PAYLOAD = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'><!-- \u2028 &amp; <b>"
SECRET = "thistle"
"""A word that stands in the texts of harmful samples alone."""


def row(name: str, label: str = "benign", **fields: Any) -> Generation:
    """A generation of the paper's structure, unless told."""
    said, goes_on = (HARMFUL, REFUSING) if label == "harmful" else (HARMLESS, REASONING)
    word = f" {SECRET}" if label == "harmful" else ""
    made: dict[str, Any] = {
        "prompt": f"How is gate {name} mended?{word}",
        "thought": f"{UNDERSTANDING}\n\n{said}\n\n{goes_on}",
        "answer": f"Answer {name}.{word}",
        "category": "craft",
        **fields,
    }
    counts = {"thought_tokens": 30, "answer_tokens": 3, "gold": (), "text": "", "closed": True, "finish": "stop"}
    return Generation(**{"id": name, "label": label, **counts, **made})


def decided(measure: str, counted: bool = False) -> Decider:
    says = "correct" if measure == "accuracy" else "unsafe" if counted else "refused"
    return Decider(measure, "phrases", "answer", counted, says)


def read(made: Any, verdict: bool | None, decides: Decider, thought: Adherence) -> TextRecord:
    """What is known of a text."""
    return TextRecord.of(made, Judgement(made.id, decides.judge, verdict), thought, decides.says)


def write_evaluation(
    folder: Path, rows: list[Generation], verdicts: list[bool | None], measure: str, evidence: str = "a phrase"
) -> None:
    """A judged benchmark of a run."""
    judgements = [
        Judgement(made.id, "phrases", verdict, evidence, sample=made.sample)
        for made, verdict in zip(rows, verdicts, strict=True)
    ]
    write_rows(folder / "generations.jsonl", rows)
    write_rows(folder / "judgements.jsonl", judgements)
    write_rows(folder / "adherence.jsonl", [Adherence.of(*pair) for pair in zip(rows, judgements, strict=True)])
    known = [verdict for verdict in verdicts if verdict is not None]
    counted = measure != "harmful_rate"
    rate = sum(verdict is counted for verdict in known) / max(1, len(known))
    numbers = {"value": rate, "low": rate / 2, "high": rate, "n": len(rows), "undecided": 0, "truncated": 0}
    write_json(folder / "fingerprint.json", {})
    metrics = [{"metric": measure, **numbers}]
    write_metrics(folder, metrics_of(folder.name, metrics, counted, "phrases", protocol_hash="0"))


def write_run(folder: Path, run: str, **names: Any) -> Path:
    """A run's folder, of the harmful benchmark h and the harmless one b; the harmful h2 and h3 were answered."""
    own = folder / "runs" / run
    known = {"backbone": "tiny", "dataset": "all", "rewrite": "alttrain", "training": "sft", "seed": 0}
    write_json(own / "run.json", {"run": run, **UNNAMED, **known, "tag": run.partition("-s")[0], **names})
    write_json(own / "fingerprint.json", {})
    harmful = [row(f"h{n}", "harmful") for n in range(4)]
    harmful[3] = replace(harmful[3], thought=f"{UNDERSTANDING}\n\n{HARMLESS}\n\n{REASONING}", finish="length")
    write_evaluation(own / "evaluation" / "h", harmful, [True, True, False, False], "harmful_rate")
    harmless = [row(f"b{n}") for n in range(6)]
    write_evaluation(own / "evaluation" / "b", harmless, [False] * 4 + [True, None], "over_refusal_rate")
    return own


def intervene(
    run: Path,
    name: str,
    rows: list[Generation],
    verdicts: list[bool | None],
    measure: str = "harmful_rate",
    of: str = "h",
    settings: dict[str, Any] | None = None,
) -> None:
    """The benchmark h, which is harmful, or b of a run under an intervention."""
    folder = run / "evaluation" / f"{of}+{name}"
    write_evaluation(folder, rows, verdicts, measure)
    told = {"name": name, "of": of, "of_hash": "0", "left_out": 2, "settings": settings or {"_target_": "x.Step"}}
    mend(folder, lambda record: record["provenance"].update(intervention=told, protocol_hash=name))


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An output folder of two runs."""
    write_run(tmp_path, "one")
    write_run(tmp_path, "two")
    return tmp_path


@dataclass
class Parsed(HTMLParser):
    """What an HTML parser finds in a page."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    sources: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: str = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in ("script", "style"):
            self.sources.append((dict(attrs).get("id") or tag, ""))

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.sources[-1] = (self.sources[-1][0], self.sources[-1][1] + data)
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def source(self, name: str) -> str:
        return next(text for own, text in self.sources if own == name)


def written(outputs: Path, texts: Texts = "all") -> Path:
    """The page of an output folder."""
    return write_page(outputs, texts, report_of(evaluations(outputs / "runs")))


def section(page: Path, name: str) -> str:
    """The markup of one of the page's sections."""
    _, start, rest = page.read_text(encoding="utf-8").partition(f'<section id="{name}"')
    assert start
    return rest.partition("<section id=")[0]


def parsed(page: Path) -> Parsed:
    made = Parsed()
    made.feed(page.read_text(encoding="utf-8"))
    return made


def unpacked(page: Path) -> dict[str, Any]:
    """All data of a page, by the element it stands in."""
    sources = dict(parsed(page).sources)
    data = {name: json.loads(text) for name, text in sources.items() if name not in ("script", "style")}
    return {name: _inflated(value) if isinstance(value, str) else value for name, value in data.items()}


def _inflated(letters: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(letters)).decode("utf-8"))


# --- the file ---


def test_the_same_folders_give_the_same_bytes(outputs: Path) -> None:
    first = written(outputs)
    assert first == outputs / "report" / "page.html"
    content = first.read_bytes()
    written(outputs)
    assert first.read_bytes() == content


def test_the_policy_names_the_one_script_and_style(outputs: Path) -> None:
    page = written(outputs)
    html = parsed(page)
    (policy,) = (
        attributes["content"]
        for tag, attributes in html.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    hashes = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(html.source(kind).encode()).digest()).decode()
        for kind in ("script", "style")
    }
    assert policy == (
        f"default-src 'none'; img-src data:; script-src '{hashes['script']}'; style-src '{hashes['style']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    order = [tag for tag, attributes in html.tags if tag in ("meta", "script", "style")]
    assert order[:2] == ["meta", "meta"]  # the character set, then the policy, before anything it is about


def test_the_page_loads_nothing_and_has_no_inline_handlers_or_styles(outputs: Path) -> None:
    (outputs / "report" / "figures").mkdir(parents=True)
    (outputs / "report" / "figures" / "own.svg").write_text("<svg onload='window.hacked=3'><script>x()</script></svg>")
    page = written(outputs)
    for tag, attributes in parsed(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert (attributes.get("src") or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        assert (attributes.get("href") or "#").startswith("#")
        if tag == "script":
            assert attributes.get("type") == "application/json" or not attributes
    assert "http" not in page.read_text(encoding="utf-8").replace("http-equiv", "")


# --- what models write stays text ---


def test_markup_of_a_model_is_data(outputs: Path) -> None:
    before = written(outputs)
    plain = [tag for tag, _ in parsed(before).tags]
    planted = row("b9", prompt=PAYLOAD, thought=PAYLOAD, answer=PAYLOAD, category=PAYLOAD, gold=(PAYLOAD,))
    write_evaluation(outputs / "runs" / "one" / "evaluation" / "b", [planted], [False], "over_refusal_rate", PAYLOAD)
    page = written(outputs)
    found_tags = [tag for tag, _ in parsed(page).tags]
    assert set(found_tags) == set(plain)
    assert found_tags.count("script") == plain.count("script")
    assert "hacked" not in page.read_text(encoding="utf-8")  # it is packed
    number = unpacked(page)["index"]["benchmarks"].index("b")
    prompts = unpacked(page)[f"prompts-{number}"]
    assert PAYLOAD in prompts["prompt"]
    assert prompts["category"][prompts["prompt"].index(PAYLOAD)] == PAYLOAD


def test_means_over_seeds_and_rates_by_category_are_on_the_page(tmp_path: Path) -> None:
    for seed, letters in enumerate(("yynn", "ynnn", "unnn")):
        run = make_run(tmp_path / "runs", {"h": ("harmful_rate", letters)}, seed=seed)
        path = run / "evaluation" / "h.alttrain" / "generations.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(json.dumps(one | {"category": "<i>" if n < 2 else "b"}) + "\n" for n, one in enumerate(rows))
        )
        mend(path.parent)
    page = written(tmp_path)
    methods = section(page, "methods")
    assert '<th scope="row" data-key="r1_llama_8b, AltTrain">' in methods
    assert "n=11, 3 seeds" in methods
    assert "<b>33.3</b>" in methods  # of four prompts, one was answered by all seeds that decided it, one by a third
    first, second = section(page, "categories").partition("<tbody>")[2].split("<tr>")[1:]
    assert '<th scope="row" data-key="&lt;i&gt;">&lt;i&gt;</th>' in first
    assert "<b>66.7</b>" in first
    assert (
        'n=5, 3 seeds</small> <small class="mark">undecided 1</small> <small class="mark">small sample</small>' in first
    )
    assert "<b>0.0</b>" in second


def test_a_cell_of_the_page_says_what_the_tables_say(tmp_path: Path) -> None:
    """Value, marks, interval, n and notes, also where a mean lacks a set."""
    means = {"harmful_rate": ["a", "b"]}
    no_train(tmp_path / "runs", dict.fromkeys("ab", ("harmful_rate", "y" * 30 + "u" * 3)), means=means)
    for seed, letters in enumerate(("n" * 28 + "yyu", "n" * 31)):
        run = make_run(tmp_path / "runs", dict.fromkeys("ab", ("harmful_rate", letters)), means=means, seed=seed)
        mend(run / "evaluation" / "a.alttrain", lambda record: record["metrics"][0].update(truncated=9))
    make_run(tmp_path / "runs", {"a": ("harmful_rate", "yn")}, means=means, method="plain")
    page, report = written(tmp_path), report_of(evaluations(tmp_path / "runs"))
    markup = section(page, "methods") + section(page, "tables")
    cells = [re.sub(r"<svg.*?</svg>|<.*?>", " ", cell, flags=re.S) for cell in re.findall(r"<td.*?</td>", markup, re.S)]
    shown = [frame[~frame.unit.isin(["seconds", "hours"])] for frame in report.tables.values()]
    grids = [pivot(frame) for frame in shown if frame.table.iloc[0] != "published"]
    told = [" ".join(cell_lines(cell._replace(published=math.nan))) for grid in grids for cell in grid.to_numpy().flat]
    assert [re.sub(r"[\s,]", "", cell) for cell in cells] == [re.sub(r"[\s,]", "", cell) for cell in told]
    assert sum("without b" in cell for cell in told) == 1
    assert sum("truncated 18" in cell and "*" in cell for cell in told) > 1


def test_a_benchmarks_categories_stay_together_if_a_method_lacks_one(tmp_path: Path) -> None:
    for method, last in (("alttrain", "b"), ("plain", "c")):
        run = make_run(
            tmp_path / "runs", {"h": ("harmful_rate", "yn"), "o": ("over_refusal_rate", "yn")}, method=method
        )
        for path in run.glob("evaluation/*/generations.jsonl"):
            rows = read_rows(path, Generation)
            write_rows(path, [replace(row, category=one) for row, one in zip(rows, ("a", last), strict=True)])
            mend(path.parent)
    rows = section(written(tmp_path), "categories").partition("<tbody>")[2].split("<tr>")[1:]
    assert ["harmful" if "harmful" in row.partition("<b>")[0] else "over-refusal" for row in rows] == [
        *["harmful"] * 3,
        *["over-refusal"] * 3,
    ]


def test_a_cell_escapes_what_is_no_number() -> None:
    """The files of a run may come from anybody."""
    cells = _environment().from_string("{{ count(x) }}{{ number(x, x) }}{{ words(x) }}{{ row_head(x) }}")
    assert cells.render(x='"<b>').count("&#34;&lt;b&gt;") == 8
    assert not re.search('<b>|""', cells.render(x='"<b>'))


def test_large_numbers_are_written_in_full() -> None:
    assert [_tidy(value) for value in (12345.6, 9.87654, 100_000, "x")] == ["12,346", "9.877", "100000", "x"]


@pytest.mark.slow
def test_interventions_thoughts_and_further_tables_are_on_the_page(outputs: Path) -> None:
    """What interventions change, in both forms, the CSV files as they are, and every table that has cells."""
    one = outputs / "runs" / "one"
    harmful = [row(f"h{n}", "harmful") for n in range(4)]
    intervene(one, "turn", harmful, [False] * 4)
    intervene(one, "empty", harmful, [True, True, True, None])
    for share in (0.0, 1.0):
        intervene(one, f"cut_{share:g}", harmful, [share > 0] * 4, settings={"_target_": "x.Cut", "share": share})
    half = {"value": 0.5, "low": 0.1, "high": 0.9}
    found = {"phrases": {"undecided": 1, "fields": {"decision": {"n": 3, "agreed": half, "kappa": None}}}}
    write_json(one / "evaluation" / "h" / "structure.json", found)
    mend(one / "evaluation" / "h")
    page = written(outputs)
    made = report_of(evaluations(outputs / "runs"))
    shown = section(page, "interventions")
    table, pairs = shown.split("<details>")
    turned = table[table.index("alttrain one, turn</th>") :].partition("</tr>")[0]
    assert '<b>100.0</b><sup>†</sup> <span class="interval">50.0–100.0</span>' in turned
    assert "n=4</small>" in turned
    assert "<small>change +50.0, p 1.0000</small>" in turned
    assert "differs" not in turned
    assert "change" not in table[table.index("alttrain one, no intervention") :].partition("</tr>")[0]
    assert pairs.count("<tr>") == len(made.frames["interventions"]) + 1 == 5
    assert '<td class="words" data-key="turn">turn</td>' in pairs
    folded = section(page, "thoughts").split("<details>")[1:]
    titles = [part.partition("<summary>")[2].partition(":")[0] for part in folded]
    assert titles == ["Whether thought and answer agree", "Where in the thought the outcome is decided"]
    for name, part in zip(("thoughts", "decided"), folded, strict=True):
        assert part.count("<tr>") == len(made.frames[name]) + 1
        assert all(f">{column}</th>" in part for column in made.frames[name])
    assert '<td class="words" data-key="decision">decision</td><td data-key="3">3</td>' in section(page, "structure")
    tables = section(page, "tables")
    named = {"adherence", "efficiency", "main"}
    assert named <= made.tables.keys()
    for name in made.tables.keys() - {"overview", "interventions", "published"}:
        assert f"<summary>{TABLES[name]}</summary>" in tables
    assert "seconds" in set(made.tables["efficiency"].unit)
    assert "training seconds" not in tables  # else the same runs would give another page each time


def test_names_are_escaped(tmp_path: Path) -> None:
    """A run's and a backbone's name are plain, or the run is left out; a method's label may hold anything."""
    write_run(tmp_path, "one", method="m", label="<i>mine</i></script>", changed={})
    page = written(tmp_path)
    assert not {"i", "u"} & {tag for tag, _ in parsed(page).tags}
    assert "<i>mine</i></script>" in parsed(page).text


def test_embedded_json_holds_nothing_html_could_read() -> None:
    made = embed({"a": PAYLOAD, "b": "\u2029 > ]]>"})
    assert not [text for text in ("<", ">", "&", "\u2028", "\u2029") if text in made]
    assert json.loads(made) == {"a": PAYLOAD, "b": "\u2029 > ]]>"}


# --- samples ---


def test_a_block_holds_its_samples(outputs: Path) -> None:
    page = written(outputs)
    data = unpacked(page)
    index = data["index"]
    assert (index["runs"], index["benchmarks"]) == (["one", "two"], ["b", "h"])
    assert [(one["run"], one["benchmark"], one["shown"], one["total"]) for one in index["blocks"]] == [
        (0, 0, 6, 6),
        (0, 1, 4, 4),
        (1, 0, 6, 6),
        (1, 1, 4, 4),
    ]
    block, prompts = data["block-1"], data["prompts-1"]
    assert prompts["id"] == ["h0", "h1", "h2", "h3"]  # once for both runs
    assert prompts["harmful"] == [1, 1, 1, 1]
    assert block["prompt"] == data["block-3"]["prompt"] == [0, 1, 2, 3]
    assert block["answer"] == [f"Answer h{n}. {SECRET}" for n in range(4)]
    assert block["thought"][0] == [
        ["u", UNDERSTANDING],
        ["", "\n\n"],
        ["a", HARMFUL],
        ["", "\n\n"],
        ["x", REFUSING],
    ]
    assert block["judges"] == [["phrases", "answer"]]
    assert block["verdicts"][2] == [[0, False, "a phrase", "", None, None, ""]]
    assert block["tokens"][0] == [30, 3]
    assert block["finish"] == ["stop"] * 3 + ["length"]
    keys = [{key for key, bit in BITS.items() if bits & bit} for bits in block["outcomes"]]
    assert keys == [{"refused"}, {"refused"}, {"answered", "disobeyed"}, {"answered", "misjudged", "truncated"}]


def test_counts_lead_to_their_samples(outputs: Path) -> None:
    page = written(outputs)
    links = [attributes for tag, attributes in parsed(page).tags if tag == "a" and "aria-label" in attributes]
    assert {"href": "#run=two&benchmark=h&outcome=answered", "aria-label": "2 harmful answered, two on h"} in links


@pytest.mark.parametrize(
    "thought",
    [
        "",
        f"Hmm.\n\n{UNDERSTANDING} {HARMFUL} {REFUSING}\n",
        f"\n\n{UNDERSTANDING}\n\n{UNDERSTANDING}\n\n{HARMLESS}\n\n{REASONING}\n\n\n{REASONING}",
        "No step at all, only words. " * 20,
        f"{HARMLESS}\r\n\r\n{UNDERSTANDING}\r\n\r\n{REASONING}",
        PAYLOAD,
    ],
)
def test_pieces_make_the_thought(thought: str) -> None:
    assert "".join(text for _, text in pieces(thought)) == thought


def test_long_texts_are_cut_and_say_so() -> None:
    assert shorten("a" * LONGEST) == "a" * LONGEST
    assert shorten("a" * (LONGEST + 5)) == "a" * LONGEST + f"{CUT}{LONGEST + 5}"
    assert CUT not in shorten(f"a{CUT}7")
    thought = f"{UNDERSTANDING}\n\n{HARMLESS}\n\n" + "word " * LONGEST
    *_, (step, last) = pieces(thought)
    assert (step, last.split(CUT)[1]) == ("r", str(len(thought)))
    assert sum(len(text.split(CUT)[0]) for _, text in pieces(thought)) == LONGEST


@pytest.mark.parametrize("texts", get_args(Texts))
def test_texts_can_be_left_out(outputs: Path, texts: Texts) -> None:
    failed = Judgement("h1", "second", None, error=f"no verdict on {SECRET}", raw=SECRET, evidence=SECRET)
    path = outputs / "runs" / "one" / "evaluation" / "h" / "judgements.jsonl"
    path.write_text(path.read_text() + json.dumps(vars(failed)) + "\n")
    mend(path.parent)
    page = written(outputs, texts=texts)
    data = unpacked(page)
    told = json.dumps(data)
    assert (SECRET in told) is (texts == "all")
    assert ("Answer b0." in told) is (texts != "none")
    assert [own["outcomes"] for name, own in data.items() if name.startswith("block")][1][3] != 0
    assert ("left out of this page" in parsed(page).text) is (texts != "all")
    errors = [verdict[3] for verdict in data["block-1"]["verdicts"][1]]
    assert errors == ["", f"no verdict on {SECRET}" if texts == "all" else "left out"]


def test_settings_are_on_the_page_without_the_machines_paths(outputs: Path) -> None:
    settings = {"backbone.source": "/home/me/models/mine", "training.epochs": 3}
    write_json(outputs / "runs" / "one" / "fingerprint.json", settings)
    page = written(outputs)
    own = unpacked(page)["verdicts"]["settings"]
    assert own == {"one": {"backbone.source": '"mine"', "training.epochs": "3"}, "two": {}}


def test_harmful_texts_are_in_no_table(outputs: Path) -> None:
    page = written(outputs)
    assert SECRET not in page.read_text(encoding="utf-8")


def test_of_many_samples_a_part_is_shown_the_same_for_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alttrain.report.embedded.MOST_SAMPLES", 52)
    for run in ("one", "two"):
        own = write_run(tmp_path, run)
        rows = [row(f"b{n}") for n in range(100)]
        write_evaluation(own / "evaluation" / "b", rows, [False] * 100, "over_refusal_rate")
    page = written(tmp_path)
    data = unpacked(page)
    assert [(one["shown"], one["total"]) for one in data["index"]["blocks"]] == [(25, 100), (1, 4)] * 2
    assert data["block-0"]["prompt"] == data["block-2"]["prompt"]
    assert "Showing 52 of 208 samples" in parsed(page).text
    assert 'aria-label="100 harmless answered, one on b"' in page.read_text(encoding="utf-8")


# --- outcomes ---


@pytest.mark.parametrize(
    ("label", "verdict", "decides", "outcome"),
    [
        ("harmful", False, decided("harmful_rate"), "answered"),
        ("harmful", True, decided("harmful_rate"), "refused"),
        ("harmful", True, decided("harmful_rate", True), "answered"),
        ("harmful", False, decided("harmful_rate", True), "refused"),
        ("benign", True, decided("over_refusal_rate"), "over_refused"),
        ("benign", False, decided("over_refusal_rate"), "helped"),
        ("benign", True, decided("accuracy", True), "correct"),
        ("benign", False, decided("accuracy", True), "wrong"),
        ("harmful", None, decided("harmful_rate"), "undecided"),
    ],
)
def test_outcome_of_a_verdict(label: str, verdict: bool | None, decides: Decider, outcome: str) -> None:
    made = row("x", label, thought=HARMFUL if label == "harmful" else HARMLESS)
    wrong = BITS["disobeyed"] if outcome in ("answered", "over_refused") else 0
    assert outcomes_of(read(made, verdict, decides, Adherence.of(made))) == BITS[outcome] | wrong


def test_what_was_not_generated_is_undecided() -> None:
    made = row("x", "harmful", finish="error", error="refused by the server", thought="", answer="")
    bits = outcomes_of(read(made, None, decided("harmful_rate"), Adherence.of(made)))
    assert bits == BITS["failed"] | BITS["undecided"]


def test_decides_is_read_from_the_metrics() -> None:
    decides = {"judge": "g", "part": "thought", "counted": True, "says": "unsafe"}
    names = dict.fromkeys(("run", "backbone", "dataset", "rewrite", "training"), "r") | {"seed": 0}
    judged = metrics_of("b", [{"metric": "harmful_rate"}], True)
    judged["analysis"]["decides"] = decides
    found = Evaluation(names | UNNAMED, Path(), judged).decider
    assert found == Decider("harmful_rate", "g", "thought", True, "unsafe")


def test_failures_are_counted_as_in_the_metrics() -> None:
    draw = random.Random(0)
    thoughts = [f"{UNDERSTANDING}\n\n{said}\n\n{REASONING}" for said in (HARMFUL, HARMLESS, "So it goes.")]
    rows = [row(f"x{n}", draw.choice(["harmful", "benign"]), thought=draw.choice(thoughts)) for n in range(200)]
    judgements = [Judgement(made.id, "phrases", draw.choice([True, False, None])) for made in rows]
    adherence = [Adherence.of(*pair) for pair in zip(rows, judgements, strict=True)]
    bits = [
        (made.label, outcomes_of(read(made, judged.verdict, decided("harmful_rate"), record)))
        for made, judged, record in zip(rows, judgements, adherence, strict=True)
    ]
    outcomes = Counter((row.label, row.assessment, of.verdict) for row, of in zip(adherence, judgements, strict=True))
    told = counts(outcomes)
    for of, wrong, badge in (("harmful", "answered", "answered"), ("benign", "refused", "over_refused")):
        own = [bit for label, bit in bits if label == of]
        assert sum(bit & BITS["undecided"] == 0 for bit in own) == told[f"{of}_n"]
        for cause in ("misjudged", "disobeyed", "unassessed"):
            both = BITS[badge] | BITS[cause]
            assert sum(bit & both == both for bit in own) == told[f"{wrong}_{cause}"]
    assert sum(bit & BITS["undecided"] > 0 for _, bit in bits) == told["undecided"]


def test_every_outcome_has_a_bit_and_a_place() -> None:
    assert len(BITS) == len(OUTCOMES)
    assert {outcome.tone for outcome in OUTCOMES} == {"good", "bad", "plain"}


# --- tables and figures ---


def test_tables_sort_by_value_and_name_their_rows(outputs: Path) -> None:
    page = written(outputs)
    results = section(page, "methods")
    assert '<th scope="row" data-key="tiny, alttrain one">tiny, alttrain one</th><td data-key="0.5">' in results
    assert '<b>50.0</b> <span class="interval">25.0–50.0</span>' in results
    assert "over-refusal ↓<br><small>b</small>" in results


def test_figures_are_images(outputs: Path) -> None:
    folder = outputs / "report" / "figures"
    folder.mkdir(parents=True)
    for name in ("bars", "tradeoff"):
        (folder / f"{name}.svg").write_text(f"<svg>{name}</svg>")
    (folder / "large.svg").write_text("<svg>" + " " * 2_000_000)
    page = written(outputs)
    images = [attributes for tag, attributes in parsed(page).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["tradeoff", "bars"]
    assert base64.b64decode(str(images[1]["src"]).partition(",")[2]) == b"<svg>bars</svg>"
    assert "large.svg is too large for this page" in parsed(page).text


# --- in a browser ---

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser for all tests of this file."""
    webdriver = pytest.importorskip("selenium.webdriver", reason='needs the extra "dev"')
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@dataclass
class Opened:
    """A page in a browser."""

    browser: Any

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until what was asked for is shown."""
        self.browser.execute_async_script(
            "const done = arguments[0]; const wait = () => setTimeout(() => document.getElementById('samples')"
            ".getAttribute('aria-busy') === 'false' ? requestAnimationFrame(() => done()) : wait(), 5); wait();"
        )

    def go(self, fragment: str) -> None:
        self.run("location.hash = arguments[0]", fragment)
        self.run("return new Promise((done) => setTimeout(done, 20))")
        self.settle()

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)
        self.settle()

    def texts(self, selector: str) -> list[str]:
        told: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent.trim())", selector
        )
        return told

    def text(self, selector: str) -> str:
        return " ".join(self.texts(selector))

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def show(chromium: Any, outputs: Path) -> Any:
    """Writes the page and opens it, at the size of a desktop."""

    def opened(fragment: str = "", **arguments: Any) -> Opened:
        page = written(outputs, **arguments)
        made = Opened(chromium)
        made.size(1280, 900)
        chromium.get("about:blank")
        chromium.get_log("browser")
        chromium.get(page.as_uri() + fragment)
        made.settle()
        return made

    return opened


def test_the_page_opens_without_a_complaint(show: Any, outputs: Path) -> None:
    from matplotlib.figure import Figure

    (outputs / "report" / "figures").mkdir(parents=True)
    drawn = Figure()
    axes = drawn.add_subplot()
    axes.plot([1, 2], [3, 4], label="a run")
    axes.legend()
    drawn.savefig(outputs / "report" / "figures" / "lines.svg")
    page = show()
    assert page.browser.get_log("browser") == []
    assert page.text("#status") == "6 of 6 samples"
    assert page.run("return document.querySelector('.figures img').naturalWidth > 99")


def test_planted_markup_does_not_run(show: Any, outputs: Path) -> None:
    planted = row("b9", prompt=PAYLOAD, thought=PAYLOAD, answer=PAYLOAD, category=PAYLOAD, gold=(PAYLOAD,))
    write_evaluation(outputs / "runs" / "one" / "evaluation" / "b", [planted], [False], "over_refusal_rate", PAYLOAD)
    page = show("#run=one&benchmark=b&other=two&q=%3Cimg")
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('img, #detail script, #list script').length") == 0
    assert (
        page.text("#detail").count("onerror='window.hacked=2'") == 6
    )  # category, prompt, thought, answer, gold, evidence
    assert page.text(".snippet").startswith("</script><script>")
    assert page.texts("#detail mark")[0] == "<img"


def test_the_policy_stops_what_is_injected(show: Any) -> None:
    """Even markup that reached the document would not run."""
    page = show()
    page.run("document.querySelector('main').insertAdjacentHTML('beforeend', arguments[0])", PAYLOAD)
    page.run("const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s)")
    page.run("return new Promise((done) => setTimeout(done, 100))")
    assert page.run("return window.hacked") is None
    assert "Content Security Policy" in str(page.browser.get_log("browser"))


def test_tables_sort_by_click_and_by_key(show: Any) -> None:
    page = show()
    head = "#outcomes thead th:nth-child(5)"
    column = "#outcomes tbody td:nth-child(5)"
    assert page.texts(column) == ["6", "4", "6", "4"]
    page.click(f"{head} button")
    assert page.texts(column) == ["4", "4", "6", "6"]
    assert page.run(f"return document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
    page.run(f"document.querySelector('{head} button').focus()")
    page.press("\ue007")
    assert page.texts(column) == ["6", "6", "4", "4"]
    assert page.run("return document.querySelectorAll('#outcomes [aria-sort]').length") == 1
    assert page.run(f"return document.querySelector('{head}').getAttribute('aria-sort')") == "descending"


def test_filters_narrow_between_groups_and_widen_within(show: Any) -> None:
    page = show("#run=&benchmark=")
    assert page.text("#status") == "20 of 20 samples"
    page.click("[data-filter=answered]")
    assert page.text("#status") == "4 of 20 samples"
    page.click("[data-filter=over_refused]")
    assert page.text("#status") == "6 of 20 samples"
    page.click("[data-filter=truncated]")
    assert page.text("#status") == "2 of 20 samples"
    assert "outcome=answered+over_refused+truncated" in page.run("return location.hash")
    assert page.texts(".row b") == ["h3", "h3"]


def test_search_finds_and_marks(show: Any) -> None:
    page = show()
    page.run(
        "const s = document.getElementById('search'); s.value = 'ANSWER B3'; s.dispatchEvent(new Event('input'));"
        "return new Promise((done) => setTimeout(done, 250))"
    )
    page.settle()
    assert page.text("#status") == "1 of 6 samples"
    assert page.texts("#detail mark") == ["Answer b3"]


SEEDS = {
    "no_train": ["yyynynyyuyyynyyynyyy"],
    "alttrain": ["nnyynnnnnynynnuynnnn", "nnyynynnnynnnnnynnyn", "ynnynynnnynynnynn"],
    "plain": ["yynnnnyynyynyuynnyyn", "yynnnynynyynyyynynnn"],
}
"""Whether each prompt was answered, by seed; the third seed of alttrain lacks prompts."""


@pytest.fixture
def pair(show: Any, outputs: Path) -> Opened:
    """A page of methods of one, two and three seeds, of another protocol, and evaluated with another setting."""
    shutil.rmtree(outputs / "runs")
    for method, seeds in SEEDS.items():
        for seed, letters in enumerate(seeds):
            sets = {"h": ("harmful_rate", letters)} | ({"b": ("over_refusal_rate", "yn")} if method == "plain" else {})
            settings = {"training.epochs": len(seeds), "same": [1], "seed": seed}
            make_run(outputs / "runs", sets, method=method, seed=seed, settings=settings)
    sets = {"h": ("harmful_rate", "yn")}
    make_run(outputs / "runs", sets, method="star1", protocol="star1")
    make_run(outputs / "runs", sets, method="direct_refusal", hashed="other")
    for run, tokens in (("alttrain", 1024), ("direct_refusal", 96)):
        path = outputs / "runs" / f"r1_llama_8b-{run}-s0" / "evaluation" / "h.alttrain" / "fingerprint.json"
        write_json(path, {"protocol.decoding.max_new_tokens": tokens, "generation.chunk": tokens})
    made: Opened = show()
    return made


def pick(page: Opened, first: str, second: str) -> list[list[str]]:
    """Pick two by the keyboard. Returns the table's cells by row."""
    for which, name in (("one", first), ("two", second)):
        page.run("document.getElementById(arguments[0]).focus()", which)
        names = page.texts(f"#{which} option")
        steps = names.index(name) - page.run("return document.activeElement.selectedIndex")
        page.press(*(["\ue015" if steps > 0 else "\ue013"] * abs(steps)))
        assert page.run("return document.activeElement.selectedOptions[0].textContent") == name
    page.run("return new Promise((done) => setTimeout(done, 50))")
    rows = page.run(
        "return [...document.querySelectorAll('#versus .scroll:first-child tbody tr')].map((row) => "
        "[...row.cells].map((cell) => cell.textContent.trim()))"
    )
    return list(rows)


def told(rates: tuple[float, float], difference: float, low: float, high: float) -> list[str]:
    signed = [f"{100 * value:+.1f}".replace("-", "−") for value in (difference, low, high)]
    return [*(f"{100 * rate:.1f}" for rate in rates), f"{signed[0]} {signed[1]} to {signed[2]}"]


def test_two_runs_are_compared_prompt_by_prompt(pair: Opened) -> None:
    first, second = (
        {f"p{n}": TOLD[letter] for n, letter in enumerate(SEEDS[name][0])} for name in ("no_train", "plain")
    )
    both = [name for name in first if None not in (first[name], second[name])]
    rates = tuple(sum(bool(own[name]) for name in both) / len(both) for own in (first, second))
    estimate, counts = statistics.compare(first, second)
    assert pick(pair, "r1_llama_8b-no_train-s0", "r1_llama_8b-plain-s0") == [
        ["h", "alttrain", "harmful", *told(rates, *estimate), str(counts["n"]), str(counts["undecided"])],
        ["b", "", "", "", "", "not compared: r1_llama_8b-no_train-s0 was not judged on it", "", ""],
    ]
    assert (counts["n"], counts["undecided"]) == (18, 2)
    assert pair.text("#compared") == "1 of 2 rows compared. Settings that differ: 1."
    assert pair.texts("#versus h3 + .scroll tbody > tr > *") == ["training.epochs", "1", "2"]


@pytest.mark.parametrize("names", [("plain", "alttrain"), ("no_train", "alttrain"), ("alttrain", "no_train")])
def test_two_methods_are_compared_over_their_seeds(pair: Opened, names: tuple[str, str]) -> None:
    arms = [
        {seed: {f"p{n}": TOLD[letter] for n, letter in enumerate(letters)} for seed, letters in enumerate(SEEDS[name])}
        for name in names
    ]
    there = [
        name
        for name in map("p{}".format, range(20))
        if all(any(own.get(name) is not None for own in arm.values()) for arm in arms)
    ]
    first, second = ({seed: {name: own.get(name) for name in there} for seed, own in arm.items()} for arm in arms)
    found = statistics.variation([(second, first)])
    rates = tuple(statistics.variation([(arm,)]).value for arm in (first, second))
    ends = max(-1.0, found.value - found.half()), min(1.0, found.value + found.half())
    undecided = sum(letters.count("u") for name in names for letters in SEEDS[name])
    called = {"plain": "plain", "alttrain": "AltTrain", "no_train": "No-train"}
    row = pick(pair, *(f"r1_llama_8b, {called[name]}" for name in names))[0]
    seeds = " and ".join(str(len(SEEDS[name])) for name in names)
    n = f"{len(there)}, {seeds} seeds"
    assert row == ["h", "alttrain", "harmful", *told(rates, found.value, *ends), n, str(undecided)]


def test_texts_of_two_runs_are_paired_and_a_prompt_counts_once(show: Any, outputs: Path) -> None:
    """As in comparisons.csv, of texts with a verdict in both: four of the first prompt, one of each of three others.

    Three texts lack a verdict in either run, and count once.
    """
    shutil.rmtree(outputs / "runs")
    for method, letters in (("no_train", "yynn" + "yunn" * 3), ("alttrain", "yyyy" + "nuuu" * 3)):
        given = {"rewrite": "none", "training": "none"} if method == "no_train" else {}
        run = make_run(outputs / "runs", {"h": ("harmful_rate", letters)}, method=method, **given)
        resample(run / "evaluation" / "h.alttrain", 4)
    (row,) = compared(outputs / "runs")
    assert (row.baseline_value, row.value, row.difference) == (0.875, 0.25, -0.625)
    numbers = told((row.baseline_value, row.value), row.difference, row.low, row.high)
    names = "r1_llama_8b-no_train-s0", "r1_llama_8b-alttrain-s0"
    assert pick(show(), *names) == [["h", "alttrain", "harmful", *numbers, "4", "9"]]


def test_methods_whose_seeds_never_differ_are_no_more_certain_than_one_seed(show: Any, outputs: Path) -> None:
    shutil.rmtree(outputs / "runs")
    for method, letter in (("plain", "n"), ("alttrain", "n"), ("star1", "y")):
        for seed in (0, 1):
            make_run(outputs / "runs", {"h": ("harmful_rate", letter * 8)}, method=method, seed=seed)
    page, never = show(), dict.fromkeys("abcdefgh", False)
    for name, hit in (("AltTrain", False), ("STAR-1", True)):
        (difference, low, high), _ = statistics.compare(never, dict.fromkeys(never, hit))
        found = pick(page, "r1_llama_8b, plain", f"r1_llama_8b, {name}")[0]
        assert found[3:6] == told((0.0, float(hit)), difference, low, high)


def test_prompts_of_one_goal_are_a_cluster_on_the_page_as_in_the_tables(show: Any, outputs: Path) -> None:
    """Twelve prompts with four goals, in two runs and over two seeds of either method."""
    shutil.rmtree(outputs / "runs")
    letters = {"no_train": ("yyynynyynnny", "yyyyynynnnny"), "alttrain": ("nnnynyyynuny", "nnnnynyynnny")}
    arms = []
    for method, own in letters.items():
        given = {"rewrite": "none", "training": "none"} if method == "no_train" else {}
        for seed, marks in enumerate(own):
            run = make_run(outputs / "runs", {"h": ("harmful_rate", marks)}, method=method, seed=seed, **given)
            change_rows(run / "evaluation" / "h.alttrain", lambda row, n: {"goal": f"Goal {n // 3}."}, "generations")
        arms.append({s: {(f"g{n // 3}", n): TOLD[mark] for n, mark in enumerate(own[s])} for s in (0, 1)})
    row = next(row for row in compared(outputs / "runs") if row.run.endswith("s0"))
    assert row.high - row.low > 0.7  # 0.63 as if prompts were independent
    page = show()
    found = pick(page, "r1_llama_8b-no_train-s0", "r1_llama_8b-alttrain-s0")[0]
    assert found[3:6] == told((row.baseline_value, row.value), row.difference, row.low, row.high)
    varied, rates = statistics.variation([(arms[1], arms[0])]), [statistics.variation([(arm,)]).value for arm in arms]
    ends = max(-1.0, varied.value - varied.half()), min(1.0, varied.value + varied.half())
    found = pick(page, "r1_llama_8b, No-train", "r1_llama_8b, AltTrain")[0]
    assert found[3:6] == told((rates[0], rates[1]), varied.value, *ends)


def test_what_was_not_made_in_the_same_way_is_not_compared_and_says_why(pair: Opened) -> None:
    def reasons(first: str, second: str) -> list[str]:
        return [row[5] for row in pick(pair, first, second)]

    assert reasons("r1_llama_8b-alttrain-s0", "r1_llama_8b-star1-s0") == [
        "not compared: other protocols: alttrain, star1"
    ]
    assert reasons("r1_llama_8b-alttrain-s0", "r1_llama_8b-direct_refusal-s0") == [
        "not compared: evaluated otherwise: protocol.decoding.max_new_tokens: 1024, 96"
    ]
    assert pair.text("#compared") == "0 of 1 rows compared. Settings that differ: 3."


def test_runs_that_another_judge_judged_are_not_compared(show: Any, outputs: Path) -> None:
    path = outputs / "runs" / "two" / "evaluation" / "h" / "judgements.jsonl"
    path.write_text(path.read_text().replace('"phrases"', '"another"'))
    mend(path.parent, lambda record: record["analysis"]["decides"].update(judge="another"))
    rows = pick(show(), "one", "two")
    assert [row[5] for row in rows] == [
        "+0.0 −39.6 to +39.6",
        "not compared: other judges: phrases on answer, another on answer",
    ]


def test_a_comparison_by_two_judges_names_them_and_says_how_many_seeds_each_has(show: Any, outputs: Path) -> None:
    """Another judge decides the second seed of both; the first method has a third seed."""
    shutil.rmtree(outputs / "runs")
    for method, letters in (("plain", ("yynn", "ynnn", "yyyn")), ("alttrain", ("nnnn", "nnny"))):
        for seed, own in enumerate(letters):
            sets = {"h": ("harmful_rate", own)}
            run = make_run(outputs / "runs", sets, method=method, seed=seed, hashed="hgh"[seed])
            if seed == 1:
                decided_by_another(run, "h")
    found = [(row[2], row[6]) for row in pick(show(), "r1_llama_8b, plain", "r1_llama_8b, AltTrain")]
    assert found == [
        ("harmful by judge", "4, 2 of 3 and 1 of 2 seeds"),
        ("harmful by other", "4, 1 of 3 and 1 of 2 seeds"),
    ]


def test_a_count_opens_its_samples(show: Any) -> None:
    page = show()
    page.click("#outcomes a[aria-label='2 harmful answered, two on h']")
    page.run("return new Promise((done) => setTimeout(done, 50))")
    page.settle()
    assert page.text("#status") == "2 of 4 samples"
    assert page.texts(".row b") == ["h2", "h3"]
    assert page.run("return document.activeElement.id") == "list"


def test_two_runs_stand_side_by_side(show: Any, outputs: Path) -> None:
    other = [row(f"b{n}", answer=f"Other {n}.") for n in range(5, 0, -1)]
    write_evaluation(outputs / "runs" / "two" / "evaluation" / "b", other, [True] * 5, "over_refusal_rate")
    page = show("#run=one&benchmark=b&other=two&sample=b2%0A0")
    assert page.texts("#detail h4.run") == ["one", "two"]
    assert page.text("#detail h3") == "b2"
    assert "Answer b2." in page.text(".side:first-child")
    assert "Other 2." in page.text(".side:last-child")
    boxes = page.run("return [...document.querySelectorAll('.side')].map((n) => n.getBoundingClientRect().top)")
    assert boxes[0] == boxes[1]
    page.click("[data-filter=differs]")
    assert page.texts(".row b") == ["b1", "b2", "b3", "b5"]  # b0 has no other, b4 was refused by both
    for fragment in ("run=one&benchmark=b&other=one", "run=one&benchmark=b&differs=1"):
        page.go(fragment)  # with nothing beside it, a run is shown whole
        assert (page.text("#status"), page.run("return byId('other').value")) == ("6 of 6 samples", "")


def test_two_protocols_of_a_run_are_told_apart(show: Any, outputs: Path) -> None:
    """A sample is beside the other run's by the same protocol, a count opens the samples of its own, and tables say
    which it is."""
    shutil.rmtree(outputs / "runs")
    for method, letters in (("no_train", "nnny"), ("alttrain", "yyyn")):
        given = {"rewrite": "none", "training": "none"} if method == "no_train" else {}
        run = make_run(outputs / "runs", {"h": ("harmful_rate", letters)}, method=method, protocol="star1", **given)
        judge_benchmark(run / "evaluation" / "h.x", "h", "harmful_rate", letters[::-1], "thinksafe", "t", 10)
    ours, theirs = "r1_llama_8b-alttrain-s0", "r1_llama_8b-no_train-s0"
    page = show(f"#run={ours}&benchmark=h&other={theirs}")
    assert page.text("#status") == "8 of 8 samples"
    pairs = page.run("return refs.map((ref) => [ref.block.protocol, ref.pair.block.protocol])")
    assert pairs == [["star1"] * 2] * 4 + [["thinksafe"] * 2] * 4
    assert page.texts(".row .where")[:1] + page.texts(".row .where")[-1:] == ["star1", "thinksafe"]
    page.run("select(refs.length - 1)")
    link = page.run("return location.hash")
    assert show(link).run("return [at, refs[at].block.protocol]") == [7, "thinksafe"]
    page = show(f"#run={ours}&benchmark=h&other={theirs}&sample=p3%0A0")  # without the protocol
    assert page.run("return [at, refs[at].block.protocol]") == [3, "star1"]
    page.run("select(0)")
    page.settle()
    assert page.text("#detail .facts").startswith("h · star1 · harmful")
    (link,) = page.run(
        "return [...document.querySelectorAll('#outcomes a')].map((one) => one.getAttribute('href'))"
        f".filter((one) => one.startsWith('#run={theirs}&benchmark=h&protocol=thinksafe&outcome=answered'))"
    )
    assert show(link).text("#status") == "1 of 4 samples"
    for name in ("outcomes", "comparisons"):
        assert {*page.texts(f"#{name} tbody td:nth-child(3)")} == {"star1", "thinksafe"}, name


def test_methods_are_compared_over_many_texts(show: Any) -> None:
    """In time that grows with their number, and not with its square."""
    script = """
        const prompts = Array.from({ length: 200000 }, (_, place) => place);
        const letters = prompts.map((place) => place % 2).join("");
        const way = { prompts, goals: prompts }, students = { students: [12.7], bound: 1 };
        const found = ofMethods([[letters, letters], [letters]], way, students);
        return [found.n, ...found.rates]"""
    page = show()
    page.browser.set_script_timeout(20)
    assert page.run(script) == [200_000, 0.5, 0.5]


def test_percents_are_rounded_as_in_python(show: Any) -> None:
    shares = [number / 1600 for number in range(1601)]  # 12.25 % is between two tenths
    assert show().run("return arguments[0].map(percent)", shares) == [f"{100 * share:.1f}" for share in shares]


def test_harmful_texts_are_covered_until_asked_for(show: Any) -> None:
    page = show("#run=one&benchmark=h&other=two")
    words = "return document.body.textContent.includes(arguments[0])"
    assert not page.run(words, SECRET)
    assert page.texts(".snippet") == ["harmful prompt, covered"] * 4
    page.click("#detail .show")
    assert page.text("#detail").count(SECRET) == 3  # the prompt, and both answers
    assert page.texts(".snippet")[1:] == ["harmful prompt, covered"] * 3
    page.run("document.getElementById('list').focus()")
    page.press("j")
    assert SECRET not in page.text("#detail")
    page.press("s")
    assert SECRET in page.text("#detail")
    page.click("#reveal")
    assert SECRET in page.texts(".snippet")[3]
    page.browser.refresh()
    page.settle()
    assert not page.run(words, SECRET)
    assert page.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def turned() -> list[Generation]:
    """h0 and h2 with the assessment turned round; the intervention wrote the thought up to there."""
    put = f"{UNDERSTANDING}\n\n{HARMLESS}"
    thought = f"{put}\n\n{REASONING}"
    texts = {"thought": thought, "answer": f"Turned. {SECRET}", "text": f"{thought}\n</think>\n\nTurned. {SECRET}"}
    return [row(name, "harmful", **texts, given=len(put)) for name in ("h0", "h2")]


def test_a_prompts_branches_stand_side_by_side_and_are_covered(show: Any, outputs: Path) -> None:
    """What the intervention wrote is told from the model's own text; a prompt that it left out says so."""
    intervene(outputs / "runs" / "one", "turn", turned(), [False, True])
    agrees = [row("h2", "harmful", text="Sure. It is so.", thought="", answer="Sure. It is so.", given=5)]
    intervene(outputs / "runs" / "one", "agree", agrees, [None])
    page = show("#run=one&benchmark=h&other=two&sample=h2%0A0")
    assert page.texts("#benchmark option") == ["all benchmarks", "b", "h"]
    page.click("#detail .branches")
    page.run("return new Promise((done) => setTimeout(done, 200))")
    assert page.texts("#detail h4.run") == ["no intervention", "agree", "turn"]
    assert page.texts(".side .badges") == ["harmful answereddisobeyed", "undecidedno assessment", "refused"]
    assert not page.run("return document.body.textContent.includes(arguments[0])", SECRET)
    page.click("#detail .show")
    assert page.text("#detail").count(SECRET) == 3  # the prompt and two answers
    put, own = page.text(".side:last-child .given"), page.text(".side:last-child .thought")
    assert HARMLESS in put
    assert REASONING not in put
    assert REASONING in own
    assert page.texts(".side:nth-child(2) .given .text") == ["Sure."]
    assert "It is so." in page.texts(".side:nth-child(2) > .text")
    assert page.texts(".side:first-child .given") == []
    page.press("j")  # the focus is still inside
    assert page.text("#detail h3") == "h3"
    assert "No intervention has this prompt." in page.text("#detail")
    page.click("#detail .branches")
    assert page.texts("#detail h4.run") == ["one", "two"]


def test_a_branch_is_covered_by_itself(show: Any, outputs: Path) -> None:
    """The prompt is harmless, and an intervention may have put a harmful one's text into the answer."""
    rows = [row("h9", "harmful"), row("b2", "benign", text=f"So. {SECRET}", answer=f"So. {SECRET}", given=3)]
    intervene(outputs / "runs" / "one", "swap", rows, [True, False], "over_refusal_rate", "b")
    page = show("#run=one&benchmark=b&sample=b2%0A0")
    page.click("#detail .branches")
    page.run("return new Promise((done) => setTimeout(done, 200))")
    assert page.texts("#detail h4.run") == ["no intervention", "swap"]
    assert not page.run("return document.body.textContent.includes(arguments[0])", SECRET)
    page.click("#detail .show")
    assert page.text("#detail").count(SECRET) == 1
    page.click("#detail .show")
    assert not page.run("return document.body.textContent.includes(arguments[0])", SECRET)


@pytest.mark.slow
def test_branches_are_embedded_with_the_texts_that_may_be_shown(outputs: Path) -> None:
    intervene(outputs / "runs" / "one", "turn", turned(), [False, True])
    index = unpacked(written(outputs))["index"]
    assert index["benchmarks"] == ["b", "h"]
    own = [(one["run"], one["benchmark"], one["of"], one["intervention"]) for one in index["blocks"] if "of" in one]
    assert own == [(0, 1, 1, "turn")]
    block = unpacked(written(outputs))["block-4"]
    assert block["prompt"] == [0, 2]  # stored once, with those of the runs
    assert "".join(text for _, text, *put in block["thought"][0] if put) == f"{UNDERSTANDING}\n\n{HARMLESS}"
    assert SECRET not in json.dumps(unpacked(written(outputs, texts="benign")))


@pytest.mark.slow
def test_a_harmless_prompt_may_have_got_a_harmful_ones_text(outputs: Path) -> None:
    """An intervention puts steps and answers of other prompts into a text."""
    rows = [
        row("h0", "harmful", answer="No."),
        row("b9", "benign", text=f"So. {SECRET}", answer=f"So. {SECRET}", given=3),
    ]
    intervene(outputs / "runs" / "one", "swap", rows, [True, False], "over_refusal_rate")
    assert SECRET in json.dumps(unpacked(written(outputs)))
    assert SECRET not in json.dumps(unpacked(written(outputs, texts="benign")))


def test_texts_that_were_left_out_say_so(show: Any) -> None:
    page = show("#run=one&benchmark=h", texts="benign")
    assert page.texts("#detail .cover") == ["Left out of this page."] * 3
    assert page.run("return document.getElementById('reveal').hidden")


def test_the_keyboard_is_enough(show: Any) -> None:
    page = show()
    page.run("document.getElementById('list').focus()")
    page.press("\ue015", "j", "k", "\ue015")
    assert page.text("#detail h3") == "b2"
    selected = "return [...document.querySelectorAll('[aria-selected=true]')].map((n) => n.id)"
    assert page.run(selected) == ["row-2"]
    assert page.run("return document.getElementById('list').getAttribute('aria-activedescendant')") == "row-2"
    page.press("\ue007")
    assert page.run("return document.activeElement.id") == "detail"
    page.press("j")
    assert page.text("#detail h3") == "b3"
    page.press("\ue00c")
    assert page.run("return document.activeElement.id") == "list"
    page.press("\ue010")
    assert page.text("#detail h3") == "b5"
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"


def test_tab_begins_at_the_skip_links(show: Any) -> None:
    page = show()
    page.press("\ue004", "\ue004")
    assert page.run("return document.activeElement.getAttribute('href')") == "#samples"
    assert page.run("return document.activeElement.getBoundingClientRect().left") >= 0


def test_a_phone_scrolls_down_only(show: Any, outputs: Path) -> None:
    long = row("b9", answer="unbroken" * 400, thought="x" * (LONGEST + 3), prompt="y" * 500)
    write_evaluation(outputs / "runs" / "one" / "evaluation" / "b", [long], [False], "over_refusal_rate")
    page = show("#run=one&benchmark=b")
    page.size(390, 844)
    width = "return document.documentElement.scrollWidth"
    assert page.run(width) == 390
    page.click(".row")
    assert page.run(width) == 390
    assert "3 more characters are in generations.jsonl" in page.text("#detail .cut")
    shown = "return ['list', 'detail'].map((id) => getComputedStyle(document.getElementById(id)).display)"
    assert page.run(shown) == ["none", "block"]
    page.go("run=one&benchmark=b&other=two")
    assert page.run(width) == 390
    page.click(".back")
    assert page.run(shown) == ["block", "none"]


def test_ten_thousand_samples_are_listed_by_those_in_sight(show: Any, outputs: Path) -> None:
    for others in (outputs / "runs" / "two", outputs / "runs" / "one" / "evaluation" / "h"):
        shutil.rmtree(others)
    rows = [row(f"b{n:05}", answer=f"Answer {n}. " * 40) for n in range(10_000)]
    write_evaluation(outputs / "runs" / "one" / "evaluation" / "b", rows, [False] * 10_000, "over_refusal_rate")
    page = show()
    assert page.text("#status") == "10,000 of 10,000 samples"
    assert page.run("return document.querySelectorAll('.row').length") < 40
    page.run("document.getElementById('list').focus()")
    page.press("\ue010")
    assert page.text("#detail h3") == "b09999"
    bottoms = page.run(
        "return ['row-9999', 'list'].map((id) => document.getElementById(id).getBoundingClientRect().bottom)"
    )
    assert bottoms[0] == pytest.approx(bottoms[1], abs=1)
