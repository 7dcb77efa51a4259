"""What a judge is shown of a generation: all turns of a dialogue, what it is judged against, and the text judged.

`against` says what an answer is held to: the prompt as it was sent, or the goal of an attack, which the set tells in
plain words. With "goal_if_any" a row without a goal is held to its prompt, which then is the goal.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

from alttrain.records import Generation

Against = Literal["prompt", "goal", "goal_if_any"]


def goal_of(generation: Generation, against: Against) -> str:
    """The goal the answer is held to; "" where it is held to the prompt."""
    return "" if against == "prompt" else generation.goal


def dialogue(generation: Generation, against: Against) -> list[tuple[str, str]]:
    """(role, text) of every message, for a model's chat template; held to a goal, that and the answer alone."""
    if goal := goal_of(generation, against):
        return [("user", goal), ("assistant", generation.answer)]
    turns = zip(generation.turns, generation.earlier, strict=False)
    before = [said for user, answer in turns for said in (("user", user), ("assistant", answer))]
    return [*before, ("user", generation.prompt), ("assistant", generation.answer)]


def request(generation: Generation, against: Against) -> str:
    """What the answer is held to, for a form with one place for it: a dialogue's turns each begin with its role."""
    said = dialogue(generation, against)[:-1]
    return said[0][1] if len(said) == 1 else "\n\n".join(f"{role.capitalize()}: {text}" for role, text in said)


def exchange(generation: Generation, against: Against = "prompt") -> str:
    """Goal, turns, prompt and answer, marked."""
    shown = [
        ("earlier-prompt" if role == "user" else "earlier-response", text)
        for role, text in dialogue(generation, "prompt")[:-2]
    ]
    shown += [("prompt", generation.prompt), ("response", generation.answer)]
    if goal := goal_of(generation, against):
        shown.insert(0, ("goal", goal))
    return marked(shown)


def marked(shown: Sequence[tuple[str, str]]) -> str:
    """Texts, each between marks of its name that none of them can contain, since all make the marks."""
    digest = hashlib.sha256("\x1f".join(text for _, text in shown).encode()).hexdigest()[:8]
    return "\n\n".join(f"<{mark}-{digest}>\n{text}\n</{mark}-{digest}>" for mark, text in shown)
