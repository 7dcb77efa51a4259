"""Every structure of conf/rewrite: what it makes of an example, and that `parse` reads it back from the text."""

import functools
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from alttrain.config import instantiate, register
from alttrain.evaluation import RefusalJudge
from alttrain.records import Example, Label, Rejected, Segment
from alttrain.rewrite import (
    AltTrain,
    PromptSide,
    Restatement,
    Structure,
    TemplateTeacher,
    TraceUnderstanding,
    lacks_original,
    lacks_understanding,
    parse,
    read_thought,
    render,
)
from alttrain.rewrite.original import trace_hash
from alttrain.rewrite.parser import verdict
from alttrain.rewrite.structures import REPHRASED_STOPS, STOPS

CONF = Path(__file__).parents[1] / "conf" / "rewrite"
PROMPT_SIDE = ("intention_analysis", "intention_analysis_one_pass", "safety_prompt")
ASSESSED = ("alttrain", "alttrain_without_pu", "alttrain_without_cr", "alttrain_rephrased")
AS_THEY_ARE = ("plain", "safechain", "star1", "safekey", "direct_refusal", "thinksafe", "none")
TRAINED = (*ASSESSED, "alttrain_without_ha", *AS_THEY_ARE, "safepath", "r1_act")


@functools.cache
def structure(name: str, *overrides: str) -> Any:
    """The structure an option of conf/rewrite builds."""
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        return instantiate(compose("run", [f"rewrite={name}", *overrides]).rewrite)


def rewritten(made_by: Structure, example: Example, seed: int = 0) -> Example | Rejected:
    return made_by.rewrite(example, seed, TemplateTeacher()(example, seed) if made_by.teacher else None)


def texts(segments: tuple[Segment, ...]) -> list[tuple[str, str]]:
    return [(segment.step, segment.text) for segment in segments]


TRACE = "Okay, the user wants bread. Flour first.\n\n1. Mix\n\n2. Bake"
ROW = Example("r", "How do I bake bread?", "benign", "everyday", answer="Mix and bake.")
BENIGN = replace(ROW, thought=(Segment("reasoning", TRACE, "trace"),))
HARMFUL = replace(BENIGN, label="harmful", category="privacy")
PU = ("understanding", "Okay, the user wants bread.")
CR = ("reasoning", "Flour first.\n\n1. Mix\n\n2. Bake")
STOP = ("refusal", "a stop")
HA = ("assessment", "an assessment")


def test_every_option_is_tested() -> None:
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted([*TRAINED, *PROMPT_SIDE])


@pytest.mark.slow
def test_every_option_is_named_after_its_file() -> None:
    assert [name for name in (*TRAINED, *PROMPT_SIDE) if structure(name).name != name] == []


# --- what each makes of a harmful and of a benign row; None where it has no use for it ---

WHOLE = [("reasoning", TRACE)]
MAKES: dict[str, tuple[list[tuple[str, str]] | None, list[tuple[str, str]] | None]] = {
    "alttrain": ([PU, HA, STOP], [PU, HA, CR]),
    "alttrain_rephrased": ([PU, HA, STOP], [PU, HA, CR]),
    "alttrain_without_pu": ([HA, STOP], [HA, CR]),
    "alttrain_without_ha": ([PU, STOP], [PU, CR]),
    "alttrain_without_cr": ([PU, HA], [PU, HA]),
    **dict.fromkeys(AS_THEY_ARE, (WHOLE, WHOLE)),
    "safepath": ([("primer", "Let's think about safety first.")], WHOLE),
    **dict.fromkeys(("r1_act", *PROMPT_SIDE), (None, None)),
}
REFUSED = {*ASSESSED, "alttrain_without_ha"}


@pytest.mark.parametrize("label", ["harmful", "benign"])
@pytest.mark.parametrize("name", [*TRAINED, *PROMPT_SIDE])
def test_thought_and_answer(name: str, label: Label) -> None:
    made_by, example = structure(name), HARMFUL if label == "harmful" else BENIGN
    wanted = MAKES[name][label == "benign"]
    made = rewritten(made_by, example)
    if wanted is None:
        assert isinstance(made, Rejected)
        return
    assert isinstance(made, Example)
    stops = REPHRASED_STOPS if name == "alttrain_rephrased" else STOPS
    filled = {HA[1]: TemplateTeacher()(example, 0).text, STOP[1]: made.thought[-1].text}
    assert texts(made.thought) == [(step, filled.get(text, text)) for step, text in wanted]
    assert STOP not in wanted or made.thought[-1].text in stops
    if name == "safepath" and label == "harmful":
        assert (made.partial, made.answer) == (True, "")
    else:
        refused = label == "harmful" and name in REFUSED
        assert read_thought(made.answer).refuses == refused
        assert not made.partial
        assert refused or made.answer == example.answer
    assert made.trace_hash == hashlib.sha256(json.dumps([TRACE, ROW.answer]).encode()).hexdigest()[:16]
    assert replace(made, thought=(), answer="", partial=False, trace_hash="") == replace(example, thought=(), answer="")


def test_trace_hash_is_of_thought_and_answer() -> None:
    assert trace_hash(Example("x", "?", "benign")) == ""
    hashes = {trace_hash(e) for e in (ROW, BENIGN, replace(BENIGN, answer="x"), replace(BENIGN, id="y"))}
    assert len(hashes) == 3


@pytest.mark.parametrize("name", ["plain", "safechain", "star1", "direct_refusal", "thinksafe", "r1_act"])
def test_rows_of_another_shape_are_left_out(name: str) -> None:
    shaped = {example.shape: example for example in (BENIGN, ROW, replace(BENIGN, answer=""), replace(ROW, answer=""))}
    assert len(shaped) == 4
    made = {shape: rewritten(structure(name), example) for shape, example in shaped.items()}
    taken = {"thought_only", "answer_only"} if name == "r1_act" else {"thought_and_answer"}
    assert {shape for shape, found in made.items() if isinstance(found, Example)} == taken
    asked = (
        "a thought without an answer or an answer without a thought" if len(taken) > 1 else "a thought and an answer"
    )
    assert made["prompt_only"] == Rejected("r", f"the example is a prompt alone, and {asked} is asked for")


def test_without_cr_needs_an_answer_and_no_trace() -> None:
    made_by = structure("alttrain_without_cr")
    made = rewritten(made_by, ROW)
    assert isinstance(made, Example)
    assert [segment.step for segment in made.thought] == ["understanding", "assessment"]
    assert made.thought[0].origin == "restatement"
    assert made.answer == ROW.answer
    assert not lacks_original(made_by, ROW)
    assert isinstance(rewritten(made_by, replace(BENIGN, answer="")), Rejected)


def test_who_writes_and_who_continues() -> None:
    """What the stage asks a structure before it rewrites."""
    made = {name: structure(name) for name in (*TRAINED, *PROMPT_SIDE)}
    assert {name for name, s in made.items() if s.teacher} == set(ASSESSED)
    asking = {*ASSESSED, "alttrain_without_ha", "plain"}
    assert {name for name, s in made.items() if s.original} == {*asking, "thinksafe"}
    assert {name: list(s.continues) for name, s in made.items() if s.continues} == {
        **{name: ["benign"] for name in asking},
        "thinksafe": ["harmful", "benign"],
    }


def test_backbones_own_traces_are_asked_for_where_the_dataset_has_some() -> None:
    own, given = (structure("alttrain", f"rewrite.traces={traces}") for traces in ("backbone", "dataset"))
    rows = (BENIGN, ROW, replace(ROW, answer=""), HARMFUL)
    assert [lacks_original(own, row) for row in rows] == [True, True, True, False]
    assert [lacks_original(given, row) for row in rows] == [False, False, True, False]
    assert lacks_original(structure("thinksafe"), HARMFUL)


@pytest.mark.parametrize("name", [name for name in (*ASSESSED, "alttrain_without_ha") if name != "alttrain_without_cr"])
def test_an_answer_without_a_thought_is_left_out_and_not_replaced(name: str) -> None:
    assert rewritten(structure(name), ROW) == Rejected("r", "the row has an answer and no thought")
    assert not lacks_original(structure(name), ROW)


def test_the_understander_is_asked_where_no_trace_says_what_is_wanted() -> None:
    asked = ["teacher=backbone", "rewrite.understander=${teacher}"]
    rows = (BENIGN, replace(ROW, answer=""), replace(ROW, label="harmful"), HARMFUL)
    for name, thought, wanted in (
        ("alttrain", "open", [False, False, True, False]),  # the backbone's own trace says it
        ("alttrain", "absent", [False, True, True, False]),
        ("alttrain_without_pu", "absent", [False] * 4),
    ):
        made_by = structure(name, *asked)
        assert [lacks_understanding(made_by, row, thought) for row in rows] == wanted
        assert (made_by.understander is None) == (name == "alttrain_without_pu")
    own = structure("alttrain", *asked, "rewrite.traces=backbone")
    assert [lacks_understanding(own, BENIGN, thought) for thought in ("open", "absent")] == [False, True]
    with pytest.raises(ValueError, match=r"rewrite\.traces=backbone: .*rewrite\.original, which is null"):
        replace(own, original=None)


def test_originals_are_asked_as_the_backbone_needs_it() -> None:
    """One short sentence for a backbone that does not reason; a whole thought for one that does."""
    short, reasoning = (structure("alttrain", f"backbone={name}").original for name in ("smollm2_135m", "r1_qwen_7b"))
    assert (short.tokens, short.temperature, short.system_prompt) == (48, 0.0, "You answer in one short sentence.")
    assert (reasoning.tokens, reasoning.temperature, reasoning.top_p, reasoning.system_prompt) == (8192, 0.6, 0.95, "")
    assert structure("plain", "backbone=r1_qwen_7b").original == reasoning
    self_generated = structure("thinksafe").original
    assert self_generated.tokens == 16384
    assert self_generated.message(ROW) == ROW.prompt
    assert self_generated.message(HARMFUL).endswith(f"\n\n{HARMFUL.prompt}")
    with pytest.raises(ValueError, match=r"rewrite\.original\.harmful_form must hold .* found 'none'"):
        replace(reasoning, harmful_form="none")


def test_a_guard_says_what_is_unsafe() -> None:
    with pytest.raises(ValueError, match=r"rewrite\.guard=refusal: says 'refused'; accepted: .*'unsafe'"):
        replace(structure("thinksafe"), guard=RefusalJudge())


def test_an_understander_asks_a_model() -> None:
    made_by = structure("alttrain", "teacher=gpt4o", "+teacher@rewrite.understander=gpt4o")
    assert made_by.understander == made_by.teacher
    assert structure("alttrain", "teacher=gpt4o", "rewrite.understander=${teacher}") == made_by
    assert structure("alttrain_rephrased", "+teacher@rewrite.understander=gpt4o").understander == made_by.teacher
    assert structure("alttrain").understander is None


# --- steps as switches, in any order ---

SOME_STEPS = [
    "understanding",
    "assessment",
    "reasoning",
    "assessment,understanding,reasoning",
    "reasoning,assessment",
    "reasoning,understanding,assessment",
    "understanding,reasoning,assessment",
]


@pytest.mark.parametrize("steps", SOME_STEPS)
@pytest.mark.parametrize("trace", [TRACE, TRACE + "\n", TRACE + "\n\n\n", "The user wants bread.", "No such thing.\n"])
@pytest.mark.parametrize("label", ["harmful", "benign"])
def test_any_steps_in_any_order(steps: str, trace: str, label: Label) -> None:
    made_by = structure("alttrain" if "assessment" in steps else "alttrain_without_ha")
    made_by = replace(made_by, steps=steps.split(","))
    category = "privacy" if label == "harmful" else "code"
    example = replace(BENIGN, label=label, category=category, thought=(Segment("reasoning", trace, "trace"),))
    made = rewritten(made_by, example)
    spent = label == "benign" and trace == "The user wants bread."  # nothing is left to reason on with
    if spent and steps == "reasoning":
        assert made == Rejected("r", "the trace holds nothing but its understanding")
        return
    assert isinstance(made, Example)
    written = ["reasoning" if segment.step == "refusal" else segment.step for segment in made.thought]
    assert written == [step for step in steps.split(",") if not (spent and step == "reasoning")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": ()}, r"rewrite\.steps=\[\]: one or more"),
        ({"steps": ("reasoning", "reasoning")}, r"rewrite\.steps=.*each once"),
        ({"teacher": None}, r"rewrite\.steps=.*needs rewrite\.teacher"),
        ({"stops": []}, r"rewrite\.stops=\[\]"),
        ({"stops": [" "]}, r"rewrite\.stops="),
        ({"stops": ["a\n\nb"]}, r"rewrite\.stops="),
    ],
)
def test_contradictions_are_refused(changed: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"understanding": TraceUnderstanding(Restatement()), "teacher": TemplateTeacher()}
    with pytest.raises(ValueError, match=message):
        AltTrain(**{"name": "x", **fields, **changed})


def test_an_assessment_is_one_paragraph() -> None:
    made_by = structure("alttrain")
    for text in ("This is harmful.\n\nVery.", " "):
        found = made_by.rewrite(HARMFUL, 0, Segment("assessment", text))
        assert found == Rejected("r", "the assessment is not one paragraph")
    with pytest.raises(ValueError, match="r: rewrite=alttrain needs the teacher's assessment"):
        made_by.rewrite(HARMFUL, 0)


# --- wordings ---


def test_stops_may_be_ones_own() -> None:
    made = rewritten(structure("alttrain", "rewrite.stops=[I decline.]"), HARMFUL)
    assert isinstance(made, Example)
    assert made.thought[-1].text == "I decline."


def test_every_stop_is_a_refusal_and_no_verdict() -> None:
    assert not set(STOPS) & set(REPHRASED_STOPS)
    assert len(set(REPHRASED_STOPS)) == 12
    assert [stop for stop in (*STOPS, *REPHRASED_STOPS) if not read_thought(stop).refuses or verdict(stop)] == []


# --- the prompt side ---


def test_prompt_is_left_alone_or_put_into_the_form() -> None:
    asked = "Is {this} {prompt} safe?"
    two, one, system = map(structure, PROMPT_SIDE)
    others = [structure(name) for name in TRAINED] + [system]
    assert all(other.prompt(asked) == asked and other.turns_before(asked) == () for other in others)
    assert [other.name for other in others if other.system] == ["safety_prompt"]
    assert one.prompt(asked).endswith(f"\n\n{asked}")
    (first,) = two.turns_before(asked)
    assert first.endswith(f"\n\n'''\n{asked}\n'''")
    assert asked not in two.prompt(asked)


@pytest.mark.parametrize(
    "forms", [("no slot",), ("{prompt} {prompt}",), ("{prompt}",), ("x", "y"), ("x", "{prompt}{prompt}")]
)
def test_prompt_form_has_one_slot_and_does_something(forms: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"rewrite\.(prompt_form and rewrite\.before must hold|system, rewrite\.prompt)"
    ):
        PromptSide("x", prompt_form=forms[0], before=forms[1:])


# --- STAR-1's 1,000 rows, as they are and as if they were benign ---


@pytest.mark.parametrize("label", ["harmful", "benign"])
@pytest.mark.parametrize("name", TRAINED)
def test_parse_is_the_inverse_on_nearly_every_row(star1: list[Example], name: str, label: Label) -> None:
    """For 995 of 1000 thoughts with an assessment, the segments are read from the text as they were written.

    Whether a trace refuses it reads from the trace: STAR-1's do, though they stand as those of benign rows here.
    """
    made_by = structure(name)
    count, misread = 0, []
    category = "privacy" if label == "harmful" else "code"
    for row in star1:
        made = rewritten(made_by, replace(row, label=label, category=category))
        if isinstance(made, Rejected):
            continue
        count += 1
        if name in ASSESSED:
            found, meant = texts(parse(render(made.thought))), texts(made.thought)
            if label == "benign":
                found, meant = ([("reasoning" if s == "refusal" else s, t) for s, t in own] for own in (found, meant))
            misread += [made.id] if found != meant else []
    assert count == (0 if name == "r1_act" else 1000)
    assert len(misread) <= 5, misread
