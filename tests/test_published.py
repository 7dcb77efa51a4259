"""The published figures: what the file holds, what it refuses, and what a run's names find in it."""

import math
from collections import Counter
from pathlib import Path

import pytest

from alttrain.report.columns import MEASURES
from alttrain.report.commands import options
from alttrain.report.published import covers, published, read_figures, reported

HEADER = "table,backbone,rewrite,dataset,measure,benchmark,value,unit,source,note\n"


def known() -> list[float]:
    return [one.value for one in published() if not math.isnan(one.value)]


def test_every_figure_has_a_source_and_names_our_configs() -> None:
    assert len(known()) == 24 + 3 * 5 + 2 + 3 * 3 + 4 * 3 + 3
    for one in published():
        assert one.source.startswith("arXiv 2604.18946")
        assert math.isnan(one.value) or "secondary notes" in one.source
        assert one.backbone in options("backbone") | {""}
        assert one.rewrite in options("rewrite") | {""}
        assert one.measure in {*MEASURES, "example_tokens"}
    assert Counter(one.table for one in published())["main"] == 24 + 4 * 3


def test_what_is_not_known_is_empty_and_said_to_be() -> None:
    unknown = [one for one in published() if math.isnan(one.value)]
    assert {one.table for one in unknown} >= {"main", "teacher_swap", "benign_amount", "multi_turn"}
    assert all("not known here" in one.note for one in unknown)


@pytest.mark.parametrize(
    ("backbone", "rewrite", "dataset", "measure", "benchmark", "value"),
    [
        ("r1_llama_8b", "none", "anything", "harmful_rate", "mean", 0.835),
        ("r1_llama_8b", "alttrain", "alttrain_1k", "harmful_rate", "mean", 0.048),
        ("s1_14b", "alttrain", "alttrain_1k", "over_refusal_rate", "xstest_safe", 0.14),
        ("r1_llama_8b", "alttrain_without_ha", "alttrain_1k", "accuracy", "mean", 0.594),
        ("r1_llama_8b", "alttrain", "alttrain_3000", "over_refusal_rate", "xstest_safe", 0.024),
        ("r1_qwen_7b", "alttrain_without_pu", "alttrain_1k", "harmful_rate", "mean", 0.017),
        ("r1_qwen_7b", "alttrain_without_pu", "alttrain_1k", "accuracy", "mean", None),
        ("r1_llama_8b", "alttrain", "embedded", "harmful_rate", "mean", None),
        ("r1_llama_8b", "alttrain", "alttrain_1k", "harmful_rate", "strongreject", None),
        ("smollm2_135m", "none", "embedded", "harmful_rate", "mean", None),
    ],
)
def test_a_run_finds_its_figure(
    backbone: str, rewrite: str, dataset: str, measure: str, benchmark: str, value: float | None
) -> None:
    names = {"backbone": backbone, "rewrite": rewrite, "dataset": dataset}
    found = reported(names, measure, benchmark)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("main,b,none,,accuracy,mean,0.5,share,,\n", "x.csv line 2: value 0.5 without a source"),
        ("main,b,none,,accuracy,mean,72.6,share,paper,\n", "line 2: value 72.6 of unit share; expected 0 to 1"),
        (2 * "main,b,none,,accuracy,mean,0.5,share,paper,\n", "line 3: the same figure stands in line 2"),
    ],
)
def test_a_wrong_file_is_refused(rows: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(HEADER + rows)
    with pytest.raises(ValueError, match=told):
        read_figures(tmp_path / "x.csv")


def test_an_interval_covers_a_figure_as_it_was_rounded() -> None:
    assert covers(0.0484, 0.1, 0.048)
    assert not covers(0.0486, 0.1, 0.048)
    assert covers(0.0, 0.0476, 0.048)
    assert not covers(0.0, 0.0474, 0.048)
