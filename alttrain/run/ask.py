"""Ask a run's model: the console script `alttrain-ask`, and `alttrain.load` in a notebook.

    alttrain-ask RUN_FOLDER "a prompt" ["another" ...] [--system TEXT] [--tokens N] [--untrained]

It prints the thought with its steps named, then the answer. Decoding is the protocol's, with its limit on new tokens
unless N is given. On a terminal, a bar counts the answers. Runs with classes of your own need `trusted=[mypackage]` in
front. What the untrained backbone answers is cached in the output folder, as it is for runs.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from alttrain.config import RunError, register
from alttrain.config.trust import take_trusted
from alttrain.generation.engine import Prompt, Written
from alttrain.llm import Failure
from alttrain.records import DamagedError, Segment, Step, read_utf8
from alttrain.rewrite import parse
from alttrain.run import interruptible
from alttrain.run.assembly import Run, assemble
from alttrain.run.progress import bar
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
    """The model of a run: the backbone with what the run trained, or with `untrained` the backbone as it is."""

    def __init__(self, run: Run, untrained: bool = False) -> None:
        self.run, self._session = run, Session(run)
        self._trained = None if untrained or not run.training.trains else run.trained
        self._thought = run.training.thought if self._trained else run.backbone.untrained_thought
        if self._trained is not None:
            check_trained(run)

    def ask(self, prompts: str | Sequence[str], system: str | None = None, tokens: int | None = None) -> list[Answer]:
        """Answer each prompt once, with at most `tokens` new tokens; None is the protocol's limit.

        The prompt takes the form that the run's structure gives it. `system` replaces the system prompt that the run
        evaluates with; "" leaves it out. Raises ValueError if a prompt does not fit the context, or an engine fails.
        """
        if tokens is not None and tokens < 1:
            raise ValueError(f"tokens={tokens}: accepted: 1 or more")
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        run, renderer, template = self.run, self._session.renderer, self.run.backbone.template
        own = (run.structure.system, run.method.evaluation_prompt, run.protocol.system_prompt)
        system = next((one for one in (system, *own) if one is not None), None)
        decoding = replace(run.protocol.decoding, samples=1)
        decoding = decoding if tokens is None else replace(decoding, max_new_tokens=tokens)
        context, most = run.backbone.context_length, decoding.max_new_tokens
        cut_at = decoding.cut_at(context)
        turns = [(*run.structure.turns_before(prompt), run.structure.prompt(prompt)) for prompt in prompts]
        earlier: list[tuple[str, ...]] = [() for _ in prompts]
        found: list[Written] = []
        rounds = max(map(len, turns), default=0)
        with (
            bar(f"answers of at most {most} tokens", rounds * len(prompts)) as advance,
            self._session.engine(self._trained, run.protocol.quantization) as engine,
        ):
            for at in range(rounds):
                asked = []
                for number, (said, answers) in enumerate(zip(turns, earlier, strict=True)):
                    text = renderer.prompt_text(
                        said[at], self._thought, system=system, turns=said[:at], answers=answers
                    )
                    ids = renderer.encode(text)
                    cap = None if cut_at is None else max(1, cut_at - len(ids))
                    asked.append(Prompt(ids, text, f"asked-{number}@{at}", cap))
                    if (length := len(ids) + (room := asked[-1].most(decoding))) > context:
                        raise ValueError(
                            f"the prompt and {room} new tokens are {length} tokens, and backbone.context_length="
                            f"{context}; shorten it, or ask for fewer tokens"
                        )
                written = dict(engine.generate(asked, decoding, advance))
                found = [one for number in range(len(asked)) if isinstance(one := written.get(number), Written)]
                if len(found) < len(asked):
                    reasons = [one.reason for one in written.values() if isinstance(one, Failure)]
                    raise ValueError(f"no answer: {reasons[0] if reasons else 'the engine gave none'}")
                earlier = [
                    (*answers, template.history(one.text, self._thought))
                    for answers, one in zip(earlier, found, strict=True)
                ]
        read = []
        for prompt, one in zip(prompts, found, strict=True):
            thought, answer, closed = template.split(one.text, self._thought)
            read.append(Answer(prompt, thought.strip(), answer.strip(), parse(thought), closed, one.finish == "length"))
        return read


def load(run: str | Path, untrained: bool = False) -> RunModel:
    """Load the model of a run's folder, such as "outputs/runs/NAME", to ask it prompts.

    Weights load with the first question. Raises FileNotFoundError if it is no run's folder or has no trained weights,
    and RunError for a config that may not be built.
    """
    path = config_file(Path(run))
    try:
        config = OmegaConf.create(read_utf8(path))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise DamagedError(path, f"is not the config of a run: {error}") from error
    if not isinstance(config, DictConfig):
        raise DamagedError(path, "is not the config of a run")
    register()
    config.output_dir = str(Path(run).resolve().parent.parent)
    return RunModel(replace(assemble(config), folder=Path(run).resolve()), untrained)


def shown(answer: Answer) -> Iterator[Text]:
    """Yield a response as text for the console, with the name of each step before it."""
    yield Text(answer.prompt, style="dim")
    for segment in answer.steps:
        yield Text(f"[{segment.step}]", style=COLOURS.get(segment.step, "cyan"))
        yield Text(segment.text)
    if not answer.closed:
        yield Text("[the thought does not end]" if answer.thought else "[no thought]", style="yellow")
    yield Text("[answer]", style="bold")
    yield Text(answer.answer + (" [cut at the limit]" if answer.cut else ""))


@interruptible()
def main() -> None:
    """Entry point of the console script. Exit codes: 0 answered, 2 refused, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="alttrain-ask", description="Ask a run's model.")
    parser.add_argument("run", type=Path, help="a run's folder, such as outputs/runs/NAME")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument("--system", help='the system prompt; "" for none')
    parser.add_argument("--tokens", type=int, help="limit on new tokens (default: the protocol's of the run)")
    parser.add_argument("--untrained", action="store_true", help="ask the backbone without what the run trained")
    console = Console(soft_wrap=True, highlight=False)
    try:
        given = sys.argv[1:]
        trusting = list(itertools.takewhile(lambda argument: argument.startswith("trusted="), given))
        take_trusted(trusting)  # only these: a prompt may begin with "trusted=" too
        asked = parser.parse_args(given[len(trusting) :])
        for answer in load(asked.run, asked.untrained).ask(asked.prompts, asked.system, asked.tokens):
            for text in shown(answer):
                console.print(text)
    except (RunError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
