"""Stage check: what can be known to fail is told before any weights load. Writes nothing itself.

`check_light` runs always and first: data files, rows, the backbone's folder. The stage proper tokenises every prompt
and refuses those that the context cannot hold.
"""

from pathlib import Path

from alttrain.backbone.source import is_path
from alttrain.config import RunError
from alttrain.records import Example
from alttrain.run.assembly import Run
from alttrain.run.folder import check_belongs, check_writable
from alttrain.run.session import Session


def check_light(run: Run) -> None:
    """Read every data file, look at the backbone's folder and the output folder. Raises RunError or ValueError."""
    check_writable(run.output_dir)
    run.dataset.examples(run.seed)
    for benchmark in run.benchmarks:
        benchmark.rows.examples(None)
    source = run.backbone.source
    if is_path(source) and not Path(source).expanduser().is_dir():
        raise RunError(
            f"backbone.source={source}: no such folder; give a model folder or a hub id such as Qwen/Qwen3-0.6B"
        )
    check_belongs(run)


def check(run: Run, session: Session) -> None:
    """Every prompt fits the context, with room for what the run wants written after it."""
    cap = run.generation.max_new_tokens
    for benchmark in run.benchmarks:
        _fits(
            run, session, f"benchmark {benchmark.name}", benchmark.rows.examples(None), cap, "generation.max_new_tokens"
        )
    if run.training.trains:
        _fits(run, session, "dataset", run.dataset.examples(run.seed), 1, "one token of response")


def _fits(run: Run, session: Session, where: str, rows: list[Example], room: int, room_name: str) -> None:
    limit = run.backbone.context_length
    for row in rows:
        tokens = len(session.renderer.prompt(row.prompt, run.training.thought))
        if tokens + room > limit:
            raise RunError(
                f"{where}, row {row.id} ({row.source}): the prompt has {tokens} tokens, and with {room} more "
                f"({room_name}) it passes backbone.context_length={limit}; shorten or leave out the row"
            )
