"""What the cuts of a run's thoughts cost, answered together and cut by cut, and whether the answers are the same.

    OMP_NUM_THREADS=1 python scripts/bench_cuts.py outputs/runs/NAME --prompts 100

It needs a trained run that has generated, and takes its own responses to one benchmark. Each contestant computes
answers with the run's decoder and settings:

- whole run   thought and answer
- together    the answers to all cuts (`intervention=cut`), as the generate stage asks for them
- one by one  the answers to each cut in calls of its own, so that no two cuts of a thought share anything

"prefilled" and "decoded" are the tokens that the model computed. Seconds are the processor's for this process, so that
others on the machine change them little.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import machine, report

from alttrain import records
from alttrain.evaluation import Benchmark
from alttrain.evaluation.interventions import Cut, InterventionContext
from alttrain.generation import InProcess
from alttrain.generation.engine import ignore_progress
from alttrain.records import Generation
from alttrain.run.ask import load
from alttrain.run.asking import BeginningRow, BenchmarkSample, Chunk, PreparedIntervention, thought_mode
from alttrain.run.folder import evaluation_folder
from alttrain.run.session import Session

POINTS = range(0, 101, 10)


class Contest:
    """Answers prompts with one engine, and counts what that costs."""

    def __init__(self, session: Session, engine: Any, begun: dict[str, PreparedIntervention | None]) -> None:
        self.session, self.engine, self.begun = session, engine, begun
        self.forward = engine.decoder.forward
        engine.decoder.forward = self.counted
        self.prefilled = self.decoded = 0

    def counted(self, ids: list[int], positions: list[int], packed: Any, *keep: Any) -> Any:
        """Run the decoder's `forward`, and count its tokens."""
        if packed.positions is None:
            self.prefilled += len(ids)
        else:
            self.decoded += len(ids)
        return self.forward(ids, positions, packed, *keep)

    def answers(
        self, name: str, calls: Sequence[Sequence[BenchmarkSample]]
    ) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
        """Return a row of the table, and the texts by benchmark, prompt and sample."""
        self.prefilled = self.decoded = 0
        began, texts = time.process_time(), dict[tuple[str, ...], str]()
        for due in calls:
            for number, found in Chunk(self.session, self.engine, due, self.begun).answers(ignore_progress):
                assert isinstance(found, Generation)
                texts[due[number][0].name, found.id, str(found.sample)] = found.text
            print(f"{name}: {len(texts)} answers, {time.process_time() - began:.0f} s", flush=True)
        row = {"": name, "answers": len(texts), "prefilled": self.prefilled, "decoded": self.decoded}
        return row | {"seconds": round(time.process_time() - began, 1)}, texts


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--benchmark", default="embedded_harmful")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--chunk", type=int, help="prompts per call (default: the run's)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    asked = parser.parse_args()
    run = load(asked.run).run
    if not isinstance(run.generation, InProcess):
        run = replace(run, generation=InProcess())
    chunk, session = asked.chunk or run.generation.chunk, Session(run)
    benchmark = next((one for one in run.benchmarks if one.name == asked.benchmark), None)
    if benchmark is None or not run.training.trains:
        names = ", ".join(one.name for one in run.benchmarks)
        parser.error(f"--benchmark {asked.benchmark}: accepted: {names}, of a run that trained")
    own = {
        (row.id, row.sample): row
        for row in records.iterate_rows(evaluation_folder(run, benchmark) / "generations.jsonl", Generation)
    }
    context = InterventionContext(run.backbone.template, thought_mode(run, benchmark), own)
    begun: dict[str, PreparedIntervention | None] = {benchmark.name: None}
    cuts = list[list[BenchmarkSample]]()
    for point in POINTS:
        cut = Cut(share=point / 100)
        under: Benchmark = benchmark.with_intervention(f"cut_{point}", cut)
        made = {}
        for row in benchmark.examples[: asked.prompts]:
            if beginning := cut.begin(row, own[row.id, 0], context):
                made[row.id, 0] = BeginningRow(**vars(beginning), id=row.id, message=benchmark.message(row))
        begun[under.name] = PreparedIntervention(cut, context, made)
        cuts.append([(under, row, 0) for row in benchmark.examples if (row.id, 0) in made])
    whole: list[BenchmarkSample] = [(benchmark, row, 0) for _, row, _ in cuts[0]]
    mixed = [due for several in zip(*cuts, strict=True) for due in several]
    with session.engine(run.trained_folder, run.protocol.quantization) as engine:
        contest = Contest(session, engine, begun)
        first, _ = contest.answers("whole run", _calls(whole, chunk))
        second, together = contest.answers("together", _calls(mixed, chunk))
        third, alone = contest.answers("one by one", [call for cut in cuts for call in _calls(cut, chunk)])
    rows = [first, second, third]
    for row in rows:
        row["x whole run"] = f"{row['seconds'] / first['seconds']:.1f}"
    same = sum(together[name] == text for name, text in alone.items())
    about = machine("cpu") | {"run": run.name, "prompts": len(whole), "chunk": chunk, "slots": run.generation.slots}
    about |= {"dtype": str(session.dtype(run.generation.dtype or "auto")), "same answers": f"{same} of {len(alone)}"}
    report(f"cuts at {len(POINTS)} points, {benchmark.name}", rows, about, asked.json)


def _calls(due: list[BenchmarkSample], chunk: int) -> list[list[BenchmarkSample]]:
    return [due[start : start + chunk] for start in range(0, len(due), chunk)]


if __name__ == "__main__":
    main()
