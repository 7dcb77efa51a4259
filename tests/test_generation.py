"""Slot decoding against transformers' own greedy generation, prompt by prompt."""

import itertools
from pathlib import Path

import pytest
import torch

from alttrain.backbone import Weights
from alttrain.backbone.weights import load_model
from alttrain.generation.engine import GreedyDecoder

PROMPTS = [[(7 * row + 3 * column) % 250 for column in range(1 + (row * 5) % 23)] for row in range(11)]
NEW = 20


def reference(folder: Path, end: int) -> list[list[int]]:
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
def test_equals_transformers_one_by_one(tiny_folder: Path, slots: int) -> None:
    end = common_token(reference(tiny_folder, end=257))
    expected = reference(tiny_folder, end)
    assert len({len(row) for row in expected}) > 2
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    ended: list[int] = []
    written = GreedyDecoder(model, end, slots, "cpu").generate(PROMPTS, NEW, ended.append)
    assert written == expected
    assert sum(ended) == len(PROMPTS)


def test_nothing_to_do(tiny_folder: Path) -> None:
    model = load_model(Weights(tiny_folder, "local"), torch.float32, "cpu")
    assert GreedyDecoder(model, 257, 4, "cpu").generate([], NEW) == []
