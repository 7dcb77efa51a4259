"""The one renderer: ids and labels written by hand, and the rules that keep training and prompting alike."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import backbone

from alttrain.backbone.weights import load_tokenizer
from alttrain.records import Example, Segment
from alttrain.tokenization import IGNORED, Renderer

EXAMPLE = Example(
    "x",
    "Hi",
    "benign",
    thought=(Segment("understanding", "A."), Segment("assessment", "B."), Segment("reasoning", "C.")),
    answer="D",
)


@pytest.fixture
def renderer(tiny_folder: Path) -> Renderer:
    return Renderer(backbone(tiny_folder), load_tokenizer(tiny_folder))


def test_ids_and_labels_exact(renderer: Renderer) -> None:
    code = {character: renderer.tokenizer.encode(character)[0] for character in "userasitnhHik<>/ABCD.\n"}
    start, end = renderer.tokenizer.bos_token_id, renderer.tokenizer.eos_token_id
    prompt = [start, *(code[c] for c in "user\nHi"), end, code["\n"]]
    prompt += [start, *(code[c] for c in "assistant\n<think>\n")]
    response = [*(code[c] for c in "A.\n\nB.\n\nC.\n</think>\n\nD"), end]
    sequence = renderer.render([EXAMPLE])[0]
    assert sequence.prompt == prompt
    assert sequence.response == response
    assert sequence.ids == prompt + response
    assert sequence.labels == [IGNORED] * len(prompt) + response


def test_trained_prompt_is_the_prompt_of_generation(renderer: Renderer) -> None:
    assert renderer.render([EXAMPLE])[0].prompt == renderer.encode(renderer.prompt_text("Hi", "open"))


def test_prompt_ends_by_its_mode(renderer: Renderer) -> None:
    texts = {
        mode: renderer.tokenizer.decode(renderer.encode(renderer.prompt_text("Hi", mode)))
        for mode in ("open", "empty", "absent")
    }
    assert texts["open"].endswith("assistant\n<think>\n")
    assert texts["empty"].endswith("<think>\n\n</think>\n\n")
    assert texts["absent"].endswith("assistant\n")


def test_system_prompt_and_mode(renderer: Renderer) -> None:
    text = renderer.tokenizer.decode(renderer.encode(renderer.prompt_text("Hi", "absent", system="Be brief.")))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")
    assert text.endswith("assistant\n")


def test_none_is_the_backbones_system_prompt_and_empty_is_none(tiny_folder: Path) -> None:
    own = Renderer(replace(backbone(tiny_folder), system_prompt="Own."), load_tokenizer(tiny_folder))
    bare = Renderer(backbone(tiny_folder), own.tokenizer)
    assert own.tokenizer.decode(own.encode(own.prompt_text("Hi", "open"))).startswith(
        "<|im_start|>system\nOwn.<|im_end|>\n"
    )
    assert (
        own.encode(own.prompt_text("Hi", "open", system=""))
        == bare.encode(bare.prompt_text("Hi", "open"))
        == bare.encode(bare.prompt_text("Hi", "open", system=""))
    )
    assert own.render([EXAMPLE])[0].prompt == own.encode(own.prompt_text("Hi", "open"))


def test_earlier_turns_stand_before_the_prompt(renderer: Renderer) -> None:
    text = renderer.tokenizer.decode(
        renderer.encode(renderer.prompt_text("C", "absent", turns=["A", "B"], answers=["a"]))
    )
    user, assistant = "<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n"
    answered = user.format("A") + assistant + "a<|im_end|>\n"
    assert text == answered + user.format("B") + user.format("C") + assistant
    example = replace(EXAMPLE, turns=("A", "B"))
    assert renderer.render([example])[0].prompt == renderer.encode(renderer.prompt_text("Hi", "open", turns=["A", "B"]))


def test_a_partial_example_is_neither_closed_nor_ended(renderer: Renderer) -> None:
    primer = replace(EXAMPLE, thought=(Segment("primer", "Safe first"),), answer="", partial=True)
    sequence = renderer.render([primer])[0]
    assert renderer.tokenizer.decode(sequence.response) == "Safe first"
    assert renderer.problems(sequence, primer) == []


def test_rendering_together_is_rendering_one_by_one(renderer: Renderer) -> None:
    examples = [EXAMPLE, replace(EXAMPLE, id="y", prompt="A longer one?", answer="E" * 40)]
    assert renderer.render(examples) == [renderer.render([example])[0] for example in examples]
    assert renderer.render([]) == []


def test_a_family_that_closes_with_several_tokens_keeps_the_rules(renderer: Renderer) -> None:
    assert renderer.problems(renderer.render([EXAMPLE])[0], EXAMPLE) == []
    twice = replace(EXAMPLE, answer="a</think>b")
    assert renderer.problems(renderer.render([twice])[0], twice) == ["the thought is not closed exactly once"]


def test_too_long_is_left_out_by_name_and_nothing_is_cut(renderer: Renderer) -> None:
    long = Example(**{**vars(EXAMPLE), "id": "long", "answer": "D" * 400})
    kept, left_out = renderer.sequences([EXAMPLE, long], max_length=100)
    assert [sequence.id for sequence in kept] == ["x"]
    assert left_out == ["long"]
    assert kept[0].ids == renderer.render([EXAMPLE])[0].ids


def test_each_shape_of_a_row_is_rendered_as_what_it_is(renderer: Renderer) -> None:
    """The prompt has opened the thought and broken the line already; an empty thought breaks no other."""
    thought_only, answer_only = replace(EXAMPLE, answer=""), replace(EXAMPLE, thought=())
    texts = {e.shape: renderer.tokenizer.decode(renderer.render([e])[0].response) for e in (thought_only, answer_only)}
    assert texts == {
        "thought_only": "A.\n\nB.\n\nC.\n</think><|im_end|>",
        "answer_only": "</think>\n\nD<|im_end|>",
    }
    for example in (thought_only, answer_only):
        assert renderer.problems(renderer.render([example])[0], example) == []
    went_on = renderer.problems(renderer.render([EXAMPLE])[0], thought_only)
    assert went_on == ["the response is not the text it should be"]


def test_an_example_without_a_response_is_refused(renderer: Renderer) -> None:
    with pytest.raises(ValueError, match="x: an example to train on needs a thought or an answer"):
        renderer.render([replace(EXAMPLE, thought=(), answer="")])[0]


def test_decode_drops_the_end_token_only(renderer: Renderer) -> None:
    ids = [*renderer.tokenizer.encode("a</think>b"), renderer.end_id]
    assert renderer.decode(ids) == "a</think>b"
    assert renderer.decode(ids[:-1]) == "a</think>b"


def test_an_end_that_is_not_one_token_is_refused(tiny_folder: Path) -> None:
    odd = backbone(tiny_folder)
    odd = replace(odd, template=replace(odd.template, end="<end>"))
    with pytest.raises(ValueError, match=r"template\.end='<end>' is not one token"):
        Renderer(odd, load_tokenizer(tiny_folder))
