"""The published figures: what the file holds, what it refuses, and where a figure belongs."""

import math
from collections import Counter
from pathlib import Path

import pytest

from alttrain.report.measures import MEASURES
from alttrain.report.published import WHY, covers, matching_figure, published_figures
from alttrain.report.variants import Column

ELSEWHERE = {"gpt_oss_20b"}
"""Backbones of other sources that have no option of ours."""
OPTIONS = {path.stem for path in (Path(__file__).parent.parent / "conf" / "backbone").glob("*.yaml")}


def test_every_figure_has_a_source_and_names_our_configs() -> None:
    known = [one for one in published_figures() if one.known]
    assert Counter(one.protocol for one in known) == {
        "alttrain": 24 + 3 * 5 + 2 + 3 * 3 + 4 * 3 + 3,
        "thinking_tokens_suite": 4 * 5 * 2,
    }
    for one in published_figures():
        assert one.source.startswith("arXiv 2604.18946" if one.protocol == "alttrain" else "arXiv 2606.25013")
        assert math.isnan(one.value) or "secondary notes" in one.source
        assert one.backbone in OPTIONS | {""} | ELSEWHERE
        assert one.measure in MEASURES
        assert one.unit != "share" or not one.known or 0 <= one.value <= 1
    assert Counter(one.table for one in published_figures())["main"] == 24 + 4 * 3
    keys = [
        (one.table, one.protocol, one.backbone, one.method, one.measure, one.benchmark) for one in published_figures()
    ]
    assert [key for key, count in Counter(keys).items() if count > 1] == []


def test_what_is_not_known_is_empty_and_said_to_be() -> None:
    unknown = [one for one in published_figures() if math.isnan(one.value)]
    assert {one.table for one in unknown} >= {"main", "teacher_swap", "benign_amount", "multi_turn"}
    assert all("not known here" in one.note for one in unknown)


def mean(measure: str = "harmful_rate", protocol: str = "alttrain", defined: bool = True) -> Column:
    """A mean over the protocol's own sets, unless told."""
    return Column(measure, protocol, ((protocol, "a", "h"), (protocol, "b", "h")), "mean", defined)


def on(
    benchmark: str, measure: str = "harmful_rate", protocol: str = "alttrain", tables: tuple[str, ...] = ("main",)
) -> Column:
    """A measure on one benchmark."""
    return Column(measure, protocol, ((protocol, benchmark, "h"),), tables=tables)


@pytest.mark.parametrize(
    ("backbone", "method", "changed", "column", "found"),
    [
        ("r1_llama_8b", "no_train", False, mean(), 0.835),
        ("r1_llama_8b", "alttrain", False, mean(), 0.048),
        ("r1_llama_8b", "alttrain", False, mean(defined=False), "other sets"),
        ("r1_llama_8b", "alttrain", False, mean(protocol="star1"), "other protocol"),
        ("r1_llama_8b", "alttrain", False, on("strongreject"), "mean only"),
        ("qwen3_8b", "safekey", False, mean(protocol="thinking_tokens_suite"), "other sets"),
        ("r1_llama_8b", "alttrain", True, mean(), "changed"),
        ("r1_llama_8b", "no_train", True, mean(), "changed"),
        ("r1_llama_8b", "", False, mean(), "no method"),
        ("r1_llama_8b", "plain", False, mean(), "not reported"),
        ("smollm2_135m", "no_train", False, mean(), "not reported"),
        ("s1_14b", "alttrain", False, on("xstest_safe", "over_refusal_rate"), 0.14),
        ("s1_14b", "alttrain", False, on("xstest_safe", "over_refusal_rate", "offline"), "other protocol"),
        ("r1_llama_8b", "alttrain_without_ha", False, mean("accuracy"), 0.594),
        ("r1_llama_8b", "alttrain_3000", False, on("xstest_safe", "over_refusal_rate"), 0.024),
        ("r1_qwen_7b", "alttrain_without_pu", False, mean("harmful_rate"), 0.017),
        ("r1_qwen_7b", "alttrain_without_pu", False, mean("accuracy"), "not known"),
        ("r1_llama_8b", "star1", False, mean(), "not known"),
        ("r1_llama_8b", "alttrain", False, on("nq_open", "score"), "not known"),
        ("r1_llama_8b", "alttrain", False, on("nq_open", "accuracy", tables=("general",)), "not reported"),
        ("qwen3_8b", "safekey", False, mean(), "other protocol"),
        ("r1_llama_8b", "alttrain", False, on("strongreject", "harmful_rate.thought"), ""),
        ("r1_llama_8b", "alttrain", False, Column("training_hours", "offline", (), "training"), 1.0),
    ],
)
def test_a_figure_stands_where_everything_is_the_same_and_elsewhere_it_is_said_why(
    backbone: str, method: str, changed: bool, column: Column, found: float | str
) -> None:
    figure, why = matching_figure(backbone, method, changed, column)
    assert (figure.value if figure else why) == found
    assert why in {"", *WHY}


def test_an_interval_covers_a_figure_as_it_was_rounded() -> None:
    assert covers(0.0484, 0.1, 0.048)
    assert not covers(0.0486, 0.1, 0.048)
    assert covers(0.0, 0.0476, 0.048)
    assert not covers(0.0, 0.0474, 0.048)
