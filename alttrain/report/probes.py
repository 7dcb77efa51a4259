"""What `alttrain-probe` found in the runs of a report: probes.csv, and a curve over the positions in the thought."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from alttrain.report.drawing import describe, figure, look
from alttrain.report.evaluation import Evaluation
from alttrain.report.results import read_csv
from alttrain.report.variants import Variant

log = logging.getLogger(__name__)

FILE = "probe.csv"  # in a run's folder
NUMBERS = [
    *("layer", "layers", "n", "positives", "left_out", "undecided", "truncated", "auroc", "low", "high"),
    *("permuted_mean", "permuted_95", "p", "permutations", "by_label"),
]
NAMES = ["benchmarks", "position", "made_from"]
PROBES = ["run", "backbone", "method", "seed", "protocol_hash", *NAMES, *NUMBERS]
"""The columns of probes.csv: those of each run's probe.csv, and `protocol_hash` of each of its benchmarks."""
_FILES = ("generations.jsonl", "judgements.jsonl")


def made_from(evaluations: Iterable[Evaluation]) -> str:
    """A hash of the texts and deciding verdicts of these benchmarks, by which a probe of others is recognised."""
    parts = [
        [evaluation.benchmark, evaluation.decider, *map(evaluation.metrics_json["made_from"].get, _FILES)]
        for evaluation in evaluations
    ]
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()[:16]


def probes(variants: Sequence[Variant]) -> pd.DataFrame:
    """The probes of all runs. One of other texts or verdicts than the run's, or a damaged one, is named in the log."""
    frames = []
    for variant in variants:
        for seed, folder in variant.folders.items():
            if not (folder / FILE).is_file():
                continue
            try:
                frame = read_csv(folder / FILE)
                frame = frame[NAMES + NUMBERS].astype(dict.fromkeys(NUMBERS, float) | dict.fromkeys(NAMES, str))
                if frame[["layer", "layers"]].isna().any(axis=None):
                    raise ValueError("a row has no layer")
                (names,) = frame.benchmarks.unique()
                by_protocol = defaultdict[str, list[Evaluation]](list)
                for (protocol, benchmark, _), seeds in variant.evaluations.items():
                    if seed in seeds and benchmark in names.split():
                        by_protocol[protocol].append(seeds[seed])
                whole = [judged for judged in by_protocol.values() if len(judged) == len(names.split())]
                probed = next((judged for judged in whole if {*frame.made_from} == {made_from(judged)}), [])
                if not probed:
                    raise ValueError("it is of other texts or verdicts than the run's; run alttrain-probe again")
            except (OSError, ValueError, LookupError, TypeError) as error:
                log.warning("report    left out %s: %s", folder / FILE, error)
                continue
            hashes = " ".join(evaluation.provenance["protocol_hash"] for evaluation in probed)
            known = {"run": probed[0].run, "backbone": variant.backbone, "method": variant.name, "seed": seed}
            frames.append(frame.assign(**known, protocol_hash=hashes))
    return pd.concat(frames, ignore_index=True)[PROBES] if frames else pd.DataFrame(columns=PROBES)


def draw_probes(frame: pd.DataFrame, path: Path) -> bool:
    """Draw the AUROC by position: a panel for each layer, a line for each run of one backbone.

    `frame` has the probes of one backbone on the same benchmarks, made in the same way. Dotted lines are the 95th
    percentile with permuted labels, dashed ones the AUROC of the prompt's label alone.
    """
    if frame.auroc.isna().all():
        return False
    runs, positions = list(frame.run.unique()), list(frame.position.unique())
    layers = list(frame.groupby("layer", sort=False))
    title = f"Probes of {frame.backbone.iloc[0]} on {frame.benchmarks.iloc[0].replace(' ', ', ')}, 95 % intervals"
    title += "\ndotted: 95th percentile with permuted labels; dashed: the prompt's label alone"
    size = 1 + 2.2 * len(layers), 2.8 + 0.15 * len(runs)
    with figure(*size, path, title, len(layers), sharey=True) as (fig, panels):
        for axes, (layer, rows) in zip(panels, layers, strict=True):
            for number, run in enumerate(runs):
                of_run = rows[rows.run == run]
                xs = [positions.index(position) + 0.08 * (number - (len(runs) - 1) / 2) for position in of_run.position]
                colour, marker = look(number)
                arms = [(of_run.auroc - of_run.low).clip(lower=0), (of_run.high - of_run.auroc).clip(lower=0)]
                axes.errorbar(xs, of_run.auroc, arms, color=colour, marker=marker, markersize=3, capsize=2, label=run)
                for reference, dashes in ((of_run.permuted_95, ":"), (of_run.by_label, "--")):
                    axes.plot(xs, reference, color=colour, linestyle=dashes, linewidth=0.9)
            axes.set_xticks(range(len(positions)), positions, rotation=20)
            axes.set_ylim(-0.03, 1.03)
            describe(axes, f"layer {layer:g} of {rows.layers.iloc[0]:g}", "", "both")
        panels[0].set_ylabel("AUROC of refusals")
        handles, labels = panels[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left")
    return True
