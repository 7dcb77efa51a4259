"""Figures: what is drawn is what the tables hold, and the files are what they say they are."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import matplotlib.figure
import matplotlib.pyplot  # box plots import it, which `drawn` would break
import pandas as pd
import pytest
from made_runs import beside, change_rows, decided_by_another, intervene, made_tables, make_run, no_train
from papers import compile_article, has_latex

from alttrain.report import figures
from alttrain.report.contrasts import INTERVENTION_COLUMNS, interventions
from alttrain.report.drawing import FORMS, error_bars, look, name_rows
from alttrain.report.figures import (
    draw_adherence,
    draw_all,
    draw_bars,
    draw_cuts,
    draw_doses,
    draw_flow,
    draw_lengths,
    draw_losses,
    lengths,
)
from alttrain.report.measures import OFFLINE
from alttrain.report.probes import probes
from alttrain.report.results import evaluations
from alttrain.report.tables import CELLS, add_marks, pivot
from alttrain.report.tradeoff import draw_tradeoff, front, points
from alttrain.report.variants import pool, variants

BACKBONE = "r1_llama_8b"
SAFETY = ("strongreject", "jailbreakbench_harmful")
METHODS = ("plain", "alttrain", "alttrain_without_pu", "alttrain_without_ha", "alttrain_by_gpt4o")
MEANS = {"harmful_rate": list(SAFETY), "accuracy": ["gsm8k", "math500"]}
LOSSES = "epoch,loss,step\n0,2.0,9\n,,9\n0,1.5,19\n"

"""No run under an intervention."""


def sets(harmful: int, refused: int, right: int) -> dict[str, tuple[str, str]]:
    """Counts of 20 prompts each: harmful answered, harmless refused, solved."""
    rates = dict.fromkeys(SAFETY, ("harmful_rate", harmful)) | {"xstest_safe": ("over_refusal_rate", refused)}
    rates |= dict.fromkeys(("gsm8k", "math500"), ("accuracy", right))
    return {name: (measure, "y" * count + "n" * (20 - count)) for name, (measure, count) in rates.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Methods, ablations, another teacher, sizes and amounts of harmless data, two seeds of each method."""
    folder = tmp_path_factory.mktemp("runs")
    no_train(folder, sets(16, 0, 12), thought_tokens=900, means=MEANS)
    for seed in (0, 1):
        for place, method in enumerate(METHODS):
            run = make_run(
                folder, sets(12 - 2 * place + seed, 2 + place, 12 - seed), method=method, seed=seed, means=MEANS
            )
            (run / "logs").mkdir()
            (run / "logs" / "metrics.csv").write_text(LOSSES)
    for size in (500, 3000):
        labels = {"harmful": size * 9 // 10, "benign": size // 10}
        own, name = sets(size // 1000, 4, 10), f"alttrain_{size}"
        make_run(folder, own, dataset=name, rewrite="alttrain", method=name, labels=labels, means=MEANS)
    for amount in (0, 50, 900):
        labels = {"harmful": 900, "benign": amount}
        own, name = sets(1, 12 - amount // 100, 11), f"alttrain_benign_{amount}"
        make_run(folder, own, dataset="safechain", rewrite="alttrain", method=name, labels=labels, means=MEANS)
    return folder


@pytest.fixture(scope="module")
def found(runs: Path) -> dict[str, pd.DataFrame]:
    return made_tables(runs)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is made."""
    made: list[Any] = []
    plain = matplotlib.figure.Figure

    def figure(*given: Any, **named: Any) -> Any:
        made.append(plain(*given, **named))
        return made[-1]

    monkeypatch.setattr(matplotlib.figure, "Figure", figure)
    return made


def frames(runs: Path) -> dict[str, pd.DataFrame]:
    """The frames of CSV files from which figures are drawn."""
    judged = evaluations(runs)
    empty = pd.DataFrame(columns=INTERVENTION_COLUMNS)
    return {"interventions": empty, "probes": probes(variants(judged))}


def column(table: pd.DataFrame, index: int) -> list[Any]:
    """The cells of a table's column, from the first row to the last, of rows with any number."""
    rows = (row for row in pivot(table).itertuples(index=False) if any(cell.known for cell in row))
    return [row[index] for row in rows]


def ends(container: Any) -> list[tuple[float, float]]:
    """(low, high) of error bars that lie."""
    (bars_,) = container.lines[2]
    return [(float(segment[0][0]), float(segment[1][0])) for segment in bars_.get_segments()]


# --- all of them ---


@pytest.mark.slow
def test_every_figure_is_drawn_and_named(runs: Path, found: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    with draw_all(found, variants(evaluations(runs)), frames(runs), tmp_path) as draw:
        written = draw()
    names = {"losses-" + BACKBONE}
    names |= {f"{name}.alttrain" for name in ("tradeoff", "main", "ablation_structure", "teacher_swap")}
    names |= {f"{name}.alttrain" for name in ("data_size", "benign_amount")}
    names |= {f"{name}-{BACKBONE}.alttrain" for name in ("adherence", "flow", "lengths")}
    assert {path.name for path in written} == {f"{name}.{form}" for name in names for form in FORMS}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        elif path.suffix == ".svg":
            vectors(path)
        else:
            embeds_fonts(path)


def vectors(path: Path) -> None:
    """An SVG that draws, in which text is text and nothing is a bitmap or stands elsewhere."""
    nodes = list(ElementTree.parse(path).getroot().iter())
    tags = [str(node.tag).rpartition("}")[2] for node in nodes]
    assert tags[0] == "svg"
    assert tags.count("path") > 5
    assert "image" not in tags
    said = [node.text or "" for node, tag in zip(nodes, tags, strict=True) if tag == "text"]
    assert any(BACKBONE in text or "95 %" in text for text in said), said
    links = [value for node in nodes for key, value in node.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)


def embeds_fonts(path: Path) -> None:
    """A PDF whose fonts are embedded as TrueType, and in which nothing is a bitmap."""
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/FontFile2") == content.count(b"/Type /FontDescriptor") > 0
    assert b"/Type3" not in content
    assert b"/Subtype /Image" not in content


@pytest.mark.slow
@pytest.mark.skipif(not has_latex(), reason="pdflatex is not installed")
def test_a_paper_includes_every_figure(runs: Path, found: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    with draw_all(found, variants(evaluations(runs)), frames(runs), tmp_path) as draw:
        drawn = [path.name for path in draw() if path.suffix == ".pdf"]
    lines = [rf"\noindent\includegraphics[width=\linewidth]{{{name}}}\par" for name in drawn]
    said = compile_article(tmp_path, "twocolumn", [r"\usepackage{graphicx}", r"\begin{document}", *lines])
    assert len(drawn) == 10
    assert all(name in said.replace("\n", "") for name in drawn)
    assert "Overfull" not in said


def test_the_same_numbers_give_the_same_bytes(found: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_bars("Main", found["main"], tmp_path / name)
    for form in FORMS:
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
    draw_bars("Main", found["main"].query("method != 'plain'"), tmp_path / "b")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_nothing_is_drawn_of_nothing(found: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    for entries in (add_marks(found["main"].assign(value=math.nan)), None):
        assert not draw_bars("x", entries, tmp_path / "x")
        assert not draw_doses("x", entries, {(BACKBONE, "alttrain"): ("alttrain", 1)}, "", tmp_path / "x")
        assert not draw_tradeoff(entries, tmp_path / "x")
        assert not draw_adherence(entries, tmp_path / "x")
    assert not draw_doses("x", found["main"], {}, "", tmp_path / "x")
    assert not draw_losses([], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# --- what is drawn is what the tables hold ---


def test_bars_are_the_tables_cells(found: dict[str, pd.DataFrame], drawn: list[Any], tmp_path: Path) -> None:
    for name in ("main", "ablation_structure", "teacher_swap"):
        assert draw_bars(name, found[name], tmp_path / name)
        for index, axes in enumerate(drawn.pop().axes):
            cells = column(found[name], index)
            known = [one for one in cells if one.known]
            (boxes,) = [box for box in axes.containers if hasattr(box, "patches")]
            assert [box.get_width() for box in boxes.patches] == pytest.approx([100 * one.value for one in known])
            reach = ends(boxes.errorbar)
            assert reach == [pytest.approx((100 * one.low, 100 * one.high)) for one in known]
            diamonds = [x for line in axes.lines if line.get_marker() == "D" for x in line.get_xdata()]
            told = [100 * one.published for one in cells if not math.isnan(one.published)]
            assert diamonds == pytest.approx(told)


def test_the_tradeoff_has_each_methods_rates(found: dict[str, pd.DataFrame], drawn: list[Any], tmp_path: Path) -> None:
    assert draw_tradeoff(found["main"], tmp_path / "x")
    axes = drawn[0].axes[0]
    cells = {
        (one.method, one.measure): one
        for one in found["main"].itertuples()
        if one.known and (one.kind == "mean" or one.measure == "over_refusal_rate")
    }
    methods = list(dict.fromkeys(method for method, _ in cells))
    own = [[cells[name, measure] for measure in ("over_refusal_rate", "harmful_rate", "accuracy")] for name in methods]
    dots = [dot for dot in axes.collections if len(dot.get_offsets()) == 1 and dot.get_array() is not None]
    assert [tuple(dot.get_offsets()[0]) for dot in dots] == [
        pytest.approx((100 * refused.value, 100 * harmful.value)) for refused, harmful, _ in own
    ]
    assert [dot.get_array()[0] for dot in dots] == pytest.approx([100 * capable.value for _, _, capable in own])
    assert {text.get_text() for text in axes.texts} == set(methods)
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    best = front(points(found["main"]))
    assert [tuple(point) for point in line.get_xydata()] == [
        pytest.approx((100 * one.over_refusal_rate.value, 100 * one.harmful_rate.value)) for one in best
    ]
    assert axes.get_xlim()[1] >= max(100 * refused.high for refused, _, _ in own)


def test_the_colour_bar_shows_accuracies_also_if_the_last_point_has_none(drawn: list[Any], tmp_path: Path) -> None:
    cells = [*both("a", "h", "o"), rate("a", "accuracy", "x", 0.5), *both("b", "h", "o")]
    assert draw_tradeoff(table(cells), tmp_path / "x")
    assert drawn[0].axes[-1].get_ylim() == pytest.approx((50, 70))
    assert draw_tradeoff(table([*both("a", "h", "o"), rate("a", "accuracy", "x", 0.9)]), tmp_path / "x")
    assert drawn[1].axes[-1].get_ylim() == pytest.approx((80, 100))
    assert drawn[0].axes[-1].get_ylabel() == "accuracy ↑, %, x"  # without a number of texts, which methods differ in


def test_doses_are_the_tables_cells_at_their_amounts(
    found: dict[str, pd.DataFrame], drawn: list[Any], tmp_path: Path
) -> None:
    places = {(BACKBONE, name): ("alttrain", amount) for name, amount in {"0.5K": 500, "3K": 3000}.items()}
    assert draw_doses("Sizes", found["data_size"], places, "examples", tmp_path / "x")
    assert {axes.get_xlabel() for axes in drawn[0].axes} == {"examples"}
    for index, axes in enumerate(drawn[0].axes):
        cells = [one for one in column(found["data_size"], index) if (one.backbone, one.method) in places]
        assert len(cells) == 2
        line = axes.lines[0]
        assert list(line.get_ydata()) == pytest.approx([100 * one.value for one in cells])
        assert list(line.get_xdata()) == pytest.approx([1 + math.log10(10), 1 + math.log10(60)])
        (reach,) = axes.containers[0].lines[2]
        assert [(low[1], high[1]) for low, high in reach.get_segments()] == [
            pytest.approx((100 * one.low, 100 * one.high)) for one in cells
        ]
        published = [line for line in axes.lines if line.get_linestyle() == ":"]
        told = [100 * one.published for one in cells if not math.isnan(one.published)]
        assert [y for line in published for y in line.get_ydata()] == pytest.approx(told)


def test_doses_are_called_what_they_count(
    runs: Path, found: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: dict[str, str] = {}
    others = [name for name in vars(figures) if name.startswith("draw_") and name not in ("draw_all", "draw_doses")]
    for name in others:
        monkeypatch.setattr(figures, name, lambda *given: False)
    monkeypatch.setattr(figures, "draw_doses", lambda *given: bool(called.update({given[-1].name: given[3]})))
    with draw_all(found, variants(evaluations(runs)), frames(runs), tmp_path) as draw:
        draw()
    assert called["data_size.alttrain"] == "training examples"
    assert called["benign_amount.alttrain"] == "harmless training examples"


def test_stacks_are_the_shares_of_each_cause(found: dict[str, pd.DataFrame], drawn: list[Any], tmp_path: Path) -> None:
    entries = found["adherence"]
    assert draw_adherence(entries, tmp_path / "x")
    methods = entries.method.unique().tolist()
    for axes, outcome in zip(drawn[0].axes, ("answered", "refused"), strict=True):
        widths = [patch.get_width() for patch in axes.patches]
        rows = [widths[place :: len(methods)] for place in range(len(methods))]
        assert len(widths) == 4 * len(methods)
        for method, row in zip(methods, rows, strict=True):
            cells = {one.measure: one.value for one in entries.itertuples() if one.method == method}
            causes = [100 * cells[f"{outcome}_{cause}"] for cause in ("misjudged", "disobeyed", "unassessed")]
            assert row[1:] == pytest.approx(causes)
            assert sum(row) == pytest.approx(100)


def test_a_number_without_an_interval_has_no_error_bar() -> None:
    cells = [SimpleNamespace(value=0.5, low=low, high=high) for low, high in ((0.4, 0.7), (math.nan,) * 2, (0.6, 0.4))]
    below, above = error_bars(cells)
    assert (below[0], above[0]) == (pytest.approx(10), pytest.approx(20))
    assert [math.isnan(below[1]), math.isnan(above[1])] == [True, True]
    assert (below[2], above[2]) == (0, 0)


def test_control_characters_of_a_name_break_no_figure(tmp_path: Path) -> None:
    """Others' labels may have some, and an SVG may not."""
    shown = {"h": {"labels": {"harmful_rate": "harm\x01ful"}}}
    make_run(tmp_path, {"h": ("harmful_rate", "yn")}, label="Our\x1b[own]", shown=shown)
    assert draw_bars("main", made_tables(tmp_path)["main"], tmp_path / "x")
    said = " ".join(ElementTree.parse(tmp_path / "x.svg").getroot().itertext())
    assert "Our [own]" in said
    assert "harm ful" in said


def test_a_long_name_leaves_room_for_the_bars(found: dict[str, pd.DataFrame], drawn: list[Any], tmp_path: Path) -> None:
    cells = found["main"].assign(method=lambda frame: frame.method + f", changed: {'dataset.path=x, ' * 10}")
    assert draw_bars("main", cells, tmp_path / "x")
    axes = drawn[0].axes[0]
    assert {len(label.get_text()) for label in axes.get_yticklabels()} <= {*range(61)}
    assert axes.get_position().width > 0.03


def test_a_long_name_leaves_room_for_titles(
    runs: Path, found: dict[str, pd.DataFrame], drawn: list[Any], tmp_path: Path
) -> None:
    more = ", changed: training.epochs=null, training.max_steps=3"
    assert draw_adherence(found["adherence"].assign(method=lambda frame: frame.method + more), tmp_path / "x")
    own = [replace(one, name=one.name + more) for one in variants(evaluations(runs)) if one.method == "plain"]
    assert draw_losses(own, tmp_path / "x")
    inches = [fig.axes[0].get_position().width * fig.get_figwidth() for fig in drawn]
    assert min(inches) > 2.4


def test_a_cut_name_keeps_its_end_and_names_that_would_be_the_same_are_whole() -> None:
    fig = matplotlib.figure.Figure()
    panels = [fig.add_subplot()]

    def labels(*given: Any) -> list[str]:
        name_rows(panels, *given)
        return [label.get_text() for label in panels[0].get_yticklabels()]

    long = "changed: dataset.path=x, " * 3
    (one,) = labels([long], [": says harmful"])
    assert (len(one), one.endswith("…: says harmful")) == (60, True)
    assert labels([long] * 2, [": a", ": b"]) == [f"{long[:56]}…: {end}" for end in "ab"]
    assert labels([f"{long}1", f"{long}2", long], [": a"] * 3) == [f"{long}1: a", f"{long}2: a", f"{long}: a"]
    assert labels([f"{long}1", f"{long}2"]) == [f"{long}1", f"{long}2"]


def test_no_two_of_many_lines_look_alike() -> None:
    assert len({look(number) for number in range(49)}) == 49
    assert len({look(number)[0] for number in range(7)}) == len({look(number)[1] for number in range(7)}) == 7


def test_a_renamed_folder_stays_in_the_flow(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"h": ("harmful_rate", "yn")})
    run.rename(run.with_name("downloaded"))
    (own,) = variants(evaluations(tmp_path))
    assert draw_flow([own], list(own.evaluations), tmp_path / "x")


def test_a_flow_is_every_text_by_its_assessment_and_outcome(drawn: list[Any], tmp_path: Path) -> None:
    """By method over its seeds; texts under an intervention, of other protocols and of other methods are left out."""
    both = {"h": ("harmful_rate", "y" * 32 + "n" * 8), "o": ("over_refusal_rate", "n" * 20)}
    no_train(tmp_path, both)
    make_run(tmp_path, both)
    make_run(tmp_path, both, method="plain", protocol="other", seed=2)
    for seed in (0, 1):
        harm = ("harmful_rate", "y" * (20 + seed) + "n" * 6 + "u" * 14)
        run = make_run(tmp_path, {**both, "h": harm, "h+cut": harm}, method="plain", seed=seed)
        intervene(run / "evaluation" / "h+cut.alttrain", "h")
    own = [one for one in variants(evaluations(tmp_path)) if one.method in ("no_train", "plain")]
    made = pool(own, "alttrain")
    assert draw_flow(own, made, tmp_path / "x")
    harm, refusal = drawn[0].axes
    assert [label.get_text() for label in harm.get_yticklabels()] == [
        f"{method}: says {said}" for method in ("No-train", "plain") for said in ("harmful", "harmless")
    ]
    assert [text.get_text() for text in harm.texts] == [
        "8 / 32 / 0",
        "0 / 0 / 0",
        "12 / 41 / 28",
        "0 / 0 / 0",
    ]
    widths = [patch.get_width() for patch in harm.patches]
    assert widths[::4] == [8, 32, 0]  # 4 rows, part by part
    assert [text.get_text() for text in refusal.texts][1] == "0 / 20 / 0"
    assert not draw_flow(own, [("alttrain", "h", "other")], tmp_path / "y")
    assert drawn[0].get_suptitle().endswith("to what becomes of the answer, of 1 to 3 seeds")
    for variant in own:
        for evaluation in (one for seeds in variant.evaluations.values() for one in seeds.values()):
            decides = evaluation.decider._replace(part="both")
            evaluation.packed_texts[decides], evaluation.decider = evaluation.pack_texts(), decides
    assert draw_flow(own, made, tmp_path / "z")
    assert drawn[1].get_suptitle().endswith("to the verdict on thought and answer, of 1 to 3 seeds")


def test_a_seed_that_another_judge_decides_is_drawn_by_the_judge_of_the_others(
    drawn: list[Any], tmp_path: Path
) -> None:
    """The second seed's own judge calls all its answers safe, the first's 30 of them unsafe."""
    for seed in (0, 1):
        run = make_run(tmp_path, {"h": ("harmful_rate", "n" * 60)}, seed=seed, hashed="hg"[seed])
    decided_by_another(run, "h")
    beside(run, "h", "y" * 30 + "n" * 30, "h-h", 0.5, "judge")
    (own,) = variants(evaluations(tmp_path))
    way = [("alttrain", "h", "h-h")]
    assert draw_flow([own], way, tmp_path / "x")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["90 / 30 / 0"]
    assert lengths(own, way) == {"harmful": [10] * 120, "benign": []}


def test_losses_are_the_logs(runs: Path, drawn: list[Any], tmp_path: Path) -> None:
    own = [one for one in variants(evaluations(runs)) if one.method == "plain"]
    assert draw_losses(own, tmp_path / "x")
    lines = drawn[0].axes[0].lines
    assert [[tuple(point) for point in line.get_xydata()] for line in lines] == 2 * [[(10, 2.0), (20, 1.5)]]
    assert {line.get_marker() for line in lines} == {"None"}


def test_a_loss_that_was_logged_once_is_seen(drawn: list[Any], tmp_path: Path) -> None:
    run = make_run(tmp_path, {"h": ("harmful_rate", "yn")})
    (run / "logs").mkdir()
    (run / "logs" / "metrics.csv").write_text("\n".join(LOSSES.splitlines()[:2]) + "\n")
    assert draw_losses(variants(evaluations(tmp_path)), tmp_path / "x")
    (line,) = drawn[0].axes[0].lines
    assert (len(line.get_xydata()), line.get_marker()) == (1, ".")


def test_lengths_are_the_generations(runs: Path, drawn: list[Any], tmp_path: Path) -> None:
    own = variants(evaluations(runs))
    made = list(own[0].evaluations)
    by_rewrite = {one.rewrite: lengths(one, made) for one in own if one.dataset == "alttrain_1k"}
    assert by_rewrite["none"] == {"harmful": [900] * 40, "benign": [900] * 60}
    assert by_rewrite["plain"] == {"harmful": [10] * 80, "benign": [10] * 120}
    assert draw_lengths(own, made, tmp_path / "x")
    for axes in drawn[0].axes:
        medians = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 1.4]
        assert [(float(low), float(high)) for low, high in medians] == [(900, 900), *[(10, 10)] * (len(own) - 1)]


def test_what_was_not_generated_has_no_length(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"x": ("harmful_rate", "ynnn")}) / "evaluation" / "x.alttrain"
    gone = {"finish": "error", "thought_tokens": 0, "answer_tokens": 0}
    change_rows(folder, lambda row, n: gone if n < 3 else {}, "generations")
    (own,) = variants(evaluations(tmp_path))
    assert lengths(own, list(own.evaluations)) == {"harmful": [10], "benign": []}


def test_cuts_with_other_settings_are_another_line(drawn: list[Any], tmp_path: Path) -> None:
    cuts = {f"x+{kind}_{share}": (kind, share) for kind in ("cut", "bare") for share in (0, 1)}
    sets = {name: ("harmful_rate", "yy" if kind == "bare" else "yn") for name, (kind, _) in cuts.items()}
    run = make_run(tmp_path, {"x": ("harmful_rate", "yy")} | sets)
    for name, (kind, share) in cuts.items():
        system = "" if kind == "bare" else None
        intervene(run / "evaluation" / f"{name}.alttrain", "x", name, share=share, system=system)
    assert draw_cuts(interventions(variants(evaluations(tmp_path)))[0], tmp_path / "cuts")
    lines = [list(line.get_ydata()) for line in drawn[0].axes[0].lines]
    assert sorted(lines) == [[50, 50], [100, 100]]
    assert len({text.get_text() for text in drawn[0].legends[0].texts}) == 2


# --- which points the tradeoff has ---


def rate(method: str, measure: str, benchmark: str, value: float = 0.5, kind: str = "rate") -> dict[str, Any]:
    """A cell of a made table."""
    names = {
        "table": "main",
        "protocol": OFFLINE,
        "backbone": "b",
        "protocol_hash": "h",
        "unit": "share",
        "called": measure,
    }
    numbers = {"value": value, "low": value / 2, "high": value, "n": 9, "seeds": 1, "best": False}
    empty = {**dict.fromkeys(("undecided", "truncated"), 0), **dict.fromkeys(("published_why", "lacking"), "")}
    return {**names, **numbers, **empty, "method": method, "measure": measure, "kind": kind, "benchmark": benchmark}


def both(method: str, harmful: str, refused: str) -> list[dict[str, Any]]:
    """A row's two rates."""
    return [rate(method, "harmful_rate", harmful), rate(method, "over_refusal_rate", refused)]


def table(cells: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of these cells."""
    frame = pd.DataFrame(cells, columns=CELLS)
    return add_marks(frame.astype(dict.fromkeys(("difference", "detectable", "p_holm", "published"), float)))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([*both("a", "h1", "o1"), *both("b", "h2", "o2"), *both("c", "h2", "o2")], dict.fromkeys("bc", ("h2", "o2"))),
        ([*both("a", "h2", "o2"), *both("a", "h1", "o1")], {"a": ("h1", "o1")}),
        ([*both("a", "h", "o"), rate("a", "harmful_rate", "h + i", kind="mean")], {"a": ("h + i", "o")}),
        ([*both("a", "h", "o"), rate("b", "harmful_rate", "h", math.nan)], {"a": ("h", "o")}),
        ([rate("a", "accuracy", "x")], {}),
    ],
)
def test_points_are_on_the_columns_that_most_rows_share(
    cells: list[dict[str, Any]], expected: dict[str, tuple[str, str]]
) -> None:
    found = points(table(cells)).itertuples()
    assert {one.method: (one.harmful_rate.benchmark, one.over_refusal_rate.benchmark) for one in found} == expected


def test_the_front_holds_what_nothing_beats() -> None:
    rates = {"worst": (0.5, 0.5), "safe": (0.1, 0.4), "open": (0.4, 0.1), "safe again": (0.2, 0.4)}
    cells = [
        one
        for method, (harmful, refused) in rates.items()
        for one in (rate(method, "harmful_rate", "h", harmful), rate(method, "over_refusal_rate", "o", refused))
    ]
    assert [one.method for one in front(points(table(cells)))] == ["open", "safe"]


def test_an_interval_that_rounding_put_inside_out_is_drawn(tmp_path: Path) -> None:
    """An end of the interval a hair inside the value is no negative arm."""
    one, other = both("a", "h", "o")
    cells = table([one | {"low": one["value"] + 1e-17}, other | {"high": other["value"] - 1e-16}])
    assert draw_tradeoff(cells, tmp_path / "x")
