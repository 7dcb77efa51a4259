"""Slot decoding against transformers' own generation, prompt by prompt, and what sampling draws."""

import itertools
from pathlib import Path

import pytest
import torch

from alttrain.backbone import Weights
from alttrain.backbone.weights import load_model
from alttrain.generation import Decoding
from alttrain.generation.engine import Decoder, draw

PROMPTS = [[(7 * row + 3 * column) % 250 for column in range(1 + (row * 5) % 23)] for row in range(11)]
NEW = 20


def reference(folder: Path, end: int, repetition_penalty: float = 1.0) -> list[list[int]]:
    """What transformers writes for each prompt alone."""
    model = type(load_model(Weights(folder, "local"), torch.float32, "cpu")).from_pretrained(folder).eval()
    written = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            repetition_penalty=repetition_penalty,
            eos_token_id=end,
            pad_token_id=end,
        )
        written.append(out[0, len(prompt) :].tolist())
    return written


def common_token(written: list[list[int]]) -> int:
    """A token the model writes often, to stand for the end: then rows end at different times."""
    tokens = list(itertools.chain(*(row[2:] for row in written)))
    return max(set(tokens), key=tokens.count)


@pytest.mark.parametrize("slots", [1, 3, 64])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_equals_transformers_one_by_one(tiny_folder: Path, slots: int, penalty: float) -> None:
    end = common_token(reference(tiny_folder, 257, penalty))
    expected = reference(tiny_folder, end, penalty)
    assert len({len(row) for row in expected}) > 2
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    ended: list[int] = []
    decoding = Decoding(NEW, repetition_penalty=penalty)
    written = Decoder(model, end, slots, "cpu").generate(PROMPTS, decoding, on_finished=ended.append)
    assert written == expected
    assert sum(ended) == len(PROMPTS)


def test_nothing_to_do(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    assert Decoder(model, 257, 4, "cpu").generate([], Decoding(NEW)) == []


def test_what_is_drawn_depends_on_seed_and_name_alone(tiny_folder: Path) -> None:
    """Not on the slots, the order or the neighbours; the penalty's memory moves with its sequence."""
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    names = [f"row {number}" for number in range(len(PROMPTS))]

    def sampled(slots: int, order: list[int], seed: int = 0) -> dict[str, list[int]]:
        decoding = Decoding(NEW, temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=seed)
        chosen = [names[index] for index in order]
        end = 40  # a token that is drawn now and then, so that rows end at different times
        written = Decoder(model, end, slots, "cpu").generate([PROMPTS[i] for i in order], decoding, chosen)
        return dict(zip(chosen, written, strict=True))

    everything = list(range(len(PROMPTS)))
    whole = sampled(64, everything)
    assert sampled(2, everything[::-1]) == whole
    assert sampled(1, [4]) == {"row 4": whole["row 4"]}
    assert sampled(64, everything, seed=1) != whole
    same = Decoder(model, 257, 64, "cpu").generate([PROMPTS[0]] * 2, Decoding(NEW, temperature=0.9), ["a", "b"])
    assert same[0] != same[1]


def test_draw_follows_the_distribution_within_the_nucleus() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    draws = (torch.arange(1000) + 0.5) / 1000
    logits = probabilities.log().expand(1000, -1)
    counts = torch.bincount(draw(logits, 1.0, draws), minlength=4)
    assert counts.tolist() == [100, 500, 50, 350]
    counts = torch.bincount(draw(logits, 0.8, draws), minlength=4)  # 0.5 + 0.35 reach it
    assert counts.tolist() == [0, 588, 0, 412]
    assert draw(logits[:1], 0.5, torch.tensor([0.999999])).tolist() == [1]
    assert draw(logits[:2], 1.0, torch.tensor([0.0, 0.99999999])).tolist() == [1, 2]


def test_many_samples_of_a_greedy_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples=4 with temperature=0"):
        Decoding(NEW, samples=4)
