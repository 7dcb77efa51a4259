"""Linear probes on hidden states: what is found where something is, and where nothing is; what a report shows of it."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_CONTEXT, tiny_overrides
from made_runs import judge_benchmark, make_run, mend
from processes import alttrain

from alttrain.backbone import Backbone, ChatTemplate
from alttrain.evaluation import probing
from alttrain.evaluation.probing import ProbeResult, auroc_of, interval, probe
from alttrain.records import Generation, read_rows, subject_of
from alttrain.report.probes import draw_probes, made_from, probes
from alttrain.report.results import evaluations, evaluations_of, read_csv, write_csv
from alttrain.report.variants import variants
from alttrain.run import probe as command
from alttrain.run.stages.report import write_report

THOUGHT = (
    "The user wants to pick a lock 🔒.\n\nThis request is harmful, because it asks for a crime.\n\nSo I will refuse."
)


def noise(seed: int, texts: int, size: int = 24) -> tuple[np.ndarray, list[bool]]:
    """Random states, and labels that have nothing to do with them."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(texts, size)), (draw.random(texts) < 0.4).tolist()


def test_large_states_give_the_same_numbers_again() -> None:
    states, labels = noise(0, 120, 1024)  # of so many, the components are found by a random solver
    assert probe(states, labels, range(120), 0).auroc == probe(states, labels, range(120), 0).auroc


@pytest.mark.slow
def test_a_label_in_the_state_is_found_and_a_label_elsewhere_is_not() -> None:
    covered, values = 0, []
    for seed in range(8):
        states, labels = noise(seed, 80)
        found = probe(states, labels, range(80), 0, seed).auroc
        covered += found.low <= 0.5 <= found.high
        values.append(found.value)
        planted = states + 8 * np.outer(labels, np.ones(24))
        found = probe(planted, labels, range(80), 0, seed).auroc
        assert found.value == found.high == 1
        assert 0.9 < found.low < 1
    assert covered >= 6
    assert abs(np.mean(values) - 0.5) < 0.06


def test_texts_of_a_prompt_are_never_on_both_sides_of_a_fold() -> None:
    """Five texts with one state and one random label a prompt: who has seen one of them knows the others."""
    states, labels = noise(1, 40, 64)
    texts, truth, prompts = (
        np.repeat(states, 5, axis=0),
        np.repeat(labels, 5).tolist(),
        np.repeat(range(40), 5).tolist(),
    )
    assert probe(texts, truth, range(200), 0).auroc.value > 0.9  # as if each were a prompt of its own: it leaks
    found = probe(texts, truth, prompts, 3)
    assert found.auroc.value < 0.7
    assert found.auroc.low < 0.5 < found.auroc.high
    assert found.mean < 0.7  # the labels of a prompt move together
    for train, test in probing._folds(np.array(truth), np.array(prompts), 5, 0):
        assert not {*np.array(prompts)[train]} & {*np.array(prompts)[test]}


@pytest.mark.slow
def test_permuted_labels_are_the_baseline() -> None:
    states, labels = noise(0, 60)
    found = probe(states + 8 * np.outer(labels, np.ones(24)), labels, range(60), 9)
    assert found.p == 1 / 10
    assert found.mean < found.high < 0.8
    assert probe(states, labels, range(60), 9) == probe(states, labels, range(60), 9)
    few = [number < probing.FEWEST - 1 for number in range(60)]
    assert str(probe(states, few, range(60), 9)) == str(ProbeResult())


def test_the_interval_is_mann_whitneys_at_a_half_and_has_a_width_at_one() -> None:
    value, low, high = interval(0.5, 60, 80)
    assert value == 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(141 / (12 * 60 * 80)), rel=0.03)
    assert interval(1.0, 60, 80)[2] == 1.0
    assert 0.9 < interval(1.0, 60, 80).low < interval(1.0, 600, 800).low < 1
    assert interval(0.0, 60, 80)[:2] == (0.0, 0.0)
    assert auroc_of([1, 2, 2, 3], np.array([False, True, False, True])) == 3.5 / 4


def test_the_label_is_compared_over_the_pairs_of_a_fold() -> None:
    """Pair by pair; a state that knows the label and nothing else is no better and no worse."""
    _, labels = noise(3, 60)
    harmful, prompts = [label is (n % 5 > 0) for n, label in enumerate(labels)], [n // 2 for n in range(60)]
    truth, known = np.array(labels), np.array(harmful)
    ordered, pairs = 0.0, 0
    for _, test in probing._folds(truth, np.array(prompts), 5, 0):
        for first in known[test & truth].tolist():
            for second in known[test & ~truth].tolist():
                ordered += (first > second) + 0.5 * (first == second)
                pairs += 1
    found = probing.auroc_by(harmful, labels, prompts)
    assert found == pytest.approx(ordered / pairs, rel=1e-12)
    assert found != pytest.approx(auroc_of(known, truth), abs=1e-3)
    states = np.outer(known, np.ones(4)).astype(np.float32)
    assert probe(states, labels, prompts, 0).auroc.value == pytest.approx(found, rel=1e-12)
    assert math.isnan(probing.auroc_by(harmful, [n < 9 for n in range(60)], range(60)))


@pytest.mark.parametrize(("opened_by", "special"), [("prompt", False), ("prompt", True), ("model", True)])
def test_a_position_is_the_token_with_the_last_character(tiny_folder: Path, opened_by: str, special: bool) -> None:
    from alttrain.backbone.weights import load_tokenizer
    from alttrain.tokenization import Renderer

    template = ChatTemplate(
        system="<|im_start|>{content}<|im_end|>",
        user="<|im_start|>{content}<|im_end|>",
        assistant="<|im_start|>",
        think_open="<think>\n",
        think_close="\n</think>\n\n",
        end="<|im_end|>",
        opened_by=opened_by,  # type: ignore[arg-type]
    )
    tokenizer = load_tokenizer(tiny_folder)
    if special:
        tokenizer.add_tokens(["<think>", "</think>"])
    backbone = Backbone(name="tiny", source=str(tiny_folder), context_length=TINY_CONTEXT, template=template)
    renderer = Renderer(backbone, tokenizer)
    structure = SimpleNamespace(system=None, turns_before=lambda message: (), prompt=lambda message: message)
    run = SimpleNamespace(
        backbone=backbone,
        structure=structure,
        method=SimpleNamespace(evaluation_prompt=None),
        protocol=SimpleNamespace(system_prompt_for=lambda benchmark: None),
        training=SimpleNamespace(thought="open"),
    )
    benchmark = SimpleNamespace(intervention=None, message=lambda row: row.prompt)

    def ends(thought: str, rest: str, closed: bool = True) -> list[str | None]:
        opening = "<think>\n" if opened_by == "model" else ""
        own = Generation(
            id="a", prompt="Why?", label="benign", category="", gold=(), text=opening + thought + rest, thought=thought,
            answer="", closed=closed, finish="stop", thought_tokens=0, answer_tokens=0,
        )  # fmt: skip
        ids, places = command.locate_positions(run, renderer, benchmark, own)  # type: ignore[arg-type]
        assert max(place for place in places if place is not None) == len(ids) - 1
        return [None if at is None else tokenizer.decode(ids[: at + 1]).rpartition("<|im_start|>")[2] for at in places]

    start = "<think>\n" if opened_by == "prompt" else ""
    before = "<think>\n"
    first, second, _ = THOUGHT.split("\n\n")
    understood, assessed = before + first, f"{before}{first}\n\n{second}"
    assert ends(THOUGHT, "\n</think>\n\nNo.") == [start, understood, assessed, before + THOUGHT]
    assert ends(THOUGHT, "", closed=False) == [start, understood, assessed, None]
    assert ends("", "\n</think>\n\nNo.") == [start, None, None, None]
    assert ends(f"{THOUGHT} <|im_end|>", "\n</think>\n\nNo.")[1:3] == [understood, assessed]


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("probed")
    arguments = [
        one for one in tiny_overrides(tiny_folder, tmp_path) if "_harmful.rows" not in one and "_benign.rows" not in one
    ]
    limits = [f"evaluation.benchmarks.embedded_{name}.rows.limit=12" for name in ("harmful", "benign")]
    alttrain([*arguments, *limits, "stages=[rewrite,train,generate,judge]"]).check_returncode()
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    return folder


@pytest.mark.slow
def test_the_command_probes_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {}
    read, texts_of = command.read_states, command._texts

    def decided(text: command.Text) -> command.Text:  # a random backbone's texts have hardly a verdict
        return replace(text, refuses=text.harmful)

    def read_states(decoder, texts, layers, path):  # type: ignore[no-untyped-def]
        model, states = decoder.model, read(decoder, texts, layers, path)
        assert isinstance(states, np.memmap)
        import torch

        with torch.inference_mode():
            last = model.lm_head(model.model.norm(torch.from_numpy(np.array(states[0, -1])))).argmax(-1).tolist()
        kept.update(states=np.array(states), last=last, layers=layers, texts=texts)
        return states

    monkeypatch.setattr(command, "read_states", read_states)
    monkeypatch.setattr(command, "_texts", lambda *given: map(decided, texts_of(*given)))
    monkeypatch.setattr(sys, "argv", ["alttrain-probe", str(run), "--permutations", "2"])
    command.main()
    told = capsys.readouterr().out
    assert "probe.csv: 8 probes" in told
    assert [told.count(f" {position} ") for position in command.POSITIONS] == [2, 2, 2, 2]  # each in one piece
    table = pd.read_csv(run / "probe.csv")
    assert set(probes(variants(evaluations(run.parent))).run) == {run.name}
    assert list(table.position[:4]) == list(command.POSITIONS)
    assert [*table.layer.unique()] == kept["layers"] == [1, 2]
    start = table[table.position == "start"]
    assert (start.n == 24).all()
    assert (start.positives == 12).all()
    assert start.auroc.between(start.low, start.high).all()
    assert (table[table.position == "assessment"].left_out == 24).all()  # a random backbone assesses nothing
    assert not list(run.glob(".probe-*"))
    # the state after the prompt decides the first token that the run wrote
    from alttrain.backbone.weights import load_tokenizer

    tokenizer = load_tokenizer(run / "adapter")
    benchmarks = ("embedded_harmful", "embedded_benign")
    rows = [
        row for name in benchmarks for row in read_rows(run / "evaluation" / name / "generations.jsonl", Generation)
    ]
    said = {(row.text, row.finish) for row in rows}
    assert len(said) > 1
    first = {subject_of(row): row.text for row in rows}
    assert {text.prompt for text in kept["texts"]} == first.keys()
    for text, token in zip(kept["texts"], kept["last"], strict=True):
        written = first[text.prompt]
        if not written.startswith("\ufffd"):  # bytes that are no text do not come back as what they were
            assert tokenizer.encode(written, add_special_tokens=False)[:1] in ([token], [])


@pytest.mark.slow
def test_what_cannot_be_probed_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--benchmark nowhere: accepted: embedded_harmful, embedded_benign"):
        command.probe_run(run, ["nowhere"], 0, tmp_path / "probe.csv")
    with pytest.raises(ValueError, match="--permutations -1: accepted: 0 or more"):
        command.probe_run(run, [], -1, tmp_path / "probe.csv")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"pip install 'alttrain\[probe\]'"):
        command.probe_run(run, [], 0, tmp_path / "probe.csv")
    assert not (tmp_path / "probe.csv").exists()


# --- in the report ---


def probed(folder: Path, value: float, layers: int = 12) -> Path:
    """A run's probe.csv, of its texts as they are: three layers, four positions."""
    evaluations = evaluations_of(folder)
    described = {"run": folder.name, "benchmarks": " ".join(one.benchmark for one in evaluations), "layers": layers}
    described["made_from"] = made_from(evaluations)
    numbers = {"n": 40, "positives": 20, "left_out": 2, "undecided": 1, "truncated": 3, "permutations": 100}
    numbers |= {"auroc": value, "low": value - 0.1, "high": value + 0.05, "permuted_mean": 0.5, "permuted_95": 0.6}
    rows = [
        described | numbers | {"layer": layer, "position": position, "p": 0.01, "by_label": 0.7}
        for layer in (4, 8, 12)
        for position in command.POSITIONS
    ]
    write_csv(folder / "probe.csv", pd.DataFrame(rows))
    return folder


SETS = {"embedded_harmful": ("harmful_rate", "yyny"), "embedded_benign": ("over_refusal_rate", "yyn")}


@pytest.mark.slow
def test_probes_are_in_the_report_and_drawn(tmp_path: Path) -> None:
    for method, value in (("alttrain", 0.9), ("plain", 0.7)):
        probed(make_run(tmp_path / "runs", SETS, method=method), value)
    make_run(tmp_path / "runs", SETS, method="plain", seed=1)  # not probed
    probed(make_run(tmp_path / "runs", SETS, method="plain", seed=2, hashed="other"), 0.8)  # by another protocol
    found = probes(variants(evaluations(tmp_path / "runs")))
    assert len(found) == 3 * 12
    assert set(found.method) == {"AltTrain", "plain"}
    write_report(tmp_path)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "report" / "probes.csv"), found, check_dtype=False)
    drawn = sorted(path.name for path in (tmp_path / "report" / "figures").glob("probes-*.svg"))
    assert drawn == ["probes-r1_llama_8b-0.svg", "probes-r1_llama_8b-1.svg"]  # never beside what was made otherwise
    together, alone = ((tmp_path / "report" / "figures" / name).read_text() for name in drawn)
    assert all(f"layer {layer} of 12" in together for layer in (4, 8, 12))
    assert [text.count(f"{name}-s") for text in (together, alone) for name in ("alttrain", "plain")] == [1, 1, 0, 1]
    assert "probes-r1_llama_8b-0" in (tmp_path / "report" / "page.html").read_text()


def test_a_probe_of_a_run_with_two_protocols_is_of_either(tmp_path: Path) -> None:
    """And it has the run's name, whatever its folder is called."""
    for seed, where in enumerate(("before", "after")):
        run = make_run(tmp_path, SETS, seed=seed)
        run = run if where == "after" else probed(run, 0.9)
        for name, (measure, letters) in SETS.items():
            judge_benchmark(run / "evaluation" / f"{name}.x", name, measure, letters[::-1], "star1", "t", 10)
        if where == "before":
            run.rename(tmp_path / "downloaded")
    found = probes(variants(evaluations(tmp_path)))
    assert {*found.run} == {"r1_llama_8b-alttrain-s0"}
    assert {*found.protocol_hash} == {"h-embedded_benign h-embedded_harmful"}


@pytest.mark.usefixtures("no_figures")
def test_a_probe_of_other_texts_or_a_damaged_one_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [probed(make_run(tmp_path / "runs", SETS, seed=seed), 0.9) for seed in range(6)]
    judgements = runs[1] / "evaluation" / "embedded_harmful.alttrain" / "judgements.jsonl"
    judgements.write_text(judgements.read_text().replace("true", "false"))
    mend(judgements.parent)
    (runs[2] / "probe.csv").write_text("layer,position\n1,end\n")
    text = (runs[3] / "probe.csv").read_text()
    (runs[3] / "probe.csv").write_text(text.replace("0.9", "much"))
    whole = read_csv(runs[4] / "probe.csv")
    write_csv(runs[4] / "probe.csv", whole.assign(layer=math.nan))
    write_csv(runs[5] / "probe.csv", whole.assign(benchmarks=f"{whole.benchmarks[0]} other"))
    write_report(tmp_path)
    assert set(read_csv(tmp_path / "report" / "probes.csv").run) == {runs[0].name}
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    starts = [f"report    left out {run / 'probe.csv'}: " for run in runs[1:]]
    assert [warning[: len(start)] for warning, start in zip(warned, starts, strict=True)] == starts
    assert warned[0].endswith("it is of other texts or verdicts than the run's; run alttrain-probe again")
    assert warned[3].endswith("a row has no layer")
    assert len(read_csv(tmp_path / "report" / "metrics.csv").run.unique()) == 6


def test_a_position_with_a_dollar_sign_is_drawn(tmp_path: Path) -> None:
    folder = probed(make_run(tmp_path / "runs", SETS), 0.9)
    table = read_csv(folder / "probe.csv")
    write_csv(folder / "probe.csv", table.assign(position=table.position.replace("end", r"$\q$")))
    assert draw_probes(probes(variants(evaluations(tmp_path / "runs"))), tmp_path / "drawn")
    assert r"$\q$" in (tmp_path / "drawn.svg").read_text()
