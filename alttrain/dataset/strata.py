"""Seeded orders of rows: shuffled, and mixed in proportion, so that any front part has the shares of the whole."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from alttrain.records import Example


def shuffled(rows: Sequence[Example], seed: int | None) -> list[Example]:
    """The rows in an order that only `seed` decides; with no seed as they are."""
    order = list(rows)
    if seed is not None:
        random.Random(f"order-{seed}").shuffle(order)
    return order


def stratified(rows: Sequence[Example], amount: int, seed: int | None) -> list[Example]:
    """`amount` rows with the shares of categories, and in each category of phrasings, that all rows have.

    A larger amount contains every smaller one.
    """
    return _interleaved(rows, lambda row: row.category, lambda group: _by_phrasing(group, seed))[:amount]


def proportional(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount` shared out by weight in whole numbers, the largest remainders rounded up."""
    total = sum(weights) or 1
    shares = [amount * weight // total for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda index: (-(amount * weights[index] % total), index))
    for index in remainders[: amount - sum(shares)]:
        shares[index] += 1
    return shares


def _by_phrasing(rows: Sequence[Example], seed: int | None) -> list[Example]:
    return _interleaved(shuffled(rows, seed), lambda row: row.phrasing, list)


def _interleaved(
    rows: Sequence[Example], key: Callable[[Example], str], order: Callable[[Sequence[Example]], list[Example]]
) -> list[Example]:
    """All rows, the groups that `key` makes mixed in proportion to their sizes, each group in its own `order`."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    ranked = [
        ((index + 0.5) / len(members), name, row)
        for name, members in groups.items()
        for index, row in enumerate(order(members))
    ]
    return [row for _, _, row in sorted(ranked, key=lambda entry: entry[:2])]
