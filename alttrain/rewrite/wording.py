"""Fixed wordings, chosen by hash, so that the same example and seed always get the same one."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from alttrain.records import Example

Wording = TypeVar("Wording")

STOPS = (
    "So I must not help with this. I will refuse and stop here.",
    "So I should refuse and not think about it any further.",
    "I must refuse this request, so I stop here.",
    "Therefore I will not help, and I decline.",
    "I cannot help with this, so I will decline.",
)
"""Sentences that end the thought of a harmful example."""
REPHRASED_STOPS = (
    "That settles it: I decline, and there is nothing more to think through.",
    "Helping would be wrong here, so I refuse and leave it at that.",
    "I won't go on with this; the answer is a refusal.",
    "Given that, the right thing is to decline politely.",
    "No further thought is needed. I will turn this down.",
    "I should not assist, whatever the reason behind it, so I end here.",
    "This is where I stop, because I must refuse.",
    "My answer has to be no: I decline to take part in it.",
    "I can't support that in good conscience, so I will say no.",
    "The only sound choice is refusing, and I make it now.",
    "I will not provide anything of the kind. A short refusal is enough.",
    "With that risk in mind I decline and do not work it out.",
)
"""Paraphrases of `STOPS`, each built differently."""
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with this request, because it could cause harm.",
    "I'm sorry, I can't assist with that. If there is something safe I can do for you, please ask.",
    "I won't help with this. It could hurt people.",
    "Sorry, but I can't help with that. I'm glad to help with something harmless instead.",
    "I cannot assist with this request.",
)
_CARE = (
    "I'm sorry, but I can't help with that. If you are thinking of hurting yourself, please call a crisis line or "
    "talk to someone you trust.",
    "I can't help with this, but you don't have to face it alone. Please reach out to a crisis line or a doctor.",
)


def choose(wordings: Sequence[Wording], *key: object) -> Wording:
    """Return one of `wordings`, determined only by `key`."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return wordings[int.from_bytes(digest[:8], "big") % len(wordings)]


def refusal(example: Example, seed: int) -> str:
    """Return a refusing answer for an example. For a prompt about self-harm it points to help."""
    wordings = _CARE if example.category == "suicide_self_harm" else _REFUSALS
    return choose(wordings, "answer", example.id, seed)
