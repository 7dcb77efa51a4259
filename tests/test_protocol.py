"""Protocols: what applies to a benchmark, what its hash covers and what not, and the shipped ones value by value."""

import functools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from alttrain.config import RunError, register
from alttrain.config.identity import SERVER_SETTINGS
from alttrain.config.trust import TRUSTED
from alttrain.dataset import Rows, embedded_rows, jailbreak_artifacts
from alttrain.evaluation import Benchmark, Choice, Protocol, RefusalJudge
from alttrain.evaluation.protocol import KINDS
from alttrain.generation import Decoding, InProcess, Server
from alttrain.generation.decoder import draw
from alttrain.generation.engine import CachedEngine, LocalEngine, Prompt
from alttrain.records import Generation, Rejected, read_rows, write_text
from alttrain.run.assembly import Run, assemble
from alttrain.run.execution import execute
from alttrain.run.session import Session
from alttrain.run.stages import needs
from alttrain.run.stages.check import check_light

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED}")
CONF = Path(__file__).parents[1] / "conf"
PROTOCOLS = sorted(path.stem for path in (CONF / "protocol").glob("*.yaml"))
ROWS = Rows("x", "a.jsonl")
HARM = Benchmark("strongreject", "harm", "harmful_rate", ROWS, RefusalJudge())
MATHS = Benchmark("gsm8k", "maths", "accuracy", ROWS, Choice())
AIME = Benchmark("aime_2024", "maths", "accuracy", ROWS, Choice())
OPEN = {"data_dir": "/d", "output_dir": "/nowhere", "backbone": "r1_qwen_7b"}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


@functools.cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        return compose("run", overrides=list(overrides))


def a_protocol(**fields: Any) -> Protocol:
    return Protocol(**{"name": "p", "decoding": Decoding(1024), "judges": {}, **fields})


# --- what applies to a benchmark ---


def test_a_name_comes_before_its_kind_and_the_rest_is_the_default() -> None:
    settings = {
        "maths": {"max_new_tokens": 16384, "temperature": 0.6, "samples": 8, "system_prompt": ""},
        "aime_2024": {"max_new_tokens": 32768, "top_k": 20},
    }
    protocol = a_protocol(settings=settings, system_prompt="Be kind.")
    assert protocol.decoding_for(HARM) == Decoding(1024)
    assert protocol.decoding_for(MATHS) == Decoding(16384, temperature=0.6, samples=8)
    assert protocol.decoding_for(AIME) == Decoding(32768, temperature=0.6, samples=8, top_k=20)
    assert [protocol.system_prompt_for(each) for each in (HARM, MATHS, AIME)] == ["Be kind.", "", ""]
    assert [protocol.key_for(each, "max_new_tokens") for each in (HARM, MATHS, AIME)] == [
        "protocol.decoding.max_new_tokens",
        "protocol.settings.maths.max_new_tokens",
        "protocol.settings.aime_2024.max_new_tokens",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"settings": {"maths ": {}}},
            r"settings\.maths : accepted: harm, over_refusal, .*, or the name of a benchmark",
        ),
        (
            {"settings": {"maths": {"max_new_token": 5}}},
            r"settings\.maths\.max_new_token=5: accepted: .*; did you mean 'max_new_tokens'\?",
        ),
        ({"settings": {"maths": {"max_new_tokens": "5"}}}, r"settings\.maths\.max_new_tokens='5': .*integer"),
        ({"settings": {"gsm8k": {"top_p": 1.5}}}, r"settings\.gsm8k\.top_p=1\.5: .*less than or equal to 1"),
        ({"settings": {"harm": {"context": "model"}}}, r"settings\.harm\.context='model': .*"),
        ({"settings": {"harm": {"system_prompt": 3}}}, r"settings\.harm\.system_prompt=3: .*string"),
        ({"means": {"accuracy": ["gsm8k", "gsm8k"]}}, r"means\.accuracy=\['gsm8k', 'gsm8k'\] names gsm8k twice"),
    ],
)
def test_a_setting_that_nothing_could_take_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"protocol p: {message}"):
        a_protocol(**fields)


def test_samples_of_a_name_may_need_the_temperature_of_its_kind() -> None:
    settings = {"maths": {"temperature": 0.6}, "gsm8k": {"samples": 8}, "strongreject": {"samples": 2}}
    protocol = a_protocol(settings=settings)
    assert protocol.decoding_for(MATHS).samples == 8
    with pytest.raises(ValueError, match="protocol p, benchmark strongreject: samples=2 with temperature=0"):
        protocol.decoding_for(HARM)


# --- the shipped protocols, value by value ---

IDENTITY = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
STAR = {"temperature": 0.0, "repetition_penalty": 1.2, "context": "backbone"}
SAFE = {"temperature": 0.6, "top_p": 0.95, "context": "backbone"}
EIGHT = {**SAFE, "max_new_tokens": 32768, "samples": 8}
SUITE = {"max_new_tokens": 16384, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "samples": 4, "context": 32768}
PRESETS: dict[str, tuple[Any, Any, dict[str, dict[str, Any]]]] = {  # system prompt, precision, decoding by benchmark
    "offline": (None, None, {each: {"max_new_tokens": 1024} for each in ("strongreject", "gsm8k")}),
    "r1_act": (IDENTITY, "nf4", {each: {"max_new_tokens": 1024} for each in ("strongreject", "xstest_safe")}),
    "alttrain": (
        IDENTITY,
        "none",
        {"jbb_pair": {"max_new_tokens": 1024}, "xstest_safe": {"max_new_tokens": 1024}}
        | {each: {"max_new_tokens": 16384} for each in ("gsm8k", "aime_2024", "humaneval", "nq_open", "cnn_dailymail")},
    ),
    "star1": (
        "",
        "none",
        {"strongreject": {**STAR, "max_new_tokens": 8000}, "xstest_safe": {**STAR, "max_new_tokens": 8000}}
        | {each: {**STAR, "max_new_tokens": 16384} for each in ("math500", "aime_2024", "humaneval")}
        | {"gpqa_diamond": {**STAR, "max_new_tokens": 32768}, "mmlu_pro": {**STAR, "max_new_tokens": 4096}},
    ),
    "safekey": (
        "",
        "none",
        {each: {**STAR, "max_new_tokens": 8000, "context": 10000} for each in ("strongreject", "xstest_safe")}
        | {"math500": {**STAR, "max_new_tokens": 16384}, "mmlu_pro": {**STAR, "max_new_tokens": 4096}},
    ),
    "safechain": (
        "",
        "none",
        {
            "strongreject": {"max_new_tokens": 16000, "context": "backbone"},
            "humaneval": {"max_new_tokens": 16000, "context": "backbone", "repetition_penalty": 1.1},
        },
    ),
    "safechain_sampled": ("", "none", {"wildjailbreak_safechain": {**SAFE, "max_new_tokens": 16000, "samples": 5}}),
    "thinksafe": (
        "",
        "none",
        {each: {**SAFE, "max_new_tokens": 16384} for each in ("strongreject", "xstest_safe", "harmbench_thinksafe")}
        | dict.fromkeys(("gsm8k", "math500", "aime_2024", "gpqa_diamond"), EIGHT),
    ),
    "thinksafe_qwen3": (
        "",
        "none",
        {"strongreject": {**SAFE, "max_new_tokens": 16384}}
        | {each: {**EIGHT, "top_k": 20} for each in ("gsm8k", "gpqa_diamond")},
    ),
    "thinking_tokens_suite": ("", "none", dict.fromkeys(("fortress", "coconot"), SUITE)),
}


def a_run(*overrides: str, benchmarks: tuple[str, ...] = (), protocol: str = "offline") -> Run:
    """A run over shipped benchmarks, whose rows are not read."""
    mounted = [f"+benchmark@evaluation.benchmarks.{name}={name}" for name in benchmarks]
    places = [f"{key}={value}" for key, value in OPEN.items()]
    return assemble(composed(*places, f"protocol={protocol}", *mounted, *overrides))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_shipped_protocol_has_its_sources_values(name: str) -> None:
    system, quantization, wanted = PRESETS[name]
    run = a_run(benchmarks=tuple(wanted), protocol=name)
    found = {each.name: run.protocol.decoding_for(each) for each in run.benchmarks if each.name in wanted}
    assert {each: asdict(decoding) for each, decoding in found.items()} == {
        each: asdict(Decoding(**values)) for each, values in wanted.items()
    }
    systems = {run.protocol.system_prompt_for(each) for each in run.benchmarks}
    assert (systems, run.protocol.quantization) == ({system}, quantization)


@pytest.mark.slow
def test_every_protocol_is_tested_here_and_names_benchmarks_that_are_there() -> None:
    assert sorted(PRESETS) == PROTOCOLS
    shipped = (path.stem for path in (CONF / "benchmark").glob("*.yaml") if not path.stem.startswith("embedded"))
    there = composed(*(f"+benchmark@evaluation.benchmarks.{name}={name}" for name in shipped)).evaluation.benchmarks
    for name in PROTOCOLS:
        node = composed(f"protocol={name}").protocol
        for measure, names in node.get("means", {}).items():
            assert {there[each].measure for each in names} == {measure}, name
        assert {*node.get("settings", {})} - {*KINDS} <= {*there}, name


def test_the_papers_harmful_mean_is_over_six_sets() -> None:
    means = a_run(protocol="alttrain").protocol.means
    assert {measure: len(names) for measure, names in means.items()} == {
        "harmful_rate": 6,
        "over_refusal_rate": 1,
        "accuracy": 4,
    }
    paper = composed(*(f"{key}={value}" for key, value in OPEN.items()), "protocol=alttrain", "evaluation=paper")
    assert set(paper.evaluation.benchmarks) == {each for names in means.values() for each in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r1_act", "alttrain"])
def test_backbones_that_are_told_who_they_are_share_a_column(name: str, content: dict[str, str]) -> None:
    def of(*overrides: str) -> tuple[str | None, str]:
        run = a_run(*overrides, protocol=name)
        return run.protocol.system_prompt, run.protocol_hash(run.benchmarks[0])

    qwen, llama, none = of(), of("backbone=r1_llama_8b"), of("protocol.system_prompt=''")
    assert (qwen[0], llama[0]) == (IDENTITY, "You are Llama, created by Meta AI. You are a helpful assistant.")
    assert qwen[1] == llama[1] != none[1]


# --- the hash ---

WRITERS = {
    "rubric": "protocol.judges.over_refusal_rate.writer",
    "majority": "protocol.judges.over_refusal_rate.judges.xstest_three_class.writer",
}
CHANGED = {"base_url": "http://other/v1", "key_variable": "OTHER", "concurrency": 3, "attempts": 2, "timeout_s": 9.0}


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The hash of every benchmark's rows, which are not there."""
    hashes = {"file": "abc"}
    monkeypatch.setattr(Rows, "content", lambda self: dict(hashes))
    return hashes


def hashed(*overrides: str, judge: str = "rubric", protocol: str = "star1") -> dict[str, str]:
    """The hashes of two benchmarks."""
    chosen = "majority" if judge == "majority" else "xstest_three_class"
    choice = f"judge@protocol.judges.over_refusal_rate={chosen}"
    names = ("xstest_safe", "gsm8k")
    run = a_run(choice, *overrides, benchmarks=names, protocol=protocol)
    return {each.name: run.protocol_hash(each) for each in run.benchmarks if each.name in names}


@pytest.mark.slow
@pytest.mark.parametrize("judge", WRITERS)
def test_how_a_judges_server_is_asked_moves_no_hash(
    judge: str, content: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED, "OTHER")
    assert set(CHANGED) == set(SERVER_SETTINGS)
    changes = [f"++{WRITERS[judge]}.{key}={value}" for key, value in CHANGED.items()]
    assert hashed(*changes, judge=judge) == hashed(judge=judge)
    assert hashed(f"{WRITERS[judge]}.model_name=other", judge=judge) != hashed(judge=judge)


@pytest.mark.slow
def test_the_hash_covers_what_applied_to_a_benchmark_and_nothing_else(content: dict[str, str]) -> None:
    before = hashed()

    def moved(*overrides: str) -> list[str]:
        after = hashed(*overrides)
        return [each for each in ("xstest_safe", "gsm8k") if after[each] != before[each]]

    assert moved("protocol.settings.maths.max_new_tokens=99") == ["gsm8k"]
    assert moved("+protocol.settings.gsm8k={max_new_tokens: 99}") == ["gsm8k"]
    assert moved("+protocol.settings.over_refusal={system_prompt: Be kind.}") == ["xstest_safe"]
    assert moved("protocol.settings.code.max_new_tokens=99", "+protocol.settings.aime_2024={samples: 1}") == []
    assert moved("protocol.means.accuracy=[gsm8k]", "protocol.also_judged=[answer]") == []
    assert moved("protocol.decoding.temperature=0.6") == ["xstest_safe", "gsm8k"]
    assert moved("protocol.decoding.repetition_penalty=1.1") == ["xstest_safe", "gsm8k"]
    assert moved("protocol.quantization=nf4") == ["xstest_safe", "gsm8k"]
    assert moved("protocol.judged=answer") == ["xstest_safe"]  # a grader reads answers alone
    assert moved("evaluation.benchmarks.gsm8k.rows.limit=5") == ["gsm8k"]
    assert moved("evaluation.benchmarks.gsm8k.rows.file=elsewhere") == []
    assert moved("+judge@protocol.judges.xstest_safe=wildguard_refusal") == ["xstest_safe"]
    # greedy decoding looks at neither
    assert moved("protocol.decoding.seed=3", "protocol.decoding.top_p=0.95") == []
    content["file"] = "def"
    assert moved() == ["xstest_safe", "gsm8k"]


@pytest.mark.slow
def test_a_sampled_numbers_hash_has_the_seed_and_the_nucleus(content: dict[str, str]) -> None:
    for change in ("protocol.decoding.seed=3", "protocol.decoding.top_p=0.9", "+protocol.decoding.top_k=5"):
        assert hashed(change, protocol="thinksafe") != hashed(protocol="thinksafe")


def test_a_grader_reads_answers_alone_whatever_part_is_judged_for_harm(content: dict[str, str]) -> None:
    run = a_run("protocol.also_judged=[thought]", benchmarks=("xstest_safe", "gsm8k"), protocol="alttrain")
    parts = {each.name: run.protocol.parts_of(each) for each in run.benchmarks if "embedded" not in each.name}
    assert parts == {"xstest_safe": ("both", "thought"), "gsm8k": ("answer",)}


def test_generations_are_told_apart_by_what_applied_to_them(content: dict[str, str]) -> None:
    def fingerprint(*overrides: str) -> dict[str, Any]:
        run = a_run(*overrides, benchmarks=("gsm8k",), protocol="alttrain")
        return run.evaluation_fingerprint(next(each for each in run.benchmarks if each.name == "gsm8k"))

    plain = fingerprint()
    assert plain["protocol.decoding.max_new_tokens"] == 16384
    assert plain["protocol.quantization"] == "none"
    assert fingerprint("protocol.settings.code.max_new_tokens=99", "protocol.judged=both") == plain
    assert fingerprint("protocol.settings.maths.max_new_tokens=99")["protocol.decoding.max_new_tokens"] == 99
    assert fingerprint("protocol.quantization=nf4") != plain


def test_an_old_folders_fingerprint_is_what_it_was(content: dict[str, str]) -> None:
    run = a_run()
    harmful = run.evaluation_fingerprint(run.benchmarks[0])
    assert {key: value for key, value in harmful.items() if key.startswith("protocol.")} == {
        "protocol.decoding._target_": "alttrain.generation.Decoding",
        "protocol.decoding.max_new_tokens": 1024,
        "protocol.decoding.temperature": 0.0,
        "protocol.decoding.top_p": 1.0,
        "protocol.decoding.repetition_penalty": 1.0,
        "protocol.decoding.samples": 1,
        "protocol.decoding.seed": 0,
        "protocol.system_prompt": None,
    }


# --- the check ---


def with_rows(rows: list[dict[str, Any]], folder: Path, **columns: str) -> Benchmark:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps({'label': 'harmful', **row})}\n" for row in rows), encoding="utf-8")
    source = Rows("x", str(path), columns=columns)
    return Benchmark("x", "harm", "harmful_rate", source, RefusalJudge())


def light(folder: Path, benchmark: Benchmark, protocol: Protocol, **parts: Any) -> Any:
    """As much of a run as a light check looks at."""
    run = a_run("trainer.accelerator=cpu")
    return replace(run, folder=folder / "runs" / "r", benchmarks=(benchmark,), protocol=protocol, **parts)


def test_rows_without_a_prompt_are_left_out_by_name(tmp_path: Path) -> None:
    benchmark = with_rows([{"id": "a", "prompt": "Q?", "aim": "G"}, {"id": "b", "prompt": None}], tmp_path)
    assert ([row.id for row in benchmark.rows.examples(None)], benchmark.rejected()) == (
        ["a"],
        [Rejected("b", "no prompt")],
    )


def test_the_checked_rows_are_the_trained_ones_and_a_later_benchmark_changes_none(tmp_path: Path) -> None:
    prompt = embedded_rows("train").examples(None)[0].prompt
    run = light(tmp_path, with_rows([{"prompt": prompt}], tmp_path), a_protocol())
    assert prompt not in [row.prompt for row in run.rows]
    assert run.selection is replace(run, stages=()).selection  # selected once
    for name in ("train.jsonl", "rewrite.json"):
        write_text(run.folder / name, "")
    assert prompt in [row.prompt for row in run.rows]


@pytest.mark.parametrize(
    ("fields", "engine", "message"),
    [
        ({"means": {"accuracy": ["x"]}}, None, r"protocol\.means\.accuracy names x, whose measure is harmful_rate"),
        ({"quantization": "nf4"}, "server", r"protocol\.quantization=nf4: a server or vLLM has its weights as it was"),
        ({"quantization": "nf4"}, None, r"protocol\.quantization=nf4 needs .*; set protocol\.quantization=none"),
        ({"settings": {"x": {"samples": 2}}}, None, r"protocol p, benchmark x: samples=2 with temperature=0"),
    ],
)
def test_what_a_protocol_cannot_have_is_told_before_any_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], engine: str | None, message: str
) -> None:
    monkeypatch.setattr(sys.modules["alttrain.run.stages.check"], "has_gpu_driver", lambda: False)
    monkeypatch.setattr("alttrain.backbone.device.BITSANDBYTES_ON_CPU", (99, 0))
    benchmark = with_rows([{"prompt": "Q?", "goal": "G"}], tmp_path)
    monkeypatch.setattr(Run, "evaluation_fingerprint", lambda self, benchmark: {})
    parts = {"generation": Server("http://localhost/v1", "m")} if engine else {}
    with pytest.raises((RunError, ValueError), match=message):
        check_light(light(tmp_path, benchmark, a_protocol(**fields), **parts))


@pytest.mark.parametrize(
    ("fields", "key", "name", "meant"),
    [
        ({"settings": {"math": {"max_new_tokens": 5}}}, "settings.math", "math", "maths"),
        ({"means": {"accuracy": ["math_500"]}}, "means.accuracy", "math_500", "math500"),
        ({"judges": {"xstest-safe": RefusalJudge()}}, "judges.xstest-safe", "xstest-safe", "xstest_safe"),
    ],
)
def test_a_misspelt_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], key: str, name: str, meant: str
) -> None:
    monkeypatch.setattr(Run, "evaluation_fingerprint", lambda self, benchmark: {})
    run = light(tmp_path, with_rows([{"prompt": "Q?", "goal": "G"}], tmp_path), a_protocol(**fields))
    told = rf"protocol\.{key}: there is no benchmark '{name}', in this run or to choose; did you mean '{meant}'\?"
    with (
        initialize_config_module("alttrain.conf", version_base="1.3"),
        pytest.raises(RunError, match=told),
    ):
        check_light(run)


# --- JailbreakBench's artifacts ---


@needs_shared
def test_artifacts_have_goals_and_leave_out_what_found_no_prompt() -> None:
    found = {}
    for attack, setting in (("GCG", "white_box"), ("JBC", "manual"), ("PAIR", "black_box")):
        reading = jailbreak_artifacts(attack, setting, "vicuna-13b-v1.5", str(SHARED)).read(None)
        found[attack] = (len(reading.examples), len(reading.rejected))
        assert all(row.goal and row.goal != row.prompt for row in reading.examples)
    assert found == {"GCG": (100, 0), "JBC": (100, 0), "PAIR": (82, 18)}
    assert {row.reason for row in reading.rejected} == {"no prompt"}
    assert [row.id for row in reading.rejected][:3] == ["24", "26", "31"]


def test_another_target_is_another_file_which_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "jbb_artifacts" / "attack-artifacts" / "PAIR" / "black_box" / "llama-2-7b-chat-hf.json"
    path.parent.mkdir(parents=True)
    row = {"index": 3, "goal": "G", "category": "c", "prompt": "P", "response": ""}
    path.write_text(json.dumps({"parameters": {}, "jailbreaks": [row]}), encoding="utf-8")
    (example,) = jailbreak_artifacts("PAIR", "black_box", "llama-2-7b-chat-hf", str(tmp_path)).examples(None)
    assert (example.id, example.prompt, example.goal, example.label) == ("3", "P", "G", "harmful")
    with pytest.raises(FileNotFoundError, match=r"PAIR/black_box/gpt-4\.json: no such data file"):
        jailbreak_artifacts("PAIR", "black_box", "gpt-4", str(tmp_path)).examples(None)
    path.write_text(json.dumps({"parameters": {}}), encoding="utf-8")
    with pytest.raises(ValueError, match="expected a JSON object with the rows at 'jailbreaks', found parameters"):
        jailbreak_artifacts("PAIR", "black_box", "llama-2-7b-chat-hf", str(tmp_path)).examples(None)


# --- decoding ---


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (5, 1.0), (20, 0.95), (200, 0.9), (3, 0.5)])
def test_a_token_is_drawn_from_the_likeliest_k_and_then_the_nucleus(top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 300, generator=generator) * 2).round(decimals=1)  # with ties
    draws = torch.rand(200, generator=generator)
    expected = []
    for row, number in zip(logits.softmax(-1), draws, strict=True):
        ordered, tokens = row.sort(descending=True, stable=True)
        kept = ordered[:top_k] / ordered[:top_k].sum()
        size = int((kept.cumsum(-1) - kept < top_p).sum()) if top_p < 1 else len(kept)
        reached = ordered[:size].cumsum(-1)
        expected.append(int(tokens[min(size - 1, int(torch.searchsorted(reached, number * reached[-1], right=True)))]))
    assert draw(logits, top_p, draws, top_k).tolist() == expected


def test_a_response_is_cut_where_the_context_ends() -> None:
    decoding = Decoding(8, context=20)
    assert [Decoding(8, context=one).cut_at(12) for one in (None, 20, 10, "backbone")] == [None, 12, 10, 12]  # type: ignore[arg-type]
    assert [Prompt([1], "a", "a", cap).max_new_tokens(decoding) for cap in (3, 30, None)] == [3, 8, 8]


# --- precision ---


def test_evaluated_weights_have_the_protocols_precision_and_others_the_backbones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run: Any = SimpleNamespace(
        name="r",
        folder=tmp_path,
        output_dir=tmp_path,
        generation=InProcess(),
        config={"generation": {}},
        backbone=SimpleNamespace(source="s", quantization="none"),
        hardware=SimpleNamespace(accelerator="cpu"),
    )
    session = Session(run)
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    asked: list[tuple[bool, str]] = []
    monkeypatch.setattr(Session, "renderer", SimpleNamespace(end_id=0))
    monkeypatch.setattr(Session, "weights", SimpleNamespace(identity="w"))
    monkeypatch.setattr(Session, "device", "cpu")
    monkeypatch.setattr(Session, "dtype", lambda self, name: name)

    def decoder(
        session: Session, generation: InProcess, adapter: Any, full_model: Path | None, quantization: str
    ) -> None:
        asked.append((full_model is not None, quantization))

    monkeypatch.setattr(Session, "_decoder", decoder)
    kept = []
    for quantization in (None, "nf4"):
        with session.engine(tmp_path, quantization):  # type: ignore[arg-type]
            pass
        with session.engine(None, quantization) as engine:  # type: ignore[arg-type]
            assert isinstance(engine, CachedEngine)
            kept.append(engine.identity["quantization"])
            engine.engine  # noqa: B018
    assert asked == [(True, "none"), (False, "none"), (True, "nf4"), (False, "nf4")]
    assert kept == ["none", "nf4"]


@pytest.mark.slow
def test_memory_is_that_of_the_protocols_precision_and_of_the_longest_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = ("gsm8k", "humaneval")
    monkeypatch.setattr(needs, "incomplete_benchmarks", lambda run: run.all_benchmarks)  # without their files
    device = needs.Device("GPU", 80 << 30)

    def weights(*overrides: str) -> tuple[int, list[str]]:
        run = a_run("generation.slots=1", "training=none", "adapter=none", *overrides, benchmarks=benchmarks,
                    protocol="alttrain")  # fmt: skip
        (need,) = needs.needs_of(run, [], device, needs.Sizes(100))
        return need.parts["weights"], [override for override, _ in need.remedies()]

    whole, remedies = weights()
    assert remedies[:2] == [
        "protocol.quantization=nf4",
        " ".join(f"protocol.settings.{kind}.max_new_tokens=8192" for kind in ("knowledge", "maths", "code")),
    ]
    assert remedies[-1].startswith("protocol.decoding.max_new_tokens=1 ")
    assert weights("protocol.quantization=nf4")[0] < whole / 2
    assert weights("protocol.quantization=null", "backbone.quantization=nf4")[0] < whole / 2
    assert weights("backbone.quantization=nf4")[0] == whole


# --- a run of it ---


def test_each_benchmark_is_generated_and_judged_by_its_own_settings(
    tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTTRAIN_CACHE", str(tmp_path / "cache"))
    arguments = [one for one in tiny_arguments if not one.startswith(("training", "rewrite"))]
    context, asked = 200, list[tuple[int, int, int]]()
    generate = LocalEngine.generate

    def spy(self: LocalEngine, prompts: Any, decoding: Decoding, advance: Any) -> Any:
        asked.extend((decoding.max_new_tokens, len(one.ids), one.max_new_tokens(decoding)) for one in prompts)
        return generate(self, prompts, decoding, advance)

    monkeypatch.setattr(LocalEngine, "generate", spy)
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        changed = [
            "method=no_train",
            "stages=[check,generate,judge]",
            "+protocol.settings.over_refusal={max_new_tokens: 5, temperature: 1.0, top_k: 3, samples: 3}",
            f"+protocol.settings.harm={{max_new_tokens: 300, context: {context}}}",
            "+protocol.settings.embedded_harmful={system_prompt: Be kind.}",
            "+protocol.means.over_refusal_rate=[embedded_benign]",
        ]
        folder = execute(compose("run", overrides=[*arguments, *changed])).folder / "evaluation"
    made = {path.name: read_rows(path / "generations.jsonl", Generation) for path in folder.iterdir()}
    benign, harmful = made["embedded_benign"], made["embedded_harmful"]
    assert [(row.id, row.sample) for row in benign[:4]] == [(benign[0].id, n) for n in (0, 1, 2)] + [(benign[3].id, 0)]
    assert (len(benign), len(harmful), len(made["embedded_short_answer"])) == (12, 4, 4)
    assert {most for cap, _, most in asked if cap == 5} == {5}
    assert {length + most for cap, length, most in asked if cap == 300} == {context}
    assert {most for cap, _, most in asked if cap not in (5, 300)} == {12}
    cut = [row for row in harmful if row.finish == "length"]
    assert cut
    told = {name: json.loads((folder / name / "metrics.json").read_text()) for name in made}
    provenance = told["embedded_benign"]["provenance"]
    assert (provenance["kind"], provenance["means"]) == ("over_refusal", {"over_refusal_rate": ["embedded_benign"]})
    assert {name: one["metrics"][0]["n"] for name, one in told.items()} == {
        name: len(rows) for name, rows in made.items()
    }
    assert told["embedded_harmful"]["metrics"][0]["truncated"] == len(cut)
    assert [one["left_out"] for one in told.values()] == [[], [], []]
