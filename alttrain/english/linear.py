"""Logistic regression over named features, read from a text file.

A text may have any number of the labels. The first line of the file is a JSON object with the labels and an intercept
for each. Every other line is a feature and its weights, separated by tabs. Reading the file runs no code.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul
from pathlib import Path


@dataclass(frozen=True)
class LinearModel:
    """`weights` has one weight per label for each feature. Unknown features are ignored."""

    labels: tuple[str, ...]
    intercept: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]

    def __call__(self, features: Mapping[str, float]) -> dict[str, float]:
        """Return the probability of each label."""
        known = [(row, value) for name, value in features.items() if (row := self.weights.get(name))]
        rows, values = zip(*known, strict=True) if known else ((), ())
        columns = zip(*rows, strict=True) if known else ((),) * len(self.labels)
        scores = [sum(map(mul, column, values), start) for column, start in zip(columns, self.intercept, strict=True)]
        return {label: _sigmoid(score) for label, score in zip(self.labels, scores, strict=True)}

    @classmethod
    @cache
    def read(cls, path: Path) -> "LinearModel":
        """Read a model from a file, once."""
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        head, rows = json.loads(first), [line.split("\t") for line in lines]
        weights = {name: tuple(map(float, values)) for name, *values in rows}
        return cls(tuple(head["labels"]), tuple(head["intercept"]), weights)

    def write(self, path: Path) -> None:
        """Write the model, with features in alphabetical order, so that the same model gives the same bytes."""
        head = {"labels": self.labels, "intercept": self.intercept, "exclusive": False}
        lines = ["\t".join([name, *(f"{w:.3g}" for w in self.weights[name])]) for name in sorted(self.weights)]
        path.write_text("\n".join([json.dumps(head), *lines, ""]), encoding="utf-8")


def scaled_blocks(*blocks: Iterable[str]) -> dict[str, float]:
    """Return features from blocks of names. Each block is scaled to Euclidean length 1, to cancel the text's length."""
    features: dict[str, float] = {}
    for names in map(dict.fromkeys, blocks):  # in order: the order of a sum changes its last digit
        features.update(dict.fromkeys(names, len(names) ** -0.5 if names else 0.0))
    return features


def ngrams(words: Sequence[str], *lengths: int) -> Iterator[str]:
    """Yield the runs of words of each length, joined by blanks."""
    for length in lengths:
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
