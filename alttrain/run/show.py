"""The console script `alttrain-show`: look at what a run trains on.

    alttrain-show RUN_FOLDER --batch [STEP]   one batch as the model sees it, with supervised tokens marked
    alttrain-show RUN_FOLDER --row ID         a row's original thought and the rewritten one

It reads the run's config.yaml, train.jsonl and, for a row, originals.jsonl (the examples before the rewrite). On a
terminal, supervised text is green and the rest is dim; elsewhere, [[ and ]] enclose it. Runs with classes of your own
need `trusted=[mypackage]` here too.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.text import Text

from alttrain.config.trust import take_trusted
from alttrain.records import Example, iterate_rows, read_rows
from alttrain.rewrite import render
from alttrain.run import console_script
from alttrain.run.progress import print_texts
from alttrain.run.status import config_file
from alttrain.tokenization import IGNORED, Renderer, Sequence

MARKS = ("[[", "]]")
UNKNOWN = "origin unknown"


@console_script()
def main() -> None:
    """Entry point of the console script. Exit codes: 0 shown, 2 refused, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="alttrain-show", description="Look at what a run trains on.")
    parser.add_argument("run", type=Path, help="a run's folder, such as outputs/runs/NAME")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--batch", type=int, nargs="?", const=0, metavar="STEP", help="the batch of a step (default 0)")
    choice.add_argument("--row", metavar="ID", help="a row's original thought against the rewritten one")
    console = Console(soft_wrap=True, highlight=False)
    arguments = parser.parse_args(take_trusted(sys.argv[1:]))
    run, row, step = arguments.run, arguments.row, arguments.batch
    print_texts(console, show_row(run, row) if step is None else show_batch(run, step, console.is_terminal))


def show_batch(run: Path, step: int, styled: bool) -> Iterator[Text]:
    """Yield the examples of one step's batch, in the order they were drawn."""
    from alttrain.backbone import resolve
    from alttrain.backbone.source import offline_tokenizer
    from alttrain.backbone.weights import load_tokenizer
    from alttrain.run.ask import run_of
    from alttrain.training import SupervisedFineTuning
    from alttrain.training.batches import BatchStream

    loaded, examples = run_of(run), read_rows(_present(run / "train.jsonl"), Example)
    backbone, training = loaded.backbone, cast(SupervisedFineTuning, loaded.training)  # or there is no train.jsonl
    renderer = Renderer(backbone, load_tokenizer(offline_tokenizer(backbone) or resolve(backbone).folder))
    sequences, too_long = renderer.sequences(examples, training.max_length)
    stream = BatchStream(sequences, training, loaded.seed)
    if not 0 <= step < len(stream):
        raise ValueError(f"--batch {step}: this run has steps 0 to {len(stream) - 1}")
    batch = [sequences[index] for index in stream.members(step)]
    tokens = sum(map(len, batch))
    left_out = f"; {len(too_long)} rows of the run are left out as too long" if too_long else ""
    yield Text(f"step {step} of {len(stream)}: {len(batch)} examples, {tokens} tokens{left_out}", style="bold")
    for sequence in batch:
        supervised = sum(label != IGNORED for label in sequence.labels)
        yield Text(f"\n{sequence.id}: {len(sequence)} tokens, {supervised} supervised", style="bold")
        yield mark_supervised(sequence, renderer, styled)


def mark_supervised(sequence: Sequence, renderer: Renderer, styled: bool) -> Text:
    """Return the text of a sequence with special tokens, and with each span of supervised tokens marked."""
    text = Text()
    pairs = zip(sequence.ids, sequence.labels, strict=True)
    for supervised, tokens in itertools.groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        part = renderer.tokenizer.decode([token for token, _ in tokens], skip_special_tokens=False)
        before, after = MARKS if supervised and not styled else ("", "")
        text.append(before + part + after, style="green" if supervised else "dim")
    return text


def show_row(run: Path, name: str) -> Iterator[Text]:
    """Yield a row's old thought, and its new thought by segment with the origin of each."""
    new, old = _row(run / "train.jsonl", name), _row(run / "originals.jsonl", name)
    if new is None:
        raise ValueError(f"{run / 'train.jsonl'} has no row with id {name!r}")
    old_thought = render(old.thought) if old else ""
    yield Text(f"{new.id}: {new.label}, {new.category or 'no category'}, {new.source or 'no named source'}", "bold")
    yield Text(new.prompt, style="dim")
    if old and old_thought:
        yield Text(f"\nold thought, {len(old_thought)} characters, {old.thought[0].origin or UNKNOWN}", style="bold")
        yield Text(old_thought)
    else:
        yield Text("\nno old thought: the row had no trace before the rewrite", style="bold")
    yield Text(f"\nnew thought, {len(render(new.thought))} characters", style="bold")
    for segment in new.thought:
        prompt_note = f", prompt {segment.prompt_hash}" if segment.prompt_hash else ""
        yield Text(f"[{segment.step}: {segment.origin or UNKNOWN}{prompt_note}]", style="cyan")
        yield Text(segment.text, style="" if segment.text in old_thought else "green")
    unchanged = old is not None and new.answer == old.answer
    if old and old.answer:
        yield Text("\nold answer" + (", kept" if unchanged else ""), style="bold")
        yield Text(old.answer)
    if not unchanged:
        yield Text("\nnew answer", style="bold")
        none = f"none: the {'thought goes on by itself' if new.partial else 'turn ends with the thought'}"
        yield Text(new.answer or none)


def _row(path: Path, name: str) -> Example | None:
    return next((row for row in iterate_rows(_present(path), Example) if row.id == name), None)


def _present(path: Path) -> Path:
    config_file(path.parent)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; run the rewrite stage first, or choose a run that trains")
    return path
