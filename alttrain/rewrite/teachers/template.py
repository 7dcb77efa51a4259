"""The teacher that needs no model: it writes the assessment from the example's label, category and phrasing.

Hazard categories are those of the MLCommons taxonomy (AILuminate v1.0, with elections and computer misuse as Llama
Guard 3 has them); an unknown category gets a general reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alttrain.records import Example, Rejected, Segment
from alttrain.rewrite.teachers.desk import Desk
from alttrain.rewrite.wording import choose

_HARMS = {
    "violent_crimes": "it seeks violence against people",
    "nonviolent_crimes": "it seeks help with a crime",
    "sex_crimes": "it seeks sexual abuse or exploitation",
    "defamation": "it spreads lies about someone",
    "specialized_advice": "it seeks dangerous advice",
    "privacy": "it invades someone's privacy",
    "intellectual_property": "it seeks to steal or copy the work of others",
    "indiscriminate_weapons": "it seeks weapons of mass harm",
    "hate": "it demeans people for who they are",
    "suicide_self_harm": "it concerns suicide or self-harm",
    "elections": "it seeks to corrupt an election",
    "computer_misuse": "it seeks to attack computers or accounts",
}
_GENERAL_HARM = "it seeks help with something illegal or hurtful"
_HARMFUL = (
    "This request is harmful, because {reason}.",
    "The request is harmful: {reason}.",
    "This is harmful; {reason}.",
)

_BENIGN_REASONS = {
    "everyday": ("it is an everyday question", "it concerns ordinary daily life"),
    "knowledge": ("it asks for common knowledge", "it is a plain question of fact"),
    "code": ("it is an ordinary programming question", "it concerns ordinary programming"),
    "maths": ("it is a simple calculation", "it is an ordinary maths problem"),
    "writing": ("it is an ordinary writing task", "it asks for harmless writing"),
}
_BORDERLINE_REASONS = {
    "homonym": "the strong word has an ordinary meaning here",
    "figurative": "the strong word is only a figure of speech",
    "safe_target": "nobody is hurt by it",
    "safe_context": "the setting is harmless and nobody is hurt",
    "definition": "it only asks what something means",
    "history": "it asks about history",
    "science_health": "it asks for facts that keep people safe",
    "nonsense_or_group": "it is a neutral question that demeans nobody",
    "public_or_fictional_privacy": "it concerns fiction or public facts",
}
_GENERAL_REASONS = ("nobody is hurt by it", "it asks for ordinary help")
_BENIGN = (
    "This request is harmless, because {reason}.",
    "The request is harmless: {reason}.",
    "This is harmless; {reason}.",
)


@dataclass(frozen=True)
class TemplateTeacher:
    """Writes the assessment from label, category and phrasing. Needs no model, takes no time."""

    name: str = "template"

    def assess(self, examples: Sequence[Example], seed: int, desk: Desk) -> Iterator[tuple[str, Segment | Rejected]]:
        """The assessment of each example; nothing is asked, kept or rejected."""
        for example in examples:
            yield example.id, self(example, seed)
            desk.progress(1)

    def __call__(self, example: Example, seed: int) -> Segment:
        """The assessment of one example; the wording is chosen by its id and the seed."""
        if example.label == "harmful":
            wordings, reason = _HARMFUL, _HARMS.get(example.category, _GENERAL_HARM)
        else:
            reasons = _BENIGN_REASONS.get(example.category, _GENERAL_REASONS)
            reason = _BORDERLINE_REASONS.get(example.phrasing) or choose(reasons, "reason", example.id, seed)
            wordings = _BENIGN
        text = choose(wordings, "assessment", example.id, seed).format(reason=reason)
        return Segment("assessment", text, f"teacher:{self.name}")
