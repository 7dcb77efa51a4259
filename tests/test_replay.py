"""Dialogues: the model answers every earlier turn itself, and reads its own answers in the next prompt."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from alttrain.backbone.template import ChatTemplate
from alttrain.dataset import embedded_rows
from alttrain.evaluation import Benchmark, RefusalPhrases
from alttrain.generation import Decoding
from alttrain.records import Example
from alttrain.rewrite import Untouched
from alttrain.run.stages.generate import _replay, prompt_ids

TEMPLATE = ChatTemplate("S{content}.", "U{content}.", "A", "<t>", "</t>", "<e>")
DIALOGUE = Example("d", "And then?", "harmful", turns=("Hello.", "What is a kite?"))
ALONE = Example("a", "Alone.", "harmful")


class Recorder:
    """Stands in for renderer and decoder: what is asked is kept as text, and reply number i is "reply i"."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prompt(self, user: str, thought: Any, system: str | None, turns: Sequence[str], answers: Sequence[str]) -> Any:
        self.asked.append(TEMPLATE.prompt(user, system, thought, turns, answers))
        return [len(self.asked)]

    def generate(self, prompts: list[list[int]], decoding: Decoding, names: list[str]) -> list[list[int]]:
        assert len(set(names)) == len(prompts)
        return prompts

    def decode(self, ids: list[int]) -> str:
        return f"thinking</t>reply {ids[0]}"


def test_turns_are_answered_in_order_with_what_was_answered_before() -> None:
    recorder = Recorder()
    run: Any = SimpleNamespace(
        structure=Untouched("none"),
        protocol=SimpleNamespace(system_prompt="Be kind", decoding=Decoding(5)),
        training=SimpleNamespace(thought="open"),
        backbone=SimpleNamespace(template=TEMPLATE),
    )
    benchmark = Benchmark(
        "b", "harmful_rate", embedded_rows("evaluation_harmful"), RefusalPhrases(), "Please: {prompt}"
    )
    answers = _replay(run, recorder, recorder, benchmark, [(ALONE, 0), (DIALOGUE, 0)])
    assert answers == [(), ("reply 1", "reply 2")]
    assert recorder.asked == [
        "SBe kind.UHello..A<t>",
        "SBe kind.UHello..Areply 1<e>UWhat is a kite?.A<t>",
    ]
    prompt_ids(run, recorder, benchmark, DIALOGUE, answers[1])
    assert recorder.asked[-1] == ("SBe kind.UHello..Areply 1<e>UWhat is a kite?.Areply 2<e>UPlease: And then?.A<t>")
