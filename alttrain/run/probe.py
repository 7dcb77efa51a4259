"""Where in the thought a run's model decides to refuse: the console script `alttrain-probe`.

    alttrain-probe RUN_FOLDER [--benchmark NAME ...] [--permutations N] [--out FILE]

It reads the generations of the run's harmful and harmless benchmarks and the deciding judge's verdicts, and passes each
prompt with its thought through the run's model once. Hidden states are kept at the last token of the prompt (`start`),
of the understanding, of the assessment and of the thought (`end`), after three layers. For each, a linear probe
(`alttrain.evaluation.probing`) predicts whether the text refuses. docs/probe.md says how to read the result. Runs with
classes of your own need `trusted=[mypackage]` in front.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from alttrain.backbone import Rendered
from alttrain.config.trust import take_trusted
from alttrain.evaluation import Benchmark
from alttrain.evaluation.interventions import Part, step_of
from alttrain.evaluation.probing import FEWEST, auroc_by, probe
from alttrain.generation import InProcess
from alttrain.records import Example, Generation, RunDocument, read_document, read_metrics, subject_of
from alttrain.report.estimates import SAFETY
from alttrain.report.evaluation import Evaluation
from alttrain.report.probes import FILE, made_from
from alttrain.report.results import write_csv
from alttrain.run import console_script
from alttrain.run.ask import load
from alttrain.run.asking import prompt_text
from alttrain.run.assembly import Run
from alttrain.run.folder import check_belongs, evaluation_folder
from alttrain.run.progress import bar, print_whole
from alttrain.run.session import Session

STEPS: tuple[Part, ...] = ("understanding", "assessment")
POSITIONS = ("start", *STEPS, "end")
SHARES = (1 / 3, 2 / 3, 1)
"""Which layers are probed, as shares of the depth. They were chosen before any result was seen."""


@dataclass(frozen=True)
class Text:
    """A prompt and its thought, as tokens up to the last probed position."""

    ids: list[int]
    places: tuple[int | None, ...]  # the index of each position's token in `ids`; None if the thought lacks it
    refuses: bool | None  # None if the judge is undecided
    harmful: bool
    prompt: str  # what the user is after (`subject_of`), by which folds are made
    truncated: bool


@console_script()
def main() -> None:
    """Entry point of the console script. Exit codes: 0 probed, 2 refused, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="alttrain-probe", description="Where in the thought does a model decide?")
    parser.add_argument("run", type=Path, help="a run's folder, such as outputs/runs/NAME")
    parser.add_argument("--benchmark", nargs="+", default=[], help="default: all harmful and harmless ones of the run")
    parser.add_argument("--permutations", type=int, default=100, help="of the labels, for the baseline (default 100)")
    parser.add_argument("--out", type=Path, help="the file (default: probe.csv in the run's folder)")
    arguments = parser.parse_args(take_trusted(sys.argv[1:]))
    out = arguments.out or arguments.run / FILE
    table = probe_run(arguments.run, arguments.benchmark, arguments.permutations, out)
    print_whole(result_table(table))
    if table.auroc.isna().any():
        print(f"–: fewer than {FEWEST} prompts of a class")
    print(f"{out}: {len(table)} probes")


def probe_run(folder: Path, names: Sequence[str], permutations: int, out: Path) -> pd.DataFrame:
    """Probe a run, write the table to `out` and return it: a row for each layer and position.

    `names` are the benchmarks to take the texts from; all if empty. Raises ValueError or FileNotFoundError for a run
    without judged texts.
    """
    if find_spec("sklearn") is None:
        raise ValueError("a probe needs scikit-learn: pip install 'alttrain[probe]'")
    if permutations < 0:
        raise ValueError(f"--permutations {permutations}: accepted: 0 or more")
    run = load(folder).run
    if not isinstance(run.generation, InProcess):
        dtype: Any = run.generation.dtype or "auto"
        run = replace(run, generation=InProcess(dtype=dtype))
    benchmarks, session = _benchmarks(run, names), Session(run)
    judged = [(benchmark, _evaluation(run, benchmark)) for benchmark in benchmarks]
    texts = [text for pair in judged for text in _texts(run, session.renderer, *pair)]
    benchmark_names = " ".join(benchmark.name for benchmark in benchmarks)
    if not texts:
        raise ValueError(f"{folder}: {benchmark_names}: no generations to probe")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=out.parent) as states_folder:
        trained = run.trained_folder if run.training.trains else None
        with session.engine(trained, run.protocol.quantization) as engine:
            decoder: Any = (engine if trained else engine.engine).decoder  # type: ignore[attr-defined, union-attr]
            depth = decoder.model.config.get_text_config().num_hidden_layers
            layers = sorted({max(1, round(share * depth)) for share in SHARES})
            states = read_states(decoder, texts, layers, Path(states_folder) / "states.npy")
        described = {"run": run.name, "benchmarks": benchmark_names, "layers": depth}
        described["made_from"] = made_from(evaluation for _, evaluation in judged)
        rows = []
        with bar("probes", len(layers) * len(POSITIONS)) as advance:
            for row in _rows(texts, layers, states, permutations):
                rows.append(described | row)
                advance(1)
        del states
    table = pd.DataFrame(rows)
    write_csv(out, table)
    return table


def _benchmarks(run: Run, names: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of these names. Those under interventions are left out: the model wrote only a part."""
    fitting = {benchmark.name: benchmark for benchmark in run.benchmarks if benchmark.measure in SAFETY}
    if not fitting:
        raise ValueError(f"{run.folder}: its config.yaml has no benchmark whose judge tells refusals from answers")
    for name in names:
        if name not in fitting:
            raise ValueError(f"--benchmark {name}: accepted: {', '.join(fitting)}")
    chosen = [fitting[name] for name in dict.fromkeys(names or fitting)]
    check_belongs(replace(run, benchmarks=tuple(chosen), intervened_benchmarks=()))
    return chosen


def _evaluation(run: Run, benchmark: Benchmark) -> Evaluation:
    """Return what the judge stage wrote of a benchmark. Raises FileNotFoundError if it was not judged."""
    folder = evaluation_folder(run, benchmark)
    path = folder / "metrics.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; run the judge stage first")
    return Evaluation(read_document(run.folder / "run.json", RunDocument), folder, read_metrics(path))


def _texts(run: Run, renderer: Any, benchmark: Benchmark, evaluation: Evaluation) -> Iterator[Text]:
    texts = evaluation.texts()
    for row in evaluation.generations():
        if row.finish != "error":
            refused = texts[row.id, row.sample].refused
            ids, places = locate_positions(run, renderer, benchmark, row)
            yield Text(ids, places, refused, row.label == "harmful", subject_of(row), row.truncated)


def locate_positions(
    run: Run, renderer: Any, benchmark: Benchmark, row: Generation
) -> tuple[list[int], tuple[int | None, ...]]:
    """Return the ids of a prompt and its thought up to the last position, and the index of each position's token.

    A step's token is the one with the step's last character. Prompt and response are tokenized separately, as for
    generation. The response is tokenized as a whole, since a step's last token depends on what follows.
    """
    example = Example(row.id, row.prompt, row.label, turns=row.turns)
    prompt = renderer.encode(prompt_text(run, renderer, benchmark, example, row.earlier))
    places: list[int | None] = [len(prompt) - 1, None, None, None]
    if not row.thought:
        return prompt, tuple(places)
    template, text = run.backbone.template, row.text
    opening, close = template.think_open.strip(), template.think_close.strip()
    body_start = text.index(opening) + len(opening) if text.lstrip().startswith(opening) else 0
    start = text.index(row.thought, body_start)
    end = text.index(close, start + len(row.thought)) if row.closed else len(text)
    pieces = Rendered(text[:body_start], text[body_start:end], text[end : end + len(close)], text[end + len(close) :])
    spans = {number: step_of(row.thought, part) for number, part in enumerate(STEPS, 1)}
    ends = {number: span[2] for number, span in spans.items() if span}
    if row.closed:
        ends[3] = len(row.thought)
    ids, indices = renderer.locate(pieces, [start - body_start + index for index in ends.values()])
    for number, index in zip(ends, indices, strict=True):
        places[number] = len(prompt) + index
    return (prompt + ids)[: max(index for index in places if index is not None) + 1], tuple(places)


def read_states(decoder: Any, texts: Sequence[Text], layers: Sequence[int], path: Path) -> NDArray[np.float32]:
    """Return the states after `layers` (1 is the first) at each text's positions: (positions, layers, texts, size).

    They are in float32, in the file `path`. Where a text lacks a position they are 0. One group of texts at a time is
    in memory, and of its states only those at the positions.
    """
    import torch

    from alttrain.generation.scorer import group_by_tokens

    config = decoder.model.config.get_text_config()
    lists = (module for module in decoder.model.modules() if isinstance(module, torch.nn.ModuleList))
    blocks = next(module for module in lists if len(module) == config.num_hidden_layers)
    shape = len(POSITIONS), len(layers), len(texts), config.hidden_size
    states = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    token_indices, layer_states = list[int](), dict[int, Any]()

    def keep(number: int, block: Any, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        layer_states[number] = hidden[0, token_indices].float().cpu().numpy()

    hooks = [blocks[layer - 1].register_forward_hook(partial(keep, number)) for number, layer in enumerate(layers)]
    try:
        with torch.inference_mode(), bar("states", len(texts)) as advance:
            for group in group_by_tokens([text.ids for text in texts]):
                starts = itertools.accumulate((len(texts[number].ids) for number in group), initial=0)
                present = [
                    (position, number, start + place)
                    for number, start in zip(group, starts, strict=False)
                    for position, place in enumerate(texts[number].places)
                    if place is not None
                ]
                positions, numbers, token_indices[:] = map(list, zip(*present, strict=True))
                decoder.prefill([texts[number].ids for number in group])
                for layer, values in layer_states.items():
                    states[positions, layer, numbers] = values
                advance(len(group))
    finally:
        for hook in hooks:
            hook.remove()
    return states


def _rows(
    texts: Sequence[Text], layers: Sequence[int], states: NDArray[np.float32], permutations: int
) -> Iterator[dict[str, Any]]:
    for number, layer in enumerate(layers):
        for place, position in enumerate(POSITIONS):
            present = [index for index, text in enumerate(texts) if text.places[place] is not None]
            decided = [index for index in present if texts[index].refuses is not None]
            probed = [texts[index] for index in decided]
            labels = [bool(text.refuses) for text in probed]
            prompts = [text.prompt for text in probed]
            result = probe(states[place, number, decided], labels, prompts, permutations)
            by_label = auroc_by([text.harmful for text in probed], labels, prompts)
            yield {
                "layer": layer,
                "position": position,
                "n": len(probed),
                "positives": sum(labels),
                "left_out": len(texts) - len(present),
                "undecided": len(present) - len(probed),
                "truncated": sum(text.truncated for text in probed),
                **dict(zip(("auroc", "low", "high"), result.auroc, strict=True)),
                "permuted_mean": result.mean,
                "permuted_95": result.high,
                "p": result.p,
                "permutations": permutations,
                "by_label": by_label,
            }


def result_table(table: pd.DataFrame) -> Table:
    """Return the table for the console."""
    console_table = Table(title=f"{table.run[0]}: {table.benchmarks[0]}")
    names = ("layer", "position", "n", "positives", "left out", "undecided", "AUROC", "permuted", "by label")
    for name in names:
        console_table.add_column(name, justify="left" if name == "position" else "right")
    for row in table.itertuples():
        permuted = f"{row.permuted_mean:.2f}, 95 %: {row.permuted_95:.2f}"
        cells = [f"{row.layer} of {row.layers}", row.position, row.n, row.positives, row.left_out]
        cells += [row.undecided, f"{row.auroc:.2f} ({row.low:.2f}–{row.high:.2f})", permuted, f"{row.by_label:.2f}"]
        console_table.add_row(*("–" if "nan" in str(cell) else str(cell) for cell in cells))
    return console_table
