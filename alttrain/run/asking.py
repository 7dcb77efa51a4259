"""How a prompt is asked: its text and ids, the turns before it, the beginning of its response, and what comes of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from alttrain.backbone import Rendered, ThoughtMode
from alttrain.evaluation import Benchmark, JudgeContext
from alttrain.evaluation.interventions import Beginning, Intervention, InterventionContext
from alttrain.generation.engine import Completion, Decoding, Engine, Prompt, ignore_progress
from alttrain.llm import GIVEN_UP, Failure
from alttrain.records import Example, Generation, cache_folder
from alttrain.run.assembly import Run
from alttrain.run.session import Session

BenchmarkSample = tuple[Benchmark, Example, int]  # a prompt, with its benchmark and the number of its sample
SampleKey = tuple[str, int]  # a prompt's id and the number of its sample
NO_ROOM = "the prompt leaves no room for a response in the backbone's context"
"""The error of a prompt that an intervention, or the answers before it, made too long. It is not asked again."""


@dataclass(frozen=True)
class BeginningRow(Beginning):
    """A row of begun.jsonl: the user's last message, and how the response to it begins."""

    id: str = ""
    sample: int = 0
    message: str = ""


@dataclass(frozen=True)
class PreparedIntervention:
    """An intervention on one benchmark: what it may look at, and how each response begins, by name.

    `own` has the run's own responses, if it reads them.
    """

    intervention: Intervention
    context: InterventionContext
    beginnings: dict[SampleKey, BeginningRow]
    own: Mapping[SampleKey, Generation] = field(default_factory=dict)


class Chunk:
    """Prompts that an engine answers together. Interventions on them differ only in how their responses begin."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        chunk: Sequence[BenchmarkSample],
        interventions: Mapping[str, PreparedIntervention | None],
    ) -> None:
        benchmark, self.session = chunk[0][0], session
        self.run, self.renderer, self.engine = session.run, session.renderer, engine
        self.prepared = interventions[benchmark.name]
        self.template, self.mode = self.run.backbone.template, thought_mode(self.run, benchmark)
        self.benchmark, self.decoding = benchmark, self.run.protocol.decoding_for(benchmark)
        self.sampled = [(row, sample) for _, row, sample in chunk]
        self.rows = [row for row, _ in self.sampled]  # as they are asked
        self.earlier: list[tuple[str, ...]] = [() for _ in chunk]  # the answers to earlier turns
        self.starts: list[tuple[list[int], Rendered]] = []  # how the responses to the last turn begin: ids and text
        if self.prepared is not None:
            self.rows = []
            for number, (row_benchmark, row, sample) in enumerate(chunk):
                prepared = interventions[row_benchmark.name] or self.prepared
                beginning, own = prepared.beginnings[row.id, sample], prepared.own.get((row.id, sample))
                if own and beginning.message == benchmark.message(row):  # a thought stays after its dialogue
                    self.earlier[number] = own.earlier
                self.starts.append(self.encode_beginning(beginning))
                self.rows.append(replace(row, prompt=beginning.message))
            self.benchmark = replace(benchmark, form="{prompt}")  # the message has its form already

    def encode_beginning(self, begun: Beginning) -> tuple[list[int], Rendered]:
        """Return the ids and the text of a beginning."""
        return self.renderer.begin(begun.render(self.template, self.mode), begun.then)  # type: ignore[no-any-return]

    def answers(self, advance: Callable[[int], None]) -> Iterator[tuple[int, Generation | Failure]]:
        """Yield (index of a prompt, its generation or why there is none). The model answers earlier turns first."""
        converses = self.prepared and self.prepared.intervention.converse
        for number, answer in self._attack(advance) if converses else self._ask_turns(advance):
            failed = answer if isinstance(answer, Failure) and not answer.final else None
            yield number, failed or self.generation_of(number, answer)

    def _ask_turns(self, advance: Callable[[int], None]) -> Iterator[tuple[int, Completion | Generation | Failure]]:
        intervened, done, numbers = self.prepared, dict[int, Completion | Failure](), range(len(self.rows))
        turns_before = [len(_turns(self.run, self.benchmark, row)) - 1 for row in self.rows]
        for turn in range(max(turns_before, default=0)):
            due = [n for n in numbers if len(self.earlier[n]) == turn < turns_before[n] and n not in done]
            for number, answer in self.ask(due):
                if isinstance(answer, Failure):
                    done[number] = answer
                else:
                    self.earlier[number] += (self.template.history(answer.text, self.mode),)
        for _ in range(intervened.intervention.rounds - 1 if intervened else 0):
            for number, answer in self.ask([n for n in numbers if n not in done], last=True):
                again = None
                if intervened and not isinstance(answer, Failure):
                    generation = self.generation_of(number, answer)
                    again = intervened.intervention.begin(self.rows[number], generation, intervened.context)
                start = None if again is None else self.encode_beginning(again)
                if start is None or len(start[0]) >= self.decoding.max_new_tokens:
                    done[number] = answer  # without room to go on, too: what was answered stays
                else:
                    self.starts[number] = start
        advance(len(done))
        yield from chain(self.ask([n for n in numbers if n not in done], advance, last=True), done.items())

    def _attack(self, advance: Callable[[int], None]) -> Iterator[tuple[int, Generation | Failure]]:
        """Let an attacker write the turns. Yields the response that each attack ends with."""
        rows = self.rows

        def answer(talks: Mapping[int, tuple[Sequence[str], Sequence[Generation]]]) -> dict[int, Generation | Failure]:
            for number, (turns, generations) in talks.items():
                goal = rows[number].goal or rows[number].prompt
                row = replace(rows[number], prompt=turns[-1], turns=tuple(turns[:-1]), goal=goal)
                self.rows[number], self.sampled[number] = row, (row, self.sampled[number][1])
                self.earlier[number] = tuple(self.template.history(each.text, self.mode) for each in generations)
            answers = self.ask(list(talks))
            return {
                n: result if isinstance(result, Failure) else self.generation_of(n, result) for n, result in answers
            }

        assert self.prepared is not None
        self.rows = list(rows)
        context = JudgeContext(cache_folder() / "replies", self.session.scorer)
        for number, talk in self.prepared.intervention.converse(rows, answer, context):
            advance(1)
            yield number, talk.failure or talk.last or Failure("no turn was taken", final=True)

    def ask(
        self, due: list[int], advance: Callable[[int], None] = ignore_progress, last: bool = False
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Yield the answer to the next turn of each of these rows; `last` says that it is the last turn."""
        prompts, unanswered = dict[int, Prompt](), dict[int, Failure]()
        for number in due:
            (_, sample), row = self.sampled[number], self.rows[number]
            prompt = prompt_of(self.run, self.renderer, self.benchmark, row, sample, self.earlier[number])
            if last and self.starts:
                prompt = _with_beginning(prompt, *self.starts[number], self.decoding)
            if len(prompt.ids) + prompt.max_new_tokens(self.decoding) > self.run.backbone.context_length:
                yield number, Failure(NO_ROOM, final=True)
            else:
                prompts[number] = prompt
                unanswered[number] = Failure(GIVEN_UP, final=False)
        numbers = list(prompts)
        for index, answer in self.engine.generate(list(prompts.values()), self.decoding, advance) if prompts else ():
            unanswered.pop(numbers[index], None)
            yield numbers[index], answer
        yield from unanswered.items()

    def generation_of(self, number: int, response: Completion | Generation | Failure) -> Generation:
        """Return the record of a response. Thought and answer are split once, for all judges."""
        if isinstance(response, Generation):
            return response
        row, sample = self.sampled[number]
        beginning = self.starts[number][1] if self.starts else ""
        text, error = ("", response.reason) if isinstance(response, Failure) else (beginning + response.text, "")
        thought, answer, closed = self.template.split(text, self.mode)
        return Generation(
            id=row.id,
            prompt=row.prompt,
            label=row.label,
            category=row.category,
            gold=row.gold,
            text=text,
            thought=thought,
            answer=answer,
            closed=closed and isinstance(response, Completion),
            finish=response.finish if isinstance(response, Completion) else "error",
            thought_tokens=len(self.renderer.encode(thought)) if thought else 0,
            answer_tokens=len(self.renderer.encode(answer)) if answer else 0,
            sample=sample,
            earlier=self.earlier[number],
            error=error,
            turns=row.turns,
            goal=row.goal,
            given=0 if error else len(beginning),
        )


def thought_mode(run: Run, benchmark: Benchmark) -> ThoughtMode:
    """Return how a benchmark's prompts end."""
    return (benchmark.intervention and benchmark.intervention.mode) or run.training.thought


def _with_beginning(prompt: Prompt, ids: list[int], beginning: Rendered, decoding: Decoding) -> Prompt:
    """Return a prompt followed by the beginning of its response, which counts towards the cap on new tokens."""
    rendered = prompt.text
    if not ids:
        return prompt
    pieces = rendered.pieces if isinstance(rendered, Rendered) else ("", rendered, "")
    text = Rendered(*pieces[:-1], pieces[-1] + beginning.pieces[0], *beginning.pieces[1:])
    return replace(prompt, ids=prompt.ids + ids, text=text, cap=max(1, prompt.max_new_tokens(decoding) - len(ids)))


def _turns(run: Run, benchmark: Benchmark, row: Example) -> tuple[str, ...]:
    """Return the user's turns: those of the row's dialogue, those that the structure inserts, and the prompt."""
    message = benchmark.message(row)
    return (*row.turns, *run.structure.turns_before(message), run.structure.prompt(message))


def prompt_of(
    run: Run, renderer: Any, benchmark: Benchmark, row: Example, sample: int, answers: tuple[str, ...]
) -> Prompt:
    """Return the prompt of the turn that follows these answers."""
    text = prompt_text(run, renderer, benchmark, row, answers)
    ids = renderer.encode(text)
    turn = "" if len(answers) == len(_turns(run, benchmark, row)) - 1 else f"@{len(answers)}"
    cut_at = run.protocol.decoding_for(benchmark).cut_at(run.backbone.context_length)
    return Prompt(ids, text, f"{row.id}#{sample}{turn}", None if cut_at is None else max(1, cut_at - len(ids)))


def prompt_text(
    run: Run, renderer: Any, benchmark: Benchmark, row: Example, answers: tuple[str, ...] | None = None
) -> str:
    """Render a benchmark's prompt with the benchmark's form, the structure's form and a system prompt.

    `answers` are the model's answers to the turns before. None renders the last turn without any.
    """
    intervention = benchmark.intervention
    replaced = intervention.system if intervention else None
    systems = (replaced, run.structure.system, run.method.evaluation_prompt, run.protocol.system_prompt_for(benchmark))
    system = next((prompt for prompt in systems if prompt is not None), None)
    turns = _turns(run, benchmark, row)
    turn = len(turns) - 1 if answers is None else len(answers)
    in_form = turn < len(row.turns) and not run.structure.turns_before("")
    user = run.structure.prompt(turns[turn]) if in_form else turns[turn]
    if intervention and not intervention.chat:
        return Rendered(run.backbone.template.bos, user, "\n")
    template = intervention.template_for(run.backbone.template) if intervention else None
    dialogue = {"turns": turns[:turn], "answers": answers or ()}
    return renderer.prompt_text(  # type: ignore[no-any-return]
        user, thought_mode(run, benchmark), system=system, template=template, **dialogue
    )
