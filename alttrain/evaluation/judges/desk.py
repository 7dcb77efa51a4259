"""The seams of judging: the judge, what a run lends it, and the model that some judges read probabilities from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from alttrain.records import Example, Generation, Judgement

Says = Literal["refused", "correct", "unsafe"]
"""What a judge's True means."""


class Scorer(Protocol):
    """A causal language model with its tokenizer. Texts are encoded as they are: nothing is added, nothing truncated.

    Everything is plain Python, so that whoever asks needs no torch.
    """

    @property
    def longest(self) -> int:
        """The most tokens a prompt may have."""

    def chat(self, said: Sequence[tuple[str, str]], content: Literal["text", "parts"] = "text", **options: Any) -> str:
        """The model's own chat template around (role, text) of each message, up to where it writes.

        `content` says how the template takes a message: as a string, or as a list of parts; `options` are the
        template's own. Raises ValueError where the rendered text lacks one of the messages.
        """

    def plain(self, text: str) -> str:
        """The text with the model's special tokens broken up, so that a judged text cannot end its own turn."""

    def encode(self, text: str) -> list[int]:
        """The text's tokens; special tokens written out in it are special tokens."""

    def first_token(self, before: str, answer: str) -> int | None:
        """The first token of `answer` where it follows `before`; None where the two share a token."""

    def next_token(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
        """(prompt's number, probability of each of `tokens` as its next token), in any order, over the vocabulary."""

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """What the model writes after each prompt, greedily; with its special tokens where these are `special`."""


def _silent(count: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class JudgeDesk:
    """What a run lends a judge.

    `cache` is the folder of replies that all runs share. `scorer` loads a judge's model (hub id or folder, revision,
    dtype), once a run. `progress` is told how many more generations are judged.
    """

    cache: Path
    scorer: Callable[[str, str | None, str], Scorer] | None = None
    progress: Callable[[int], None] = _silent


ModelFault = Callable[[str, str | None], str]
"""Why a model (hub id or folder, revision) cannot be had here; "" where it can."""


class Judge(Protocol):
    """Judges generations. The text to be judged stands in `answer`, whichever part of the response it is."""

    @property
    def name(self) -> str:
        """The judge's name in judgements.jsonl."""

    @property
    def says(self) -> Says:
        """What True means."""

    @property
    def needs_goal(self) -> bool:
        """Whether every row must tell the attack's goal."""

    def verify(self, where: str, model_fault: ModelFault) -> None:
        """Raise ValueError, naming the keys below the judge's own `where`, for what it asks and cannot reach."""

    def judge(self, generations: Sequence[Generation], desk: JudgeDesk) -> Iterator[Judgement]:
        """The judgement of each generation, each row once, in any order, as they come."""


def check_goals(judge: Judge, benchmark: str, rows: Sequence[Example]) -> None:
    """Raise ValueError where a judge needs a goal that rows of a benchmark do not have."""
    lacking = [row.id for row in rows if not row.goal] if judge.needs_goal else []
    if lacking:
        raise ValueError(
            f"benchmark {benchmark}: judge {judge.name} holds an answer to the attack's goal (against=goal), but "
            f"{len(lacking)} of {len(rows)} rows have none, {lacking[0]} for one; name the goal's column in "
            "rows.columns.goal, or set the judge's against to prompt or goal_if_any"
        )


class OneByOne(ABC):
    """A judge that needs nothing but the generation: write `__call__`, and `judge` follows."""

    needs_goal = False

    def verify(self, where: str, model_fault: ModelFault) -> None:
        """Most have nothing to reach."""
        return

    @abstractmethod
    def __call__(self, generation: Generation) -> Judgement:
        """The judgement of one generation."""

    def judge(self, generations: Sequence[Generation], desk: JudgeDesk) -> Iterator[Judgement]:
        """The judgements in the generations' order."""
        for generation in generations:
            yield replace(self(generation), sample=generation.sample)
            desk.progress(1)
