"""Training loss by step of one backbone's variants, a line a seed. Reads logs/metrics.csv of each run."""

from collections.abc import Sequence
from pathlib import Path

from alttrain.records import read_losses
from alttrain.report.figures.drawing import colour, figure, style
from alttrain.report.variants import Variant, label


def curve(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of a run, in the log's order; none where it has no log, as without logger=csv."""
    path = folder / "logs" / "metrics.csv"
    if not path.exists():
        return []
    return [(step + 1, float(row["loss"])) for step, row in read_losses(path) if row.get("loss")]


def draw(variants: Sequence[Variant], path: Path) -> bool:
    """Draw one backbone's curves; False where no run has any."""
    curves = [(one, [found for folder in one.folders.values() if (found := curve(folder))]) for one in variants]
    curves = [(one, own) for one, own in curves if own]
    if not curves:
        return False
    from matplotlib.ticker import LogLocator, NullFormatter

    with figure(6.6, max(3.2, 0.8 + 0.19 * len(curves)), path) as drawn:
        axes = drawn.add_subplot()
        for index, (one, own) in enumerate(curves):
            for seed, found in enumerate(own):
                axes.plot(
                    [step for step, _ in found],
                    [loss for _, loss in found],
                    color=colour(index),
                    linestyle=style(index),
                    linewidth=1.2,
                    alpha=1.0 if len(own) == 1 else 0.75,
                    label=_named(one, variants) if seed == 0 else None,
                )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("step")
        axes.set_ylabel("loss on thought and answer")
        axes.set_title(f"Training loss of {curves[0][0].backbone}, a line a seed", loc="left")
        axes.grid(alpha=0.25)
        drawn.legend(loc="outside right upper")
    return True


def _named(one: Variant, variants: Sequence[Variant]) -> str:
    seeds = len(one.folders)
    return label(one, variants) + (f", {seeds} seeds" if seeds > 1 else "")
