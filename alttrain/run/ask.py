"""Ask a run's model: the console script `alttrain-ask`, and `alttrain.load` in a notebook.

    alttrain-ask RUN_FOLDER "a prompt" ["another" ...]

It prints the thought with its steps named, then the answer. Decoding is the protocol's, with its limit on new tokens.
On a terminal, a bar counts the answers. Runs with classes of your own need `trusted=[mypackage]` in front. What an
untrained backbone answers is cached in the cache folder, as it is for runs.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from alttrain.config import RunError, name_fault, register
from alttrain.config.trust import take_trusted
from alttrain.dataset import embedded_rows
from alttrain.evaluation import Benchmark, RefusalJudge
from alttrain.llm import Failure
from alttrain.records import DamagedError, Example, Generation, RunDocument, Segment, Step, json_or_none, read_utf8
from alttrain.rewrite import parse
from alttrain.run import console_script
from alttrain.run.asking import NO_ROOM, Chunk
from alttrain.run.assembly import Run, assemble
from alttrain.run.folder import refuse_links
from alttrain.run.progress import bar, print_texts
from alttrain.run.session import Session
from alttrain.run.stages.generate import check_trained
from alttrain.run.status import config_file

COLOURS: dict[Step, str] = {"understanding": "blue", "assessment": "magenta", "refusal": "red", "reasoning": "green"}


@dataclass(frozen=True)
class Answer:
    """A model's response to a prompt.

    `steps` are the thought's segments as the offline parser reads them. `closed` says whether the thought ended, and
    `cut` whether the response reached the limit on new tokens.
    """

    prompt: str
    thought: str
    answer: str
    steps: tuple[Segment, ...]
    closed: bool
    cut: bool


class RunModel:
    """The model of a run: the backbone with what the run trained."""

    def __init__(self, run: Run) -> None:
        self.run, self._session = run, Session(run)
        self._trained = run.trained_folder if run.training.trains else None
        if self._trained is not None:
            check_trained(run)

    def ask(self, prompts: str | Sequence[str]) -> list[Answer]:
        """Answer each prompt once, with the system prompt and decoding that the run evaluates with.

        The prompt takes the form that the run's structure gives it. Raises ValueError if a prompt does not fit the
        context, or an engine fails.
        """
        if not (prompts := [prompts] if isinstance(prompts, str) else list(prompts)):
            return []
        run = self.run
        decoding = replace(run.protocol.decoding, samples=1)
        # the models that the session has loaded stay loaded; only its run's protocol is another
        self._session.run = replace(run, protocol=replace(run.protocol, decoding=decoding, settings={}))
        rows, judge = embedded_rows("harmful"), RefusalJudge()  # which a benchmark needs, and asking does not look at
        benchmark = Benchmark("asked", "harm", "harmful_rate", rows, judge)
        chunk = [(benchmark, Example(f"asked-{number}", prompt, "benign"), 0) for number, prompt in enumerate(prompts)]
        generations = dict[int, Generation]()
        with (
            bar(f"answers of at most {decoding.max_new_tokens} tokens", len(prompts)) as advance,
            self._session.engine(self._trained, run.protocol.quantization) as engine,
        ):
            for number, generation in Chunk(self._session, engine, chunk, {benchmark.name: None}).answers(advance):
                if isinstance(generation, Failure) or generation.error:
                    reason = generation.reason if isinstance(generation, Failure) else generation.error
                    room = f", {run.backbone.context_length} tokens; shorten it"
                    raise ValueError(f"no answer: {reason}{room if reason == NO_ROOM else ''}")
                generations[number] = generation
        return [
            Answer(one.prompt, one.thought.strip(), one.answer.strip(), parse(one.thought), one.closed, one.truncated)
            for one in (generations[number] for number in range(len(prompts)))
        ]


def load(run: str | Path) -> RunModel:
    """Load the model of a run's folder, such as "outputs/runs/NAME", to ask it prompts.

    Weights load with the first question. Raises what `run_of` does, RunError for a link out of the folder, where a log
    could be written, and FileNotFoundError if nothing is trained yet.
    """
    described = run_of(Path(run))
    refuse_links(described.folder)
    return RunModel(described)


def run_of(folder: Path) -> Run:
    """Return the run that a folder's config.yaml describes, in the folder's present location.

    Raises FileNotFoundError if it is no run's folder, and DamagedError or RunError for a config that may not be built.
    """
    path = config_file(folder)
    register()
    try:
        config: Any = OmegaConf.create(read_utf8(path))
        config.output_dir = str(folder.resolve().parent.parent)
        run = assemble(config)
        named = json_or_none(folder / "run.json", RunDocument)  # where a user's own options were known
        name = named["run"] if named else run.name
        if fault := name_fault(name):  # it is part of the path of a server's log
            raise DamagedError(folder / "run.json", f"run={name!r}: {fault}", remedy="put the name right")
        return replace(run, folder=folder.resolve(), name=name)
    except (RunError, DamagedError, OSError):
        raise
    except Exception as error:  # what is no config of ours may raise anything
        raise DamagedError(path, f"is not the config of a run: {type(error).__name__}: {error}") from error


def styled_answer(answer: Answer) -> Iterator[Text]:
    """Yield a response as text for the console, with the name of each step before it."""
    yield Text(answer.prompt, style="dim")
    for segment in answer.steps:
        yield Text(f"[{segment.step}]", style=COLOURS.get(segment.step, "cyan"))
        yield Text(segment.text)
    if not answer.closed:
        yield Text("[the thought does not end]" if answer.thought else "[no thought]", style="yellow")
    yield Text("[answer]", style="bold")
    yield Text(answer.answer + (" [cut at the limit]" if answer.cut else ""))


@console_script()
def main() -> None:
    """Entry point of the console script. Exit codes: 0 answered, 2 refused, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="alttrain-ask", description="Ask a run's model.")
    parser.add_argument("run", type=Path, help="a run's folder, such as outputs/runs/NAME")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    console = Console(soft_wrap=True, highlight=False)
    words = sys.argv[1:]
    trusting = list(itertools.takewhile(lambda word: word.startswith("trusted="), words))
    take_trusted(trusting)  # only these: a prompt may begin with "trusted=" too
    arguments = parser.parse_args(words[len(trusting) :])
    for answer in load(arguments.run).ask(arguments.prompts):
        print_texts(console, styled_answer(answer))


if __name__ == "__main__":
    main()
