"""Published figures as data: published.csv has one row per figure, each with its source.

`backbone` and `method` are names of our configs, empty if the source does not name them. `protocol` is how the number
was made: `alttrain` for the paper, and a separate name for every other source. `benchmark` "mean" is the mean over the
protocol's own sets. Unknown values are left empty.
"""

from functools import cache
from importlib import resources
from typing import Any

from alttrain.report.results import LAST, option, read_csv
from alttrain.report.variants import Column

MEAN = "mean"  # the `benchmark` of a figure that is a mean over sets
WHY = {
    "no method": ("ᵐ", "the run names no method"),
    "changed": ("ᶜ", "the method, or how or on what it was evaluated, was changed"),
    "other protocol": ("ᵖ", "figures were made by another protocol"),
    "other sets": ("ˢ", "the figure is over other sets"),
    "mean only": ("ᵃ", "only a mean over several sets was reported"),
    "not reported": ("ʳ", "no source here reports it"),
    "not known": ("ᵏ", "reported, but the figure or its backbone is not known here"),
}
"""Reasons why a number has no published figure: the mark and its explanation."""
Figure = Any
"""A row of published.csv. Its value is a share, or tokens or hours, as `unit` says; `known` is False if it is empty."""


@cache
def published_figures() -> tuple[Figure, ...]:
    """All rows of published.csv, unknown figures included."""
    with resources.as_file(resources.files("alttrain.report") / "published.csv") as path:
        frame = read_csv(path)
    return tuple(frame.assign(known=frame.value.notna()).itertuples(index=False))


def label_and_order(method: str) -> tuple[str, int]:
    """A method's label and its order, as in conf/method; for an unknown method its name and the last place."""
    config = option("method", method).get("method", {})
    return config.get("label", method), config.get("order", LAST)


def matching_figure(backbone: str, method: str, changed: bool, column: Column) -> tuple[Figure | None, str]:
    """(figure, "") of the published figure that matches a number, or (None, reason).

    A figure matches if measure, protocol, sets, backbone and method are the same and nothing was `changed`: neither the
    method nor the evaluation. The reason is a key of `WHY`, or "" if no source reports the measure at all.
    """
    # figures of the training belong to no protocol
    protocols = {figure.protocol for figure in published_figures()} if column.kind == "training" else {column.protocol}
    benchmark = {"mean": MEAN, "rate": column.benchmark}.get(column.kind, "")
    of_measure = [figure for figure in published_figures() if figure.measure == column.measure]
    of_method = [figure for figure in of_measure if figure.method == method and figure.backbone in (backbone, "")]
    of_protocol = [figure for figure in of_method if figure.protocol in protocols]
    of_benchmark = [figure for figure in of_protocol if figure.benchmark == benchmark]
    match = next((figure for figure in of_benchmark if figure.known and figure.backbone == backbone), None)
    has_mean = any(figure.known and figure.benchmark == MEAN for figure in of_protocol) and "main" in column.tables
    reasons = (
        ("", not of_measure),
        ("other protocol", all(figure.protocol not in protocols for figure in published_figures())),
        ("no method", not method),
        ("not reported", not of_method),
        ("changed", changed),
        ("other protocol", not of_protocol),
        ("other sets", column.kind == "mean" and not (of_benchmark and column.defined)),
        ("mean only", not of_benchmark and has_mean),
        ("not reported", not of_benchmark),
        ("not known", match is None),
    )
    return next(((None, why) for why, applies in reasons if applies), (match, ""))


def covers(low: float, high: float, figure: float) -> bool:
    """Whether an interval of shares covers a published share, which is rounded to 0.1 %."""
    return low - 0.0005 <= figure <= high + 0.0005
