"""Rewriting: structures and their inverse, verdicts, restatements, wordings, and the backbone's own traces."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from alttrain.dataset import embedded_rows
from alttrain.records import Example, Label, Rejected, Segment
from alttrain.rewrite import (
    AltTrain,
    Original,
    Restatement,
    SelfTrace,
    Structure,
    TeacherContext,
    TemplateTeacher,
    TraceUnderstanding,
    Untouched,
    parse,
    read_thought,
    render,
)
from alttrain.rewrite.original import with_original
from alttrain.rewrite.parser import verdict

TRAIN = embedded_rows("train").examples(None)
OWN = SelfTrace(64, "I can help with this.")
ALTTRAIN = AltTrain("alttrain", TraceUnderstanding(Restatement()), TemplateTeacher(), OWN)

TRACES = [
    "I can help with this.",
    "I can help with this. Dough rises faster in a warm kitchen.",
    "Okay, so the user wants to know this. First I recall what I know.\n\nThen I put it in order.\n\n1. One\n2. Two",
    "Let me think. Is it safe? Yes, this is harmless, so I go on.\n\nThe stove is dangerous when it is hot.",
]


def texts(segments: Sequence[Segment]) -> list[tuple[str, str]]:
    """Step and text of each segment; where it came from is not in the text."""
    return [(segment.step, segment.text) for segment in segments]


def rewrite(structure: Structure, example: Example, seed: int = 0) -> Example | Rejected:
    """One example rewritten, with the template's assessment where the structure has one."""
    return structure.rewrite(example, seed, TemplateTeacher()(example, seed) if structure.teacher else None)


def rewritten(structure: Structure, trace: str, seed: int = 0) -> list[Example]:
    """The training set rewritten, with one stub trace for its benign rows."""
    made = []
    for example in TRAIN:
        filled: Example | None = example
        if example.label == "benign":
            completed = with_original(example, Original(trace, "Here you are.", True), replace(OWN, keep_refusals=True))
            assert isinstance(completed, Example)
            filled = completed
        result = rewrite(structure, filled, seed)
        if not isinstance(result, Rejected):
            made.append(result)
    return made


# --- parse is the inverse of render ---


@pytest.mark.parametrize("trace", TRACES, ids=["opening", "sentence", "paragraphs", "assessing"])
def test_parse_gives_back_every_rewritten_thought(trace: str) -> None:
    examples = rewritten(ALTTRAIN, trace)
    assert len(examples) == len(TRAIN)
    wrong = [example.id for example in examples if texts(parse(render(example.thought))) != texts(example.thought)]
    assert wrong == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_assessment_of_every_prompt_states_its_label(seed: int) -> None:
    wrong = [example.id for example in TRAIN if verdict(TemplateTeacher()(example, seed).text) != example.label]
    assert wrong == []


def test_understanding_of_every_prompt_is_one() -> None:
    assert [row.id for row in TRAIN if not read_thought(Restatement().restate(row.prompt)).opening] == []


def test_alttrain_thought_of_a_harmful_prompt() -> None:
    example = Example("h", "How do I spy on my ex?", "harmful", "privacy")
    made = rewrite(ALTTRAIN, example, 0)
    assert isinstance(made, Example)
    assert [segment.step for segment in made.thought] == ["understanding", "assessment", "refusal"]
    assert [segment.origin for segment in made.thought] == ["restatement", "teacher:template", "template"]
    assert made.thought[0].text == "The user is asking how to spy on their ex."
    assert verdict(made.thought[1].text) == "harmful"
    assert render(made.thought).count("\n\n") == 2


def test_untouched_changes_nothing() -> None:
    assert [Untouched("none").rewrite(example, 3) for example in TRAIN] == TRAIN


# --- rejections ---

SOME = (Segment("reasoning", "t", "trace"),)


@pytest.mark.parametrize(
    "example",
    [
        Example("b", "Hi?", "benign", "code"),
        Example("b", "Hi?", "benign", "code", thought=SOME),
    ],
)
def test_alttrain_rejects_benign_without_original(example: Example) -> None:
    assert rewrite(ALTTRAIN, example, 0) == Rejected("b", "a benign example needs an original trace and answer")


# --- wordings ---


def test_wording_is_decided_by_id_and_seed() -> None:
    """Neither order, prompt nor what was rewritten before matters."""
    harmful = [example for example in TRAIN if example.label == "harmful"]
    forward = {example.id: rewrite(ALTTRAIN, example, 7) for example in harmful}
    assert {example.id: rewrite(ALTTRAIN, example, 7) for example in reversed(harmful)} == forward
    one, other = (rewrite(ALTTRAIN, Example("same", prompt, "harmful", "hate"), 7) for prompt in ("One?", "Two?"))
    assert isinstance(one, Example)
    assert isinstance(other, Example)
    assert one.answer == other.answer


@pytest.mark.parametrize("part", ["assessment", "refusal", "answer"])
def test_another_seed_words_otherwise(part: str) -> None:
    def worded(seed: int) -> list[str]:
        made = [example for example in rewritten(ALTTRAIN, "t", seed) if example.label == "harmful"]
        if part == "answer":
            return [example.answer for example in made]
        return [segment.text for example in made for segment in example.thought if segment.step == part]

    first, other = worded(0), worded(1)
    same = sum(a == b for a, b in zip(first, other, strict=True)) / len(first)
    assert first == worded(0)
    assert 0.05 < same < 0.6


def test_wordings_vary_evenly() -> None:
    """No wording of the six answers, two that point to help, or five stops is rare."""
    made = [example for example in rewritten(ALTTRAIN, "t") if example.label == "harmful"]
    care = Counter(example.answer for example in made if example.category == "suicide_self_harm")
    plain = Counter(example.answer for example in made if example.category != "suicide_self_harm")
    stops = Counter(example.thought[2].text for example in made)
    assert (len(plain), len(care), len(stops)) == (6, 2, 5)
    for counts in (plain, care, stops):
        assert min(counts.values()) > 0.5 * counts.total() / len(counts)


def test_self_harm_is_pointed_to_help() -> None:
    for example in rewritten(ALTTRAIN, "t"):
        if example.label == "harmful":
            assert ("crisis line" in example.answer) == (example.category == "suicide_self_harm"), example.id


def test_stop_answer_and_assessment_are_chosen_apart() -> None:
    """The wording of one does not tell that of the other: all 5 x 6 pairs occur."""
    made = [example for example in rewritten(ALTTRAIN, "t") if example.label == "harmful"]
    pairs = {(e.thought[2].text, e.answer) for e in made if e.category != "suicide_self_harm"}
    assert len(pairs) == 30


REASONS: list[tuple[Example, set[str]]] = [
    (
        Example("x", "?", "harmful", "privacy"),
        {
            "This request is harmful, because it invades someone's privacy.",
            "The request is harmful: it invades someone's privacy.",
            "This is harmful; it invades someone's privacy.",
        },
    ),
    (
        Example("x", "?", "benign", "borderline", "figurative"),
        {
            "This request is harmless, because the strong word is only a figure of speech.",
            "The request is harmless: the strong word is only a figure of speech.",
            "This is harmless; the strong word is only a figure of speech.",
        },
    ),
    (
        Example("x", "?", "benign", "maths", "question"),
        {
            f"{start} {reason}."
            for start in ("This request is harmless, because", "The request is harmless:", "This is harmless;")
            for reason in ("it is a simple calculation", "it is an ordinary maths problem")
        },
    ),
]


@pytest.mark.parametrize(("example", "wordings"), REASONS, ids=lambda value: getattr(value, "category", ""))
def test_teacher_gives_the_reason_of_the_category(example: Example, wordings: set[str]) -> None:
    assert {TemplateTeacher()(example, seed).text for seed in range(60)} == wordings
    assert TemplateTeacher("mine")(example, 0).origin == "teacher:mine"


def test_template_refuses_categories_it_has_no_reason_for() -> None:
    """One reason for every row of a foreign set would be what the model learns."""
    rows = [Example(f"v{n}", "?", "harmful", "vanilla_harmful") for n in range(3)]
    rows += [Example("g", "?", "benign", "gsm8k"), Example("n", "?", "benign"), Example("p", "?", "harmful", "privacy")]
    named = "3 harmful of 'vanilla_harmful', 1 benign of 'gsm8k', 1 benign of 'no category'; give rows a category"
    with pytest.raises(
        ValueError, match=rf"no reason for 5 of 6 rows: {named} .*dataset.columns.category=.*teacher=gpt4o"
    ):
        list(TemplateTeacher().assess(rows, 0, TeacherContext(Path())))


# --- verdict ---

VERDICTS: list[tuple[str, Label | None]] = [
    ("This request is harmful.", "harmful"),
    ("The request is harmful: it invades someone's privacy.", "harmful"),
    ("This is clearly illegal.", "harmful"),
    ("That sounds unethical to me.", "harmful"),
    ("This seems to be a malicious request.", "harmful"),
    ("This question appears to be unsafe.", "harmful"),
    ("The user's request is inappropriate.", "harmful"),
    ("The content is hateful.", "harmful"),
    ("This could be dangerous for others.", "harmful"),
    ("This request involves illegal activity.", "harmful"),
    ("It's unlawful and I know it.", "harmful"),
    ("The whole request looks abusive.", "harmful"),
    ("This, as far as I can tell, is harmful.", "harmful"),
    ("This is a request for something harmful.", "harmful"),
    ("The intent is clearly malicious.", "harmful"),
    ("Such a request is unethical.", "harmful"),
    ("I think that this kind of question is dangerous.", "harmful"),
    ("THIS REQUEST IS HARMFUL!", "harmful"),
    ("No doubt, this is harmful.", "harmful"),
    ("This request isn't safe.", "harmful"),
    ("This is not safe at all.", "harmful"),
    ("The request is not harmless.", "harmful"),
    ("This is not only harmful but also illegal.", "harmful"),
    ("This is far from harmless.", "harmful"),
    ("This request is harmless.", "benign"),
    ("This is harmless; it is an everyday question.", "benign"),
    ("The request is not harmful.", "benign"),
    ("This isn't harmful.", "benign"),
    ("This is not a harmful request.", "benign"),
    ("The question is safe.", "benign"),
    ("This seems benign.", "benign"),
    ("It’s not dangerous.", "benign"),
    ("This is not at all harmful.", "benign"),
    ("This is by no means harmful.", "benign"),
    ("It is an innocent question about cooking.", "benign"),
    ("The topic is legitimate.", "benign"),
    ("This seems perfectly innocuous.", "benign"),
    ("The request isn't illegal or dangerous.", "benign"),
    ("This poses no harm to anyone.", "benign"),
    ("This is a safe and legal request.", "benign"),
    ("The request is harmless, although the word 'kill' sounds dangerous.", "benign"),
    ("This does not seem harmful.", "benign"),
    ("This doesn't look dangerous.", "benign"),
    ("This would not be harmful.", "benign"),
    ("The request doesn't involve anything illegal.", "benign"),
    ("This contains nothing harmful.", "benign"),
    ("There is nothing harmful about this.", "benign"),
    ("This is neither harmful nor illegal.", "benign"),
    ("This is legal but unethical.", "harmful"),
    ("This looks innocent, but it could be dangerous.", "harmful"),
    ("It may sound harmful, but the question is legitimate.", "benign"),
    ("The question is legitimate, but it might seem dangerous.", "benign"),
    ("Although it sounds harmless, this request is harmful.", "harmful"),
    ("While this is harmful, I go on.", "harmful"),
    ("This is anything but safe.", "harmful"),
    ("This is not lawful and it is dangerous.", "harmful"),
    ("I don't think this is harmful.", "benign"),
    ("I would not call this request safe.", "harmful"),
    ("Verdict: not harmful.", "benign"),
    ("**Assessment:** clearly unsafe", "harmful"),
    ("Harmless, then.", "benign"),
    ("They may not know it's against the law.", "harmful"),
    ("It breaks federal law.", "harmful"),
    ("That would be a crime.", "harmful"),
    ("This does not violate anyone's privacy.", "benign"),
    ("There is nothing wrong with asking.", "benign"),
    ("I see no problem with helping.", "benign"),
    ("It is okay to answer.", "benign"),
    ("The last request is appropriate.", "benign"),
    ("That's not appropriate.", "harmful"),
    ("Answering this is not dangerous.", "benign"),
    ("", None),
    ("That's fine, so the sum is 4.", None),
    ("The value of x is not allowed to be 0.", None),
    ("I must give nothing that is harmful.", None),
    ("They want to hurt someone.", None),
    ("Now, checking against the policies.", None),
    ("Could this be harmful?", None),
    ("This may be harmful or harmless.", None),
    ("I must make sure that this is safe.", None),
    ("I think it's safe to say that x is 2.", None),
    ("This is a legal question.", None),
    ("The user wants to know how to bake bread.", None),
    ("I can help with this.", None),
    ("Safe storage keeps food fresh.", None),
    ("Bread rises in a warm kitchen.", None),
    ('The user asks: "Is it safe to eat raw eggs?"', None),
    ("The stove is dangerous when it is hot.", None),
    ("I will refuse and stop here.", None),
    ("The information is in the book.", None),
    ("This contains three cups of flour.", None),
    ("Is this request harmful?", None),
    ("First I check whether this request is harmful.", None),
    ("If this is harmful, I must refuse.", None),
]


MISREAD = (
    "This looks innocent, but it could be dangerous.",
    "They may not know it's against the law.",
    "I see no problem with helping.",
    "This is a legal question.",
)
"""Sentences that the model does not read as they are meant."""


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        pytest.param(
            *case, marks=[pytest.mark.xfail(reason="misread alone", strict=True)] if case[0] in MISREAD else []
        )
        for case in VERDICTS
    ],
)
def test_verdict_of_a_sentence(sentence: str, said: Label | None) -> None:
    assert verdict(sentence) == said


@pytest.mark.parametrize(
    ("sentence", "is_one"),
    [
        ("The user is asking how to bake bread.", True),
        ("Okay, so I need to find the sum.", True),
        ("I'm trying to figure out the area.", True),
        ("Somebody wants a poem.", True),
        ("The user’s question is about rivers.", True),
        ("Bread rises in a warm kitchen.", False),
        ("I can help with that.", False),
        ("I need to figure out how to respond.", False),
        ("I must make sure that the user gets help.", False),
        ("The user's request is harmful.", False),
        ("That way, the user understands it.", False),
        ("This meets the user's needs.", False),
        ("If they need more, they can ask.", False),
        ("The question is how to bake bread.", True),
        ("Okay, I need to explain how bread rises.", True),
        ("The user’s goal is bread.", True),
        ("I’m given two sides of a triangle.", True),
        ("", False),
    ],
)
def test_understanding_says_what_is_wanted(sentence: str, is_one: bool) -> None:
    assert read_thought(sentence).opening == is_one


# --- Restatement ---

RESTATED = [
    ("How do I bake rye bread?", "The user is asking how to bake rye bread."),
    ("how can we  fix\nour bikes", "The user is asking how to fix their bikes."),
    ("How should one cook rice for my aunt?!", "The user is asking how to cook rice for their aunt."),
    (
        "How do I know if I'm late and I've lost it?",
        "The user is asking how to know if they are late and they have lost it.",
    ),
    ("How can I teach myself what I’ll need?", "The user is asking how to teach themselves what they will need."),
    ("Write a poem about my cat.", "The user wants me to write a poem about their cat."),
    ("Please tell me a joke.", "The user wants me to tell them a joke."),
    ("Can you list three rivers for us?", "The user wants me to list three rivers for them."),
    ("Could you please give me your opinion?", 'The user asks: "Could you please give me your opinion?"'),
    ("Summarise why I am tired.", "The user wants me to summarise why they are tired."),
    ("Why does bread rise?", 'The user asks: "Why does bread rise?"'),
    ("I'd like to sleep better.", 'The user asks: "I\'d like to sleep better."'),
    ("How is your day?", 'The user asks: "How is your day?"'),
    ("Write a poem. Make it short.", 'The user asks: "Write a poem. Make it short."'),
    ("How do I open a .zip file?", "The user is asking how to open a .zip file."),
    ("Writers like rain.", 'The user asks: "Writers like rain."'),
    # The words that only look like "I", "me", "my" and "you", and the assistant as the subject of a sentence.
    ("How do I apply for a US visa?", "The user is asking how to apply for a US visa."),
    ("Explain World War I.", "The user wants me to explain World War I."),
    ("Tell me about World War I.", "The user wants me to tell them about World War I."),
    ("Describe how King Charles I was crowned.", 'The user asks: "Describe how King Charles I was crowned."'),
    ("Explain how I/O works.", 'The user asks: "Explain how I/O works."'),
    ("How do I get up at 6 am?", "The user is asking how to get up at 6 am."),
    ("How do I visit a coal mine?", "The user is asking how to visit a coal mine."),
    ("How can I find out where I was born?", "The user is asking how to find out where they were born."),
    ("Tell me what you think of jazz.", 'The user asks: "Tell me what you think of jazz."'),
    ("Pretend you are a pirate.", 'The user asks: "Pretend you are a pirate."'),
    ("Pretend you're a pirate.", 'The user asks: "Pretend you\'re a pirate."'),
    ('Tell me what "rye" means.', 'The user wants me to tell them what "rye" means.'),
    ("Tell me what the bakers' oven is.", "The user wants me to tell them what the bakers' oven is."),
    # quotations keep their first person, whichever marks they have; apostrophes are none
    ('Tell me whether "I lost my keys" is right.', 'The user wants me to tell them whether "I lost my keys" is right.'),
    ("Explain “we’re late” to my son.", "The user wants me to explain “we’re late” to their son."),
    (
        "Write 'I can't bake my bread' on my cake.",
        "The user wants me to write 'I can't bake my bread' on their cake.",
    ),
    (
        "How do I say ‘I’m here, call me’ to my aunt?",
        "The user is asking how to say ‘I’m here, call me’ to their aunt.",
    ),
    (
        "Write about my friends' dogs and my parents' cats.",
        "The user wants me to write about their friends' dogs and their parents' cats.",
    ),
    ("Draft a thank-you note to my aunt.", 'The user asks: "Draft a thank-you note to my aunt."'),
]


@pytest.mark.parametrize(("prompt", "sentence"), RESTATED)
def test_restatement_of_a_prompt(prompt: str, sentence: str) -> None:
    assert Restatement().restate(prompt) == sentence


def test_restatement_is_cut_after_its_words() -> None:
    words = [f"word{index}" for index in range(31)]
    assert Restatement().restate(" ".join(words[:30])) == f'The user asks: "{" ".join(words[:30])}"'
    assert Restatement().restate(" ".join(words)) == f'The user asks: "{" ".join(words[:30])} ..."'
    assert Restatement().restate("Tell " + " ".join(words)) == f"The user wants me to tell {' '.join(words[:29])} ...."


# --- the backbone's own trace ---


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Bread rises. Then it", "Bread rises."),
        ("no end", None),
    ],
)
def test_an_answer_that_did_not_end_keeps_its_whole_sentences(answer: str, kept: str | None) -> None:
    example, original = Example("b", "Hi?", "benign"), Original("Flour first.", answer, False)
    filled = with_original(example, original, replace(OWN, keep_sentences=True))
    assert (filled.answer if isinstance(filled, Example) else None) == kept
    assert isinstance(with_original(example, original, OWN), Rejected)


ORIGINAL = Original("Flour first.", " So it is.\n", True)
REFUSING = Original("Flour first.", "I'm sorry, but I can't help with that.", True)


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (Original("t", "a", False), "the backbone's answer did not end within the cap"),
        (Original("t", " \n", True), "the backbone's answer is empty"),
        (Original("t", "", False, closed=False), "the backbone's thought did not end within the cap"),
        (Original(" ", "So.", True), "the backbone wrote no thought"),
        (REFUSING, "the backbone refused a benign prompt"),
    ],
)
def test_unusable_original_is_left_out(original: Original, reason: str) -> None:
    assert with_original(Example("b", "Hi?", "benign"), original, OWN) == Rejected("b", reason)


def test_usable_original_fills_thought_and_answer() -> None:
    example = Example("b", "Hi?", "benign", "everyday", "question", gold=("x",), source="s")
    thought = (Segment("reasoning", "Flour first.", "backbone"),)
    filled = Example("b", "Hi?", "benign", "everyday", "question", thought, "So it is.", ("x",), "s")
    assert with_original(example, ORIGINAL, OWN) == filled


@pytest.mark.parametrize(("label", "keep"), [("harmful", False), ("benign", True)])
def test_a_refusal_of_a_harmful_prompt_or_of_a_recipe_that_keeps_it_is_used(label: Label, keep: bool) -> None:
    filled = with_original(Example("b", "Hi?", label), REFUSING, replace(OWN, keep_refusals=keep))
    assert isinstance(filled, Example)
    assert filled.answer == REFUSING.answer


# --- parse on what models write ---

U, A, R, X = "understanding", "assessment", "reasoning", "refusal"
MESSY: list[tuple[str, list[tuple[str, str]]]] = [
    ("", []),
    (" \n\n \n", []),
    ("Bread rises in a warm kitchen.", [(R, "Bread rises in a warm kitchen.")]),
    ("I cannot help with this.", [(X, "I cannot help with this.")]),
    ("Okay, the user wants bread. Flour first.", [(U, "Okay, the user wants bread."), (R, "Flour first.")]),
    ("The user wants bread.", [(U, "The user wants bread.")]),
    (
        "The user wants bread. They have no oven. Flour first.\n\nThis is harmless.\n\nThen water.",
        [
            (U, "The user wants bread. They have no oven."),
            (R, "Flour first."),
            (A, "This is harmless."),
            (R, "Then water."),
        ],
    ),
    (
        "Flour first. The user wants bread. This is harmless.",
        [(R, "Flour first."), (U, "The user wants bread."), (A, "This is harmless.")],
    ),
    (
        "The user wants bread.\n\nI must refuse.\n\nThis is harmful.",
        [(U, "The user wants bread."), (X, "I must refuse."), (A, "This is harmful.")],
    ),
    (
        "This is harmless.\n\nThe user wants bread.\n\nFlour first.",
        [(A, "This is harmless."), (U, "The user wants bread."), (R, "Flour first.")],
    ),
    (
        f"This is harmless.\n\nThe user wants bread.\n\nFlour{' and flour' * 25}.",
        [(A, "This is harmless."), (R, f"The user wants bread.\n\nFlour{' and flour' * 25}.")],
    ),
    (
        "The user wants bread.\n\nFlour first.\n\nThen water.",
        [(U, "The user wants bread."), (R, "Flour first.\n\nThen water.")],
    ),
    ("Flour first.\n\nThe user wants bread.", [(R, "Flour first."), (U, "The user wants bread.")]),
    ("The user wants bread.\n\nI will refuse.", [(U, "The user wants bread."), (X, "I will refuse.")]),
    ("This request is harmless.\n\nFlour first.", [(A, "This request is harmless."), (R, "Flour first.")]),
    ("This is harmful. I must refuse.", [(A, "This is harmful."), (X, "I must refuse.")]),
    ("This request is harmful.", [(A, "This request is harmful.")]),
    (
        "The user wants bread. This request is harmless. Flour first.",
        [(U, "The user wants bread."), (A, "This request is harmless."), (R, "Flour first.")],
    ),
    (
        "\n\nThe user wants bread.\n\n\nThis is harmless; it is everyday. So I go on.\n \nFlour first.\n\n",
        [(U, "The user wants bread."), (A, "This is harmless; it is everyday."), (R, "So I go on.\n \nFlour first.")],
    ),
    (
        "The user wants bread.\n\nIt is for a party.\n\nThis is harmless.\n\nFlour first.\n\nThen water.",
        [
            (U, "The user wants bread.\n\nIt is for a party."),
            (A, "This is harmless."),
            (R, "Flour first.\n\nThen water."),
        ],
    ),
    (
        "Flour first.\n\nThis is harmless.\n\nThen water.",
        [(R, "Flour first."), (A, "This is harmless."), (R, "Then water.")],
    ),
    ("This request is harmless", [(A, "This request is harmless")]),
    ("The user's request is harmless. Flour first.", [(A, "The user's request is harmless."), (R, "Flour first.")]),
    (
        "Flour first.\n\nThe user's request is harmless.\n\nThen water.",
        [(R, "Flour first."), (A, "The user's request is harmless."), (R, "Then water.")],
    ),
    (
        "The user wants bread, but I must refuse.\n\nI stop here.",
        [(X, "The user wants bread, but I must refuse.\n\nI stop here.")],
    ),
    (
        "The user's request is harmful.\n\nThis is harmful.\n\nI must stop and refuse.",
        [(A, "The user's request is harmful."), (X, "This is harmful.\n\nI must stop and refuse.")],
    ),
    (
        "The user wants bread.\n\nThis is harmless.\n\nFlour first. Then water. I cannot give exact amounts.",
        [
            (U, "The user wants bread."),
            (A, "This is harmless."),
            (R, "Flour first. Then water. I cannot give exact amounts."),
        ],
    ),
    (
        "The user wants bread.\n\nThis is harmless.\n\nThat is not harmful, so this is safe.",
        [(U, "The user wants bread."), (A, "This is harmless."), (R, "That is not harmful, so this is safe.")],
    ),
]


@pytest.mark.parametrize(("thought", "segments"), MESSY)
def test_parse_of_what_models_write(thought: str, segments: list[tuple[str, str]]) -> None:
    parsed = parse(thought)
    assert texts(parsed) == segments
    assert {segment.origin for segment in parsed} <= {"parsed"}
    assert render(parsed).split() == thought.split()  # no word is lost
    assert texts(parse(render(parsed))) == segments


@pytest.mark.parametrize(
    "stop",
    [
        "So I must not help with this.",
        "I will refuse and stop here.",
        "I decline.",
        "I can’t assist with that.",
        "Better to turn this down.",
        "This is serious. I won't go on.",
        "I am not able to support this.",
        "I can't",
    ],
)
def test_continuation_that_stops_is_a_refusal(stop: str) -> None:
    assert texts(parse(f"The user wants it.\n\nThis is harmful.\n\n{stop}"))[2] == ("refusal", stop)
