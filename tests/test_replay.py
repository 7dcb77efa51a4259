"""Dialogues: the model answers every earlier turn itself, and reads its own answers in the next prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from alttrain.backbone.template import ChatTemplate
from alttrain.dataset import embedded_rows
from alttrain.evaluation import Benchmark, Protocol, RefusalJudge
from alttrain.generation import Decoding
from alttrain.generation.engine import Completion, Prompt
from alttrain.llm import Failure
from alttrain.records import Example, Generation
from alttrain.rewrite import PromptSide, Untouched
from alttrain.run.asking import NO_ROOM, Chunk, SampleKey

TEMPLATE = ChatTemplate("S{content}.", "U{content}.", "A", "<t>", "</t>", "<e>")
DIALOGUE = Example("d", "And then?", "harmful", turns=("Hello.", "What is a kite?"))
ALONE = Example("a", "Alone.", "harmful")
RENDERER: Any = SimpleNamespace(
    encode=lambda text: [len(text)],
    prompt_text=lambda user, thought, system, template, **rest: TEMPLATE.prompt(user, system, thought, **rest),
)
RUN: Any = SimpleNamespace(
    structure=Untouched("none"),
    method=SimpleNamespace(system_prompt=None, evaluation_prompt=None),
    protocol=Protocol("p", Decoding(5), {}, system_prompt="Be kind"),
    training=SimpleNamespace(thought="open"),
    backbone=SimpleNamespace(template=TEMPLATE, context_length=100),
)
SESSION: Any = SimpleNamespace(run=RUN, renderer=RENDERER)
ROWS = embedded_rows("evaluation_harmful")
BENCHMARK = Benchmark("b", "harm", "harmful_rate", ROWS, RefusalJudge(), "Please: {prompt}")


class Recorder:
    """An engine that keeps what it is asked, and answers number i with "reply i", or fails where it is told to."""

    streams = False

    def __init__(self, fails: str = "", final: bool = True) -> None:
        self.asked: list[str] = []
        self.failure = Failure("no", final)
        self.fails = fails

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Any = None
    ) -> Iterator[tuple[int, Completion | Failure]]:
        assert len({prompt.name for prompt in prompts}) == len(prompts)
        for number, prompt in enumerate(prompts):
            self.asked.append(prompt.text)
            if self.fails and self.fails in prompt.text:
                yield number, self.failure
            else:
                yield number, Completion(f"thinking</t>\nreply {len(self.asked)}", "stop")


def answers(session: Any, engine: Recorder, *sampled: tuple[Example, int]) -> dict[SampleKey, Generation | Failure]:
    """What a chunk of these prompts gives, by name."""
    due = [(BENCHMARK, row, sample) for row, sample in sampled]
    found = Chunk(session, engine, due, {BENCHMARK.name: None}).answers(lambda count: None)
    return {(sampled[number][0].id, sampled[number][1]): answer for number, answer in found}


def test_turns_are_answered_in_order_with_what_was_answered_before() -> None:
    recorder = Recorder()
    found = answers(SESSION, recorder, (ALONE, 0), (DIALOGUE, 0))
    assert [getattr(found[name], "earlier", None) for name in (("a", 0), ("d", 0))] == [(), ("reply 1", "reply 2")]
    assert recorder.asked == [
        "SBe kind.UHello..A<t>",
        "SBe kind.UHello..Areply 1<e>UWhat is a kite?.A<t>",
        "SBe kind.UPlease: Alone..A<t>",
        "SBe kind.UHello..Areply 1<e>UWhat is a kite?.Areply 2<e>UPlease: And then?.A<t>",
    ]


def test_a_defence_asks_before_the_prompt_and_keeps_the_answer() -> None:
    """Intention Analysis: the intention first, in the model's own words, then the reply. Dialogues keep their turns."""
    run = SimpleNamespace(
        **{**vars(RUN), "structure": PromptSide("ia", None, "Now reply.", ("What is '{prompt}' for?",))}
    )
    recorder = Recorder()
    session: Any = SimpleNamespace(run=run, renderer=RENDERER)
    found = answers(session, recorder, (ALONE, 0), (DIALOGUE, 0))
    intention = "UWhat is 'Please: {}' for?.A"
    assert recorder.asked == [
        f"SBe kind.{intention.format('Alone.')}<t>",
        "SBe kind.UHello..A<t>",
        "SBe kind.UHello..Areply 2<e>UWhat is a kite?.A<t>",
        f"SBe kind.UHello..Areply 2<e>UWhat is a kite?.Areply 3<e>{intention.format('And then?')}<t>",
        f"SBe kind.{intention.format('Alone.')}reply 1<e>UNow reply..A<t>",
        "SBe kind.UHello..Areply 2<e>UWhat is a kite?.Areply 3<e>"
        f"{intention.format('And then?')}reply 4<e>UNow reply..A<t>",
    ]
    assert isinstance(alone := found["a", 0], Generation)
    assert (alone.prompt, alone.earlier, alone.answer) == ("Alone.", ("reply 1",), "reply 5")
    assert getattr(found["d", 0], "earlier", None) == ("reply 2", "reply 3", "reply 4")


def test_newlines_that_the_family_keeps_stand_in_the_prompt_and_in_the_record() -> None:
    kept = replace(TEMPLATE, history_gap="kept")
    run = SimpleNamespace(**{**vars(RUN), "backbone": SimpleNamespace(template=kept, context_length=512)})
    renderer: Any = SimpleNamespace(
        encode=lambda text: [len(text)],
        prompt_text=lambda user, thought, system, template, **rest: kept.prompt(user, system, thought, **rest),
    )
    recorder = Recorder()
    session: Any = SimpleNamespace(run=run, renderer=renderer)
    (found,) = answers(session, recorder, (DIALOGUE, 0)).values()
    assert isinstance(found, Generation)
    assert "A\nreply 1<e>" in recorder.asked[-1]
    assert found.earlier == ("\nreply 1", "\nreply 2")  # as the prompt has them; judges and the page strip them


def test_a_dialogue_whose_answers_fill_the_context_is_told_and_the_others_go_on() -> None:
    run = SimpleNamespace(**{**vars(RUN), "backbone": SimpleNamespace(template=TEMPLATE, context_length=60)})
    session: Any = SimpleNamespace(run=run, renderer=SimpleNamespace(**{**vars(RENDERER), "encode": list}))
    recorder = Recorder()
    found = answers(session, recorder, (DIALOGUE, 0), (ALONE, 0))
    assert (getattr(found["d", 0], "error", None), getattr(found["d", 0], "finish", None)) == (NO_ROOM, "error")
    assert getattr(found["a", 0], "answer", None) == "reply 3"
    assert not any("And then?" in asked for asked in recorder.asked)


def test_a_dialogue_that_fails_on_the_way_is_told_and_the_others_go_on() -> None:
    for final in (True, False):
        recorder = Recorder("What is a kite?", final)
        found = answers(SESSION, recorder, (DIALOGUE, 0), (ALONE, 2))
        assert getattr(found["a", 2], "answer", None) == "reply 3"
        if final:
            assert (getattr(found["d", 0], "finish", None), getattr(found["d", 0], "error", None)) == ("error", "no")
        else:
            assert found["d", 0] == Failure("no", final=False)
        assert not any("And then?" in asked for asked in recorder.asked)
