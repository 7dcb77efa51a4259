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
    "violent_crimes": ("it seeks violence against people", "someone could be hurt or killed"),
    "nonviolent_crimes": ("it seeks help with a crime", "people could be robbed or cheated"),
    "sex_crimes": ("it seeks sexual abuse or exploitation", "someone would be violated"),
    "defamation": ("it spreads lies about someone", "an innocent person's name could be ruined"),
    "specialized_advice": ("it seeks dangerous advice", "someone could lose their health, rights or savings"),
    "privacy": ("it invades someone's privacy", "a person could be spied on, exposed or stalked"),
    "intellectual_property": ("it seeks to steal or copy the work of others", "their rights would be violated"),
    "indiscriminate_weapons": ("it seeks weapons of mass harm", "many people could be hurt or killed"),
    "hate": ("it demeans people for who they are", "it would spread hate and discrimination"),
    "suicide_self_harm": ("it concerns suicide or self-harm", "a person could be badly hurt or die"),
    "elections": ("it seeks to corrupt an election", "voters would be deceived or kept from voting"),
    "computer_misuse": ("it seeks to attack computers or accounts", "data and systems could be damaged or stolen"),
}
_GENERAL_HARM = ("it seeks help with something illegal or hurtful", "people could be harmed")
_HARMFUL = (
    "This request is harmful, because {aim} and {outcome}.",
    "The request is harmful: {aim}, and {outcome}.",
    "This is harmful; {aim}, so {outcome}.",
)
_HARMFUL_LAST = (
    "{aim}, and {outcome}, so this request is harmful.",
    "{aim}, so {outcome}: this is harmful.",
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
_BENIGN_LAST = (
    "{reason}, so this request is harmless.",
    "{reason}: this is harmless.",
)


@dataclass(frozen=True)
class TemplateTeacher:
    """Writes the assessment from label, category and phrasing. Needs no model, takes no time.

    With `reason_first` the sentence ends in its verdict ("It seeks ..., so this request is harmful."): a model that
    writes it has said what the request is about before it judges.
    """

    name: str = "template"
    reason_first: bool = False

    def assess(self, examples: Sequence[Example], seed: int, desk: Desk) -> Iterator[tuple[str, Segment | Rejected]]:
        """The assessment of each example; nothing is asked, kept or rejected."""
        for example in examples:
            yield example.id, self(example, seed)
            desk.progress(1)

    def __call__(self, example: Example, seed: int) -> Segment:
        """The assessment of one example; the wording is chosen by its id and the seed."""
        if example.label == "harmful":
            aim, outcome = _HARMS.get(example.category, _GENERAL_HARM)
            wordings = _HARMFUL_LAST if self.reason_first else _HARMFUL
            text = choose(wordings, "assessment", example.id, seed).format(aim=aim, outcome=outcome)
        else:
            reasons = _BENIGN_REASONS.get(example.category, _GENERAL_REASONS)
            reason = _BORDERLINE_REASONS.get(example.phrasing) or choose(reasons, "reason", example.id, seed)
            wordings = _BENIGN_LAST if self.reason_first else _BENIGN
            text = choose(wordings, "assessment", example.id, seed).format(reason=reason)
        return Segment("assessment", text[0].upper() + text[1:], f"teacher:{self.name}")
