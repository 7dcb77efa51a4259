"""The teacher without a model. It writes the assessment from the example's label, category and phrasing.

Hazard categories are those of the MLCommons taxonomy (AILuminate v1.0, with elections and computer misuse as in Llama
Guard 3). Rows of other categories raise an error, because one generic reason would teach nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from alttrain.records import Example, Segment
from alttrain.rewrite.teachers.asked import Sentences, Teacher, TeacherContext
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
    "borderline": ("nobody is hurt by it", "it asks for ordinary help"),
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
_BENIGN = (
    "This request is harmless, because {reason}.",
    "The request is harmless: {reason}.",
    "This is harmless; {reason}.",
)


@dataclass(frozen=True)
class TemplateTeacher(Teacher):
    """Writes the assessment from label, category and phrasing."""

    name: str = "template"

    offline = True

    def check_rows(self, examples: Sequence[Example]) -> None:
        """Raise ValueError, listing the categories, if some examples have no known reason."""
        unknown = Counter((row.label, row.category) for row in examples if not _reasons(row))
        if not unknown:
            return
        counts = [f"{n} {label} of {category or 'no category'!r}" for (label, category), n in unknown.most_common()]
        named = ", ".join(counts[:8]) + (f", and {len(counts) - 8} more categories" if counts[8:] else "")
        raise ValueError(
            f"teacher=template has no reason for {unknown.total()} of {len(examples)} rows: {named}; choose "
            "a teacher that reads the request (teacher=gpt4o, server or backbone), or name categories it knows: "
            f"{', '.join(_HARMS)} for harmful rows, {', '.join(_BENIGN_REASONS)} for benign ones"
        )

    def assess(self, examples: Sequence[Example], seed: int, context: TeacherContext) -> Sentences:
        """Yield the assessment of each example. None is rejected. Raises ValueError as `check_rows` does."""
        self.check_rows(examples)
        for example in examples:
            yield example.id, self(example, seed)
            context.progress(1)

    def __call__(self, example: Example, seed: int) -> Segment:
        """Return the assessment of an example of a known category. Its id and the seed determine the wording."""
        reason = choose(_reasons(example), "reason", example.id, seed)
        wordings = _HARMFUL if example.label == "harmful" else _BENIGN
        text = choose(wordings, "assessment", example.id, seed).format(reason=reason)
        return Segment("assessment", text, f"teacher:{self.name}")


def _reasons(example: Example) -> Sequence[str]:
    """Return the reasons to choose from; none for an unknown category."""
    if example.label == "harmful":
        return [reason] if (reason := _HARMS.get(example.category)) else []
    if reason := _BORDERLINE_REASONS.get(example.phrasing):
        return [reason]
    return _BENIGN_REASONS.get(example.category, ())
