"""Train alttrain/english/thought.tsv: what the sentences of a thought say.

    python scripts/train_thoughts.py    # writes the weights; scripts/measure_parser.py measures them

Four sources, none of them a test set:

- traces that people labelled by reading (tests/trace_labels.jsonl), without those marked `held`
- thoughts that our own rewrite makes from the packaged training prompts; each segment has a known step
- sentences built from the wordings below, which reverse a verdict by negation, condition, question and concession
- the same sentences in place of a step

There is one logistic regression per label, on the features that at least two sentences have. The `KEPT` features with
the largest weights are kept and fitted again. It is seeded: the same data give the same file.
"""

# ruff: noqa: E501 - the wordings are lists

import argparse
import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from trace_labels import LABELS, SHARED, LabelledTrace, labelled_traces

from alttrain.dataset import embedded_rows
from alttrain.english.linear import LinearModel
from alttrain.english.sentences import sentences
from alttrain.english.thought import LETTERS, features
from alttrain.records import Example, Rejected, Segment
from alttrain.rewrite import AltTrain, Restatement, TemplateTeacher, TraceUnderstanding
from alttrain.rewrite.structures import REPHRASED_STOPS, STOPS

WEIGHTS = Path(__file__).parents[1] / "alttrain" / "english" / "thought.tsv"
STRENGTH = 20.0
"""Inverse of the penalty on the weights (scikit-learn's C)."""
KEPT = 11_000
"""Features in the file."""
BUILT = 400
"""Sentences built of each kind."""
BUILT_WEIGHT = 0.3
"""What a built sentence counts, where one that a person labelled counts 1."""
Thought = tuple[list[str], list[str], float]
"""The sentences of a thought, the letters of each, and what each counts."""

# --- sentences of known meaning ---

_ABOUT = (
    "this|this request|the request|the user's request|that|it|this question|the question|such a request|what they ask for|"
    "the whole request|this kind of request|the topic|the content|the intent|the intent behind this|helping with this|"
    "answering this|providing this|giving instructions for it|this prompt|the query|their request|what the user wants|"
    "this task|the problem|doing that|sharing this|the information|each request|the last message"
)
_HARMFUL = (
    "harmful|dangerous|illegal|unethical|unsafe|malicious|hateful|abusive|unlawful|criminal|immoral|inappropriate|"
    "offensive|against the law|against the policy|a crime|a violation of privacy|harassment|unacceptable|wrong|"
    "a clear violation|hurtful|a threat to others|problematic|fraud|theft|not allowed|risky for others|toxic"
)
_HARMLESS = (
    "harmless|safe|benign|fine|legitimate|innocent|innocuous|okay|acceptable|unproblematic|ethical|legal|lawful|"
    "perfectly normal|reasonable|an ordinary request|an everyday question|allowed|appropriate|a legitimate question|"
    "a normal question|within the policy|ok|permitted|not a problem|a harmless question|a safe topic|valid"
)
_STATES = (
    "{a} is {w}.|{a} is clearly {w}.|{a} seems {w}.|{a} looks {w} to me.|{a} sounds {w}.|{a} appears to be {w}.|"
    "{a} would be {w}.|{a} could be {w}.|I think {a} is {w}.|I consider {a} {w}.|so {a} is {w}.|okay, {a} is {w}.|"
    "{a} is {w}, because {r}.|{a} is {w}: {r}.|{a} is {w}; {r}.|since {r}, {a} is {w}.|{a} is {w} and {w2}.|"
    "hmm, {a} is {w}.|well, {a} is definitely {w}.|{a} is really {w}, so I know what to do.|my assessment: {w}.|"
    "verdict: {w}.|assessment: {a} is {w}.|**assessment:** {w}|clearly {w}.|{w}, then.|yes, {a} is {w}.|"
    "no doubt, {a} is {w}.|in my judgement {a} is {w}.|this makes {a} {w}.|I find {a} {w}.|{a} is simply {w}|"
    "I would call {a} {w}.|{a} must be seen as {w}.|all in all {a} is {w}.|{a} remains {w}.|I judge that {a} is {w}.|"
    "{a} is {w} {t}.|{a} could be {w} {t}.|that would be {w} {t}.|this is {w} {t}.|{g} is {w}.|{g} is {w} {t}.|"
    "{g} would be {w}, and {a} is {w2}.|this is not only {w} but also {w2}.|this seems to be a {w} request.|"
    "this is a {w} question.|{a}, as far as I can tell, is {w}.|it's {w} and I know it.|it's {w}.|**Assessment:** {w}|"
    "they may not know that it's {w}.|{a} is {w}, so I know.|while this is {w}, I go on.|anyway, this is {w}.|{a} is mildly {w}.|{g} is a {w} request.|that's {w} {t}."
)
_TAILS = (
    "for everyone|to readers|to other people|in most places|for them|in many countries|to do so|to say|for others|"
    "for the people there|at this age|for a child|to anyone|to me|for the user|in every case|in this form|as it stands"
)
_GERUNDS = (
    "asking this|asking how it works|answering this|explaining it|writing such a text|giving the steps|sharing that|"
    "helping them|doing so|describing it|providing such details|asking what to avoid|discussing it|talking about this"
)
_DENIES = (
    "{a} is not {w}.|{a} isn't {w}.|{a} is not at all {w}.|{a} is by no means {w}.|{a} does not seem {w}.|"
    "{a} doesn't look {w}.|{a} would not be {w}.|I don't think {a} is {w}.|I do not believe that {a} is {w}.|"
    "{a} is far from {w}.|{a} is anything but {w}.|{a} is hardly {w}.|I would not call {a} {w}.|{a} is never {w}.|"
    "{a} is neither {w} nor {w2}.|{a} isn't {w} or {w2}.|verdict: not {w}.|{a} is not {w}, because {r}.|"
    "I can't say that {a} is {w}.|no, {a} is not {w}.|nothing about it is {w}.|there is nothing {w} about this.|"
    "there's nothing {w} here.|nothing suggests that {a} is {w}.|{a} involves nothing {w}.|{a} contains nothing {w}."
)
_TURNED = (
    "although {a} sounds {v}, it is {w}.|{a} may sound {v}, but it is {w}.|{a} looks {v}, but {a} is {w}.|"
    "{a} is {w}, although it sounds {v}.|while it seems {v}, {a} is {w}.|even though it may look {v}, {a} is {w}.|"
    "it might seem {v}; however, {a} is {w}.|at first {a} appeared {v}, yet it is {w}.|{a} is {w}, even if it sounds {v}.|"
    "{a} is {v} but {w}.|{a} looks {v}, but it could be {w}.|{a} is {v}, but {w}.|{a} is not {v} but {w}.|{a} is {w}, not {v}.|despite sounding {v}, {a} is {w}."
)
_OPEN = (
    "is {a} {w}?|could {a} be {w}?|would {a} be {w}?|if {a} is {w}, I must be careful.|if {a} were {w}, I would stop.|"
    "I have to check whether {a} is {w}.|first I check if {a} is {w}.|I must make sure that {a} is {w}.|"
    "let me see whether {a} is {w} or not.|{a} may be {w} or {v}.|I should not give anything that is {w}.|"
    "anything {w} must be refused.|{w} requests must be refused.|the policy says that {w} things are to be declined.|"
    "the rules speak of content that is {w}.|I wonder whether {a} is {w}.|what makes something {w}?|"
    'the user asks: "is it {w}?"|the user wants to know if it is {w} to park there.|I cannot tell whether {a} is {w}.|'
    "it is {w} to assume that x is 2.|the stove is {w} when it is hot.|some mushrooms are {w}.|the value is {w} here.|"
    "in the story the plan is {w}.|driving fast is {w} on ice.|that's {w}, so x is 4.|unless {a} is {w}, I can go on.|"
    "the substance is {w} at high heat.|the tool is {w} when used with care.|{w} storage keeps food fresh."
)
_DEEDS = (
    "hurt people|hurt someone|harm others|endanger lives|break the law|violate someone's privacy|violate the policy|"
    "cause serious harm|spread lies about someone|put people at risk|enable a crime|encourage violence|demean a group|"
    "lead to identity theft|facilitate harassment|help someone steal|promote hatred|infringe on copyright|do damage"
)
_DOES = (
    "this would {d}.|it could {d}.|that will {d}.|helping here would {d}.|answering would {d}.|providing this might {d}.|"
    "giving these details could {d}.|following this request would {d}.|such advice would {d}.|it is meant to {d}."
)
_DOES_NOT = (
    "this would not {d}.|it does not {d}.|that won't {d}.|answering doesn't {d}.|nothing in it would {d}.|"
    "it can't {d}.|a reply will not {d}.|there is no way it could {d}.|explaining this does not {d}."
)
_DEEDS_OPEN = (
    "the user wants to {d}.|they ask how to {d}.|could this {d}?|if it would {d}, I must stop.|I must not {d}.|"
    "I have to make sure that I do not {d}.|people who {d} are punished.|the policy forbids content that would {d}."
)
_HARMFUL_ALSO = (
    "this falls under the hate policy.|this falls into the category of illegal activities.|that's a red flag.|"
    "this goes against the guidelines.|the user is asking for something harmful.|this is a request for illegal help.|"
    "that crosses a line.|there is no legitimate use for this.|the user intends to hurt someone, and that is wrong.|"
    "I see real harm in this request.|people would get hurt.|someone could get hurt by this.|this asks me to help with a crime.|"
    "the policy on privacy is violated by this request.|it isn't safe to answer.|this counts as harassment.|"
    "it breaks federal law.|the request involves stolen goods and that's illegal.|this poses a serious danger to others."
)
_HARMLESS_ALSO = (
    "there is nothing wrong with asking this.|there's no harm in answering.|no one gets hurt by this.|nobody is hurt by it.|"
    "I see no problem with this request.|no policy is violated here.|it does not break any rule.|"
    "this doesn't violate any policies.|there is no risk in explaining it.|it's okay to answer.|it is fine to help here.|"
    "I don't see any issue with that.|the user only wants ordinary help.|none of the policies apply here.|"
    "it's just a question about cooking, so no concern here.|this is an ordinary question about daily life.|"
    "there are no safety concerns with this.|the request doesn't fall under any restricted category.|"
    "this is about history, which is allowed.|the strong word is only a figure of speech.|no harm is intended.|"
    "the user isn't asking for anything harmful.|they are not asking for anything illegal.|no danger here.|"
    "nothing harmful is being asked.|killing a process is a technical term, so this is fine.|it poses no risk to anyone.|"
    "the user has a legitimate reason and the question is educational.|that's a perfectly fine thing to ask."
)
_REFUSES = (
    "I must refuse.|I will refuse.|I should decline.|I have to decline.|I refuse.|I decline.|so I must not help with this.|"
    "I cannot help with this.|I can't assist with that.|I won't do it.|I will not provide that.|I can't provide this information.|"
    "I cannot give them that.|I should not answer this.|I must not comply.|therefore I will not continue.|"
    "I am not able to support this.|I'm unable to help here.|the right answer is a refusal.|my answer has to be no.|"
    "I will say no.|I stop here and refuse.|I will turn this down.|better to turn it down.|I have to turn this request down.|"
    "so the response must be a refusal.|I should politely refuse and offer other help.|I won't go on.|I can't fulfil this request.|"
    "I shouldn't provide any details.|I should refuse and point them to a hotline.|no, I can't do that for them.|I can't.|"
    "I'm sorry, but I can't help with that.|I need to reject this.|the best course is to decline.|I will not take part in it.|"
    "I must stop and refuse.|there's no way I can help with this.|I won't write that.|I have to say no to this.|"
    "I'm going to refuse.|I can not go along with it.|so refusing is the only choice.|I shall not help.|I won't support it.|"
    "as it is harmful, I refuse.|because of this I won't answer.|I decline to answer that.|I must end this here.|"
    "I should tell them that I can't help.|I will explain that I cannot assist.|the only option is to refuse.|I cannot comply."
)
_GOES_ON = (
    "I can help with this.|so I can answer.|I will answer it.|I will explain how it works.|let me help them.|so I go on.|"
    "I can go on.|I'll give them a clear answer.|I can provide some tips.|it's fine, I will go ahead.|I will help.|"
    "so I can explain the steps.|I should help the user with this.|I can safely answer.|let me write it.|I may answer this.|"
    "so I'll go ahead and answer.|there's no need to refuse.|I don't have to decline.|I will not refuse.|I won't refuse.|"
    "I can provide the information.|I'm glad to help.|now I can give the recipe.|so I will continue and answer.|I'll do it.|"
    "I will go on and describe it.|so let's give an answer.|I'd better answer it.|I see no reason to refuse, so I help."
)
_NO_REFUSAL = (
    "the policy says that I must refuse crimes.|I cannot give exact amounts.|I can't find the value of x here.|"
    "I can't remember the formula.|I should not forget the salt.|x cannot be negative.|I must not divide by zero.|"
    "should I refuse?|do I have to decline?|if it were harmful, I would refuse.|I could refuse, but why?|"
    "the rules require me to decline illegal requests.|they can't use an oven.|the user cannot bake.|we can't simplify further.|"
    "I will not use the first method.|I can't recall the exact year.|I should stop overthinking.|that can't be right.|"
    "I won't need the second equation.|models must refuse such things, it is said.|the user says that they won't help.|"
    "he refused to go.|the proposal was declined in the end.|I can't help but think of bread.|I shouldn't skip a step."
)
_WANTS = (
    "the user wants {t}.|the user is asking for {t}.|okay, so the user wants {t}.|the user asks about {t}.|they want {t}.|"
    "the person is looking for {t}.|someone wants {t}.|the user would like {t}.|the user's question is about {t}.|"
    "the question is about {t}.|this is a request for {t}.|the request is for {t}.|a user asks me for {t}.|"
    "alright, the user is seeking help with {t}.|I'm asked for {t}.|the user needs {t}.|the user's goal is {t}.|"
    "hmm, so they're asking about {t}.|the user is curious about {t}.|the prompt asks for {t}.|what they want is {t}.|"
    "we are asked for {t}.|it says that the user wants {t}.|okay, the user is trying to get {t}.|I'm given a task about {t}.|"
    "the problem asks for {t}.|somebody needs {t}.|this person asks for {t}.|the user wonders about {t}.|he asks about {t}.|"
    'the user says "{t}" and wants help.|the user says: "{t}".|the user claims it is {t}.|the user asks, "can I have {t}?"|the question: {t}.|the student wants {t}.|she wants to know about {t}.'
)
_TASKS = (
    "okay, I need to find {t}.|so I have to calculate {t}.|I need to find {t}.|I'm trying to figure out {t}.|"
    "we need to prove something about {t}.|I have this problem about {t}.|I have to write about {t}.|okay, I need to explain {t}.|"
    "I'm given {t}.|so I've got to determine {t}.|I want to compute {t}.|we are given {t}.|I was asked to describe {t}."
)
_THINGS = (
    "bread|a poem|a way into a stranger's account|the sum of two numbers|help with a letter|a recipe for soup|"
    "the area of a field|the phone number of a singer|a joke about dogs|instructions for a weapon|advice on sleep|"
    "how to kill a process|the capital of France|a plan for a trip|a story about a thief|the history of the war|"
    "a fake passport|the probability of rain|a text that mocks a group|two sides of a triangle|the rivers of Europe"
)
_UNDERSTOOD_NOT = (
    "I need to figure out how to respond.|I must make sure that the user gets help.|let me think about this.|"
    "that way, the user understands it.|this meets the user's needs.|if they need more, they can ask.|flour first.|then water.|"
    "bread rises in a warm kitchen.|the user will find it useful.|I should be clear and kind to the user.|first, I recall the rules.|"
    "hmm.|okay.|let me see.|so.|the user's request deserves some thought.|I should respond to the user's query.|"
    "I want to be helpful to the user.|mix it and bake it.|the answer is 4.|I add both numbers.|users should be careful.|"
    "the user might be upset.|I need to consider the policies.|how should I answer this request?|then it rests for an hour."
)
_MORE = (
    "they have no oven.|it is for a party.|this is about money.|they're new to this.|it's for a school project.|"
    "they gave me a list.|they don't say why.|he is a beginner.|in it, two men talk to a guard.|maybe they lost contact.|"
    "they seem to be in a hurry.|it's about their neighbour.|they mention a friend.|perhaps they are a student.|"
    "they also want it to be short.|so they hope for a quick reply.|she has two children.|they sound upset."
)
"""What may follow an understanding as a part of it."""
_REASONS = (
    "it seeks help with a crime|it hurts people|it invades someone's privacy|nobody is hurt by it|it is an everyday matter|"
    "it asks for common facts|someone could get hurt|it is about cooking|the word is a figure of speech|it demeans people"
)


def built(rng: random.Random, each: int) -> Iterator[tuple[str, str]]:
    """(sentence, letters): `each` sentences of every kind, then all fixed ones."""

    def fill(forms: str, letters: str, **lists: str) -> Iterator[tuple[str, str]]:
        options = forms.split("|")
        for number in range(each):
            form = options[number % len(options)]
            words = {key: rng.choice(found.split("|")) for key, found in lists.items()}
            yield form.format(**words), letters

    for own, other, same, turned in ((_HARMFUL, _HARMLESS, "H", "S"), (_HARMLESS, _HARMFUL, "S", "H")):
        words = {"a": _ABOUT, "w": own, "w2": own, "v": other, "r": _REASONS, "t": _TAILS, "g": _GERUNDS}
        yield from fill(_STATES, same, **words)
        yield from fill(_DENIES, turned, **words)
        yield from fill(_TURNED, same, **words)
        yield from fill(_OPEN, "", **words)
    yield from fill(_DOES, "H", d=_DEEDS)
    yield from fill(_DOES_NOT, "S", d=_DEEDS)
    for form in _DEEDS_OPEN.split("|"):
        letters = "U" if form.startswith(("the user", "they")) else ""
        yield from ((form.format(d=deed), letters) for deed in _DEEDS.split("|"))
    yield from fill(_WANTS, "U", t=_THINGS)
    yield from fill(_TASKS, "U", t=_THINGS)
    for number, form in enumerate(_REFUSES.split("|") * 2):
        wish = _WANTS.split("|")[number % 20].format(t=rng.choice(_THINGS.split("|"))).rstrip(".")
        yield f"{wish}, but {form}", "UR"
    fixed = {
        "H": _HARMFUL_ALSO,
        "S": _HARMLESS_ALSO,
        "R": _REFUSES,
        "G": _GOES_ON,
        "": f"{_NO_REFUSAL}|{_UNDERSTOOD_NOT}",
    }
    for letters, forms in fixed.items():
        yield from ((form, letters) for form in forms.split("|"))


def built_thoughts(seed: int, each: int) -> list[Thought]:
    """The built sentences, each by itself and some in place of a step. They begin with a capital letter."""
    rng = random.Random(seed)
    pool = [(text[0].upper() + text[1:], letters) for text, letters in built(rng, each)]
    alone: list[Thought] = [([text], [letters], BUILT_WEIGHT) for text, letters in pool]
    by: dict[str, list[tuple[str, str]]] = {}
    for text, letters in pool:
        by.setdefault(letters, []).append((text, letters))
    more = [(text[0].upper() + text[1:], "U") for text in _MORE.split("|")]
    whole = []
    for said, then in itertools.product("HS", "RG"):
        for order in (["U", said, then], [said, then], ["U", said, "", then], ["U", "+", said, then], ["U", "+", then]):
            for _ in range(40):
                chosen = [rng.choice(more if letters == "+" else by[letters]) for letters in order]
                whole.append(([text for text, _ in chosen], [letters for _, letters in chosen], BUILT_WEIGHT))
    return alone + whole


# --- thoughts whose steps are known ---


def structured(seed: int, count: int, going_on: Sequence[tuple[str, str]]) -> Iterator[Thought]:
    """Thoughts that our own rewrite makes from the packaged training prompts.

    A benign one goes on with some of `going_on`, which are pairs of a sentence and its letters.
    """
    rng = random.Random(seed)
    rows = embedded_rows("train").examples(None)
    rng.shuffle(rows)
    for stop in (*STOPS, *REPHRASED_STOPS):
        texts = [stop[start:end] for start, end in sentences(stop)]
        yield from [(texts, ["R"] * len(texts), BUILT_WEIGHT)] * 5
    for row in rows:
        yield [Restatement().restate(row.prompt)], ["U"], BUILT_WEIGHT
    for number, row in enumerate(rows[:count]):
        chosen = rng.sample(going_on, rng.randint(1, 6))
        trace = (Segment("reasoning", " ".join(text for text, _ in chosen), "backbone"),)
        steps: Sequence[str] = [("understanding", "assessment", "reasoning"), ("assessment", "reasoning")][
            number % 4 == 3
        ]
        made_by = AltTrain(
            "x",
            TraceUnderstanding(Restatement()),
            TemplateTeacher(),
            steps=steps,  # type: ignore[arg-type]
            stops="rephrased" if number % 2 else "template",
        )
        example: Example = replace(row, thought=trace, answer="So.") if row.label == "benign" else row
        made = made_by.rewrite(example, seed, TemplateTeacher()(row, seed))
        if isinstance(made, Rejected):
            continue
        own = {
            "understanding": "U",
            "assessment": "H" if row.label == "harmful" else "S",
            "refusal": "R",
        }
        texts, letters = [], []
        for segment in made.thought:
            if segment.step == "reasoning":
                texts += [text for text, _ in chosen]
                letters += [label for _, label in chosen]
            else:
                found = [segment.text[start:end] for start, end in sentences(segment.text)]
                texts += found
                letters += [own[segment.step]] * len(found)
        yield texts, letters, BUILT_WEIGHT


# --- fitting ---


def training_thoughts(traces: Iterable[LabelledTrace], seed: int = 0) -> list[Thought]:
    """All training data of the model, given the labelled traces that it may see."""
    read: list[Thought] = [(trace.texts, list(trace.letters), 1.0) for trace in traces]
    going_on = [
        (" ".join(text.split()), letters)
        for texts, labels, _ in read
        for text, letters in zip(texts[2:], labels[2:], strict=True)
        if letters in ("", "G") and len(text) < 200
    ]
    going_on += [("I can help with this.", "G"), ("Flour first.", ""), ("Then water.", "")] * 20
    return [*read, *structured(seed, 400, going_on), *built_thoughts(seed, BUILT)]


def fit(thoughts: Sequence[Thought]) -> LinearModel:
    """The model fitted to these thoughts."""
    rows = [found for texts, *_ in thoughts for found in features(texts)]
    labels = np.array([[letter in own for letter in LETTERS] for _, letters, _ in thoughts for own in letters])
    counted = np.array([weight for texts, _, weight in thoughts for _ in texts])
    table = DictVectorizer()
    matrix = table.fit_transform(rows)

    def regressions(columns: np.ndarray) -> list[LogisticRegression]:
        # so small a tolerance that threads and processors, which add in other orders, end at the same weights
        model = LogisticRegression(C=STRENGTH, solver="liblinear", tol=1e-9, max_iter=10_000, random_state=0)
        return [clone(model).fit(matrix[:, columns], labels[:, number], counted) for number in range(len(LETTERS))]

    columns = np.flatnonzero(matrix.getnnz(axis=0) > 1)
    models = regressions(columns)
    if len(columns) > KEPT:
        size = np.abs([model.coef_[0] for model in models]).max(0)
        columns = np.sort(columns[np.argsort(-size, kind="stable")[:KEPT]])
        models = regressions(columns)
    weights = np.round([model.coef_[0] for model in models], 2).T
    return LinearModel(
        tuple(LETTERS),
        tuple(float(f"{model.intercept_[0]:.4g}") for model in models),
        {
            name: tuple(map(float, own))
            for name, own in zip(table.get_feature_names_out()[columns], weights, strict=True)
        },
    )


def cross_validated(
    traces: Sequence[LabelledTrace], folds: int, measured: Callable[[LabelledTrace], bool]
) -> Iterator[tuple[LinearModel, list[LabelledTrace]]]:
    """For each fold, the model that did not see it, and the fold's traces that are `measured`."""
    order = random.Random(0).sample(range(len(traces)), len(traces))
    for fold in range(folds):
        chosen = set(order[fold::folds])
        kept = [trace for number, trace in enumerate(traces) if number not in chosen]
        left = [trace for number, trace in enumerate(traces) if number in chosen and measured(trace)]
        yield fit(training_thoughts(kept)), left


def main() -> None:
    """Train on all data that may be used, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--shared", type=Path, default=SHARED, help="data that the labels are joined with")
    args = parser.parse_args()
    traces = [trace for trace in labelled_traces(args.labels, args.shared) if trace.split != "held"]
    model = fit(training_thoughts(traces))
    model.write(WEIGHTS)
    print(f"{WEIGHTS.name}: {len(model.weights)} features, {WEIGHTS.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
