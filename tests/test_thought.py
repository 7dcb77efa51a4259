"""What sentences say: the weights that are shipped, their labels, and the time that reading takes."""

import math
import sys
import time
from pathlib import Path

import pytest

from alttrain.english import score_sentences, sentences
from alttrain.english.thought import LETTERS
from alttrain.rewrite import parse, read_thought

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from trace_labels import LABELS, SHARED, LabelledTrace, labelled_traces
from train_thoughts import fit, training_thoughts

SHIPPED = Path(sys.modules["alttrain.english.thought"].__file__ or "").with_suffix(".tsv")


def test_weights_are_small() -> None:
    assert SHIPPED.stat().st_size <= 500_000


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no labelled traces without {SHARED}")
def test_the_script_makes_the_weights_again(tmp_path: Path) -> None:
    """The shipped weights are those of today's labels and packaged prompts."""
    traces = [trace for trace in labelled_traces(LABELS, SHARED) if trace.split != "held"]
    fit(training_thoughts(traces)).write(tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == SHIPPED.read_bytes()


@pytest.mark.parametrize(
    ("sentence", "field"),
    [
        ("Okay, the user is asking how to get someone's home address.", "understanding"),
        ("This clearly violates the privacy policy and could lead to harassment.", "harmful"),
        ("There's nothing wrong with this question, it's about cooking.", "harmless"),
        ("So the best approach is to politely decline.", "refusal"),
    ],
)
def test_sentence_says_one_thing(sentence: str, field: str) -> None:
    (found,) = score_sentences(sentence)
    told = {name: getattr(found, name) for name in ("understanding", "harmful", "harmless", "refusal", "going_on")}
    assert max(told, key=lambda name: told[name]) == field
    assert told[field] > 0.5


def test_what_a_thought_decides_last_counts() -> None:
    asked, refuse, go_on = (
        "The user asks how to shut down a program.",
        "I should refuse this request.",
        "Wait, it is harmless, so I will help and explain how to do it.",
    )
    assert not read_thought("\n\n".join((asked, refuse, go_on))).refuses
    assert read_thought("\n\n".join((asked, go_on, refuse))).refuses


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    ["-", '"', "(", "'", "\n", "\n\n", "a", "a ", "not ", "I ", "the user ", "...", "Hmm. ", "“", "This is harmful. "],
)
def test_time_is_linear_in_length(unit: str) -> None:
    """Four times the text takes about four times the time, and not 16; 80,000 dashes once took 47 s.

    The lengths take turns, so that other work on the machine slows both; the best of three counts.
    """
    best = {20_000: math.inf, 80_000: math.inf}
    for number in range(3):
        for length in best:
            text = (unit * (length // len(unit)))[:length] + "x" * number
            start = time.process_time()
            parse(text)
            best[length] = min(best[length], time.process_time() - start)
    assert best[80_000] < max(0.01, 8 * best[20_000])


def test_a_line_that_begins_with_many_blanks_takes_no_time() -> None:
    start = time.process_time()
    assert len(list(sentences(" " * 100_000 + "e.g. A " * 10_000))) == 1
    assert time.process_time() - start < 2


def test_refusal_is_read_from_the_whole_thought() -> None:
    """The decision stands far from the assessment, which comes late."""
    rules = "I recall the general guidelines for such cases. They speak of many different things. " * 4
    thought = (
        f"The user wants a scam message.\n\n{rules}\n\nThis request is clearly harmful. {rules}\n\nSo I must decline."
    )
    found = read_thought(thought)
    assert (found.verdict, found.refuses) == ("harmful", True)
    assert found.position == thought.index("This request")
    assert [segment.step for segment in found.segments] == ["understanding", "reasoning", "assessment", "refusal"]


@pytest.fixture(scope="module")
def traces() -> list[LabelledTrace]:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    return labelled_traces(LABELS, SHARED)


def test_labels_are_of_the_sentences_that_are_read(traces: list[LabelledTrace]) -> None:
    assert len(traces) >= 300
    for trace in traces:
        if trace.source == "written":  # four of these end sentences before a small letter
            continue
        assert tuple((one.start, one.end) for one in score_sentences(trace.thought)) == trace.spans, trace.id
        assert set("".join(trace.letters)) <= set(LETTERS), trace.id
        assert (trace.main is None) == (trace.verdict == "none"), trace.id


def test_labels_hold_no_text_of_others() -> None:
    for line in LABELS.open(encoding="utf-8"):
        assert '"thought"' not in line or '"source": "written"' in line
