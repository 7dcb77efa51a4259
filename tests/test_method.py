"""A method is a whole treatment: what a run changes of it, of its protocol and of its benchmarks is known by key."""

import functools
import re
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module

from alttrain.backbone import FullFineTuning, LoRA
from alttrain.config import Changes, RunError, changes, digest_of, identity, register, run_name
from alttrain.records import Example, Segment
from alttrain.rewrite import lacks_original
from alttrain.run.app import main
from alttrain.run.asking import prompt_text
from alttrain.run.assembly import Run, assemble
from alttrain.run.folder import run_document
from alttrain.run.plan import method_row
from alttrain.tokenization import Renderer

NO_SOURCE = {"custom", "demo_alttrain", "demo_without_ha"}
"""Methods of ours, that follow no published treatment."""


def changed(*overrides: str) -> tuple[str, Changes]:
    """The run's name and what it changes."""
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        config = compose("run", list(overrides))
    return run_name(config), changes(config)  # outside of the context, as a stage asks


def test_a_filter_of_rows_shapes_whatever_its_column_is_called() -> None:
    where = {"where": {"file": "a", "path": "b"}, "file": "c"}
    plain = dict.fromkeys(identity.SHAPING) | {"dataset": {"sources": {"mine": where}}, "backbone": {"shape": {"a": 1}}}
    plain["rewrite"] = {"guard": {"base_url": "u"}, "teacher": {"writer": {"attempts": 1, "extra": {"attempts": 2}}}}
    shaped = {key for key, value in identity.shaping(plain).items() if value is not None}
    assert shaped == {
        "dataset.sources.mine.where.file",
        "dataset.sources.mine.where.path",
        "rewrite.teacher.writer.extra.attempts",
    }


def test_a_method_as_it_is_changes_nothing() -> None:
    name, found = changed("method=demo_alttrain", "seed=3", "output_dir=x", "data_dir=y", "trainer.threads=1")
    assert name == "smollm2_135m-demo_alttrain-s3"
    assert found.treatment == {}
    assert all(not own for own in found.evaluation.values())
    shown = [f"evaluation.benchmarks.nq_open.{own}" for own in ("tables=[main]", "labels.accuracy=right")]
    assert changed("evaluation=general", *shown)[1].evaluation["nq_open"] == {}
    other = changed("method=demo_alttrain", "backbone.source=a/b")[1].evaluation["embedded_benign"]
    assert other == {"backbone.source": ("HuggingFaceTB/SmolLM2-135M-Instruct", "a/b")}


def test_a_setting_of_a_benchmark_with_a_keys_name_is_a_change() -> None:
    protocol = {"settings": {"health": {"max_new_tokens": 5}}}
    found = identity._protocol_for(protocol, "health", {"kind": "harm", "measure": "harmful_rate"})
    assert found["protocol.settings.health.max_new_tokens"] == 5


@pytest.mark.parametrize(
    ("override", "key", "published", "own"),
    [
        ("training.epochs=3", "training.epochs", 1, 3),
        ("adapter.alpha=16", "adapter.alpha", 32, 16),
        ("dataset.amounts.benign=5", "dataset.amounts.benign", None, 5),
        ("backbone.quantization=nf4", "backbone.quantization", "none", "nf4"),
        ("backbone.template.think_close=x", "backbone.template.think_close", "\n</think>\n\n", "x"),
        ("method.system_prompt=Hello", "method.system_prompt", None, "Hello"),
        ("teacher=backbone", "rewrite.teacher.name", "template", "backbone"),
    ],
)
def test_an_overridden_part_is_in_the_name(override: str, key: str, published: object, own: object) -> None:
    name, found = changed("method=demo_alttrain", override)
    assert found.treatment[key] == (published, own)
    assert name == f"smollm2_135m-demo_alttrain-{digest_of(found.treatment)}-s0"
    assert re.fullmatch("changed_[0-9a-f]{6}", digest_of(found.treatment))
    other = changed("method=demo_alttrain", override, "training.learning_rate=0.5")[0]
    assert name != other != "smollm2_135m-demo_alttrain-s0"


@pytest.mark.parametrize(
    ("method", "more"), [("alttrain", ["backbone.identity=Qwen", "protocol=r1_act"]), ("no_train", [])]
)
def test_a_backbone_without_an_option_changes_no_method(method: str, more: list[str]) -> None:
    backbone = ["backbone=hub", "backbone.source=ORG/NAME", "backbone.name=my_model"]
    name, found = changed(f"method={method}", *backbone, *more)
    assert (name, found.treatment) == (f"my_model-{method}-s0", {})
    assert {key for own in found.evaluation.values() for key in own} == {"backbone.source"}


@pytest.mark.parametrize(
    "given",
    [
        ("method=alttrain", "backbone=hub", "backbone.source=ORG/NAME", "backbone.identity=You are N."),
        ("method=alttrain", "protocol=alttrain", "backbone.identity=You are N."),
        ("method=no_train", "backbone=phi_4_reasoning", "backbone.template.without_system='<|im_start|>system'"),
    ],
)
def test_what_a_backbone_leaves_to_the_user_changes_no_method(given: tuple[str, ...]) -> None:
    name, found = changed(*given)
    assert "changed" not in name
    assert found.treatment == {}
    assert {key for own in found.evaluation.values() for key in own} <= {"backbone.source"}


def test_a_users_method_is_as_published_while_it_is_planned_and_in_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my, own" / "method").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [custom, override /training: demo]\nmethod: {name: mine, label: Mine}\n"
    (tmp_path / "my, own" / "method" / "mine.yaml").write_text(text)
    given = f"hydra.searchpath=['file://{tmp_path / 'my, own'}']"
    monkeypatch.setenv("ALTTRAIN_SEARCH_PATH", "")
    monkeypatch.setattr(sys, "argv", ["alttrain", f"--config-dir={tmp_path / 'my, own'}", "method=mine"])
    for step in ("_check", "_app"):
        monkeypatch.setattr(f"alttrain.run.app.{step}", lambda *given: None)
    main()
    name, found = changed(given, "method=mine")
    assert (name, found.treatment) == ("smollm2_135m-mine-s0", {})
    assert changed(given, "method=mine", "training.epochs=3")[1].treatment == {"training.epochs": (1, 3)}
    assert changed("method=demo_alttrain")[0] == "smollm2_135m-demo_alttrain-s0"


def test_how_a_teachers_server_is_asked_is_no_change() -> None:
    known = ["method=demo_alttrain", "teacher=server", "teacher.writer.model_name=m"]
    moved = ["teacher.writer.base_url=http://elsewhere/v1", "teacher.writer.concurrency=2"]
    assert changed(*known) == changed(*known, *moved)


def test_a_method_that_trains_nothing_is_the_same_on_any_data() -> None:
    name, found = changed("method=no_train", "dataset=gsm8k")
    assert (name, found.treatment) == ("smollm2_135m-no_train-s0", {})
    assert changed("method=no_train", "training.thought=empty")[1].treatment == {
        "training.thought": ("absent", "empty")
    }


def test_a_changed_protocol_or_benchmark_is_told_by_benchmark() -> None:
    limit = "evaluation.benchmarks.embedded_benign.rows.limit=4"
    evaluation = changed("method=no_train", limit, "protocol.decoding.max_new_tokens=9")[1].evaluation
    cap = {"protocol.decoding.max_new_tokens": (1024, 9)}
    assert evaluation["embedded_benign"] == cap | {"benchmark.rows.limit": (None, 4)}
    assert evaluation["embedded_harmful"] == cap


def test_what_a_protocol_sets_for_other_benchmarks_changes_nothing() -> None:
    known = ["method=no_train", "protocol=alttrain", "evaluation=paper", "backbone=r1_qwen_7b"]
    evaluation = changed(*known, "protocol.settings.maths.max_new_tokens=9", "protocol.means.accuracy=[gsm8k]")[
        1
    ].evaluation
    assert {name for name, own in evaluation.items() if own} == {"gsm8k", "math500", "aime_2024", "humaneval"}
    assert evaluation["gsm8k"]["protocol.settings.maths.max_new_tokens"] == (16384, 9)
    assert list(evaluation["humaneval"]) == ["protocol.means.accuracy"]


def test_a_free_composition_has_no_method_to_change() -> None:
    assert changed("training.epochs=3")[1].treatment == {}


QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
LLAMA = "You are Llama, created by Meta AI. You are a helpful assistant."
HELPFUL = "You are a helpful assistant."
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QLORA = ("LoRA", 16, 16, 0.0, SEVEN, "nf4")
WHOLE, HALF = ("FullFineTuning", "float32"), ("FullFineTuning", "bfloat16")
NOTHING = ("NoAdapter",)
TREATMENTS: dict[str, tuple[object, ...]] = {
    # method: data, rewrite, teacher, recipe, adapter with quantisation, system prompt on a Qwen and on a Llama
    "no_train": (None, "none", None, "none", NOTHING, None, None),
    "published": (None, "none", None, "none", NOTHING, None, None),
    "intention_analysis": (None, "intention_analysis", None, "none", NOTHING, None, None),
    "intention_analysis_one_pass": (None, "intention_analysis_one_pass", None, "none", NOTHING, None, None),
    "safety_prompt": (None, "safety_prompt", None, "none", NOTHING, None, None),
    "direct_refusal": ("direct_refusal", "direct_refusal", None, "direct_refusal", HALF, "", ""),
    "safechain": ("safechain", "safechain", None, "safechain", WHOLE, "", ""),
    "safechain_1k": ("safechain_1k", "safechain", None, "safechain_1k", HALF, "", ""),
    "star1": ("star1", "star1", None, "star1", WHOLE, "", ""),
    "r1_act": ("r1_act", "r1_act", None, "r1_act", QLORA, QWEN, LLAMA),
    "safepath_qwen": ("safepath_qwen", "safepath", None, "safepath_qwen", HALF, QWEN, QWEN),
    "safepath_llama": ("safepath_llama", "safepath", None, "safepath_llama", HALF, HELPFUL, HELPFUL),
    "safekey": ("safekey", "safekey", None, "safekey", WHOLE, "", ""),
    "thinksafe": ("safechain_prompts", "thinksafe", None, "thinksafe",
                  ("LoRA", 32, 16, 0.05, ["q_proj", "v_proj"], "none"), "", ""),
    "plain": ("alttrain_1k", "plain", None, "alttrain", QLORA, QWEN, LLAMA),
    "alttrain": ("alttrain_1k", "alttrain", "gpt4o", "alttrain", QLORA, QWEN, LLAMA),
    "alttrain_without_pu": ("alttrain_1k", "alttrain_without_pu", "gpt4o", "alttrain", QLORA, QWEN, LLAMA),
    "alttrain_without_ha": ("alttrain_1k", "alttrain_without_ha", None, "alttrain", QLORA, QWEN, LLAMA),
    "alttrain_without_cr": ("alttrain_1k", "alttrain_without_cr", "gpt4o", "alttrain", QLORA, QWEN, LLAMA),
    "alttrain_rephrased": ("alttrain_1k", "alttrain_rephrased", "gpt4o", "alttrain", QLORA, QWEN, LLAMA),
    "alttrain_500": ("alttrain_500", "alttrain", "gpt4o", "alttrain", QLORA, QWEN, LLAMA),
    "alttrain_3000": ("alttrain_3000", "alttrain", "gpt4o", "alttrain", QLORA, QWEN, LLAMA),
}  # fmt: skip


def adapted(run: Run) -> tuple[object, ...]:
    """What is trained of the weights, and what becomes of the rest."""
    adapter, kind = run.adapter, type(run.adapter).__name__
    if isinstance(adapter, LoRA):
        targets = list(adapter.target_modules)
        return kind, adapter.rank, adapter.alpha, adapter.dropout, targets, run.backbone.quantization
    return (kind, adapter.weights) if isinstance(adapter, FullFineTuning) else (kind,)


def assembled(*overrides: str) -> Run:
    """The run of a command."""
    register()
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        return assemble(compose("run", ["evaluation=none", *overrides]))


ASKED = "+benchmark@evaluation.benchmarks.embedded_harmful=embedded_harmful"


@pytest.mark.slow
@pytest.mark.parametrize("method", TREATMENTS)
def test_a_method_is_the_treatment_of_its_source(method: str) -> None:
    backbones = ("star1_r1_1_5b", "star1_r1_8b") if method == "published" else ("r1_qwen_1_5b", "r1_llama_8b")
    run, other = (assembled(f"method={method}", f"backbone={name}") for name in backbones)
    trains = run.training.trains
    teacher = run.structure.teacher.name if run.structure.teacher else None
    parts = (run.dataset.name if trains else None, run.structure.name, teacher, run.training.name, adapted(run))
    assert (*parts, run.method.system_prompt, other.method.system_prompt) == TREATMENTS[method]
    assert run.method.name == method
    assert not run.changed.treatment
    own = "" if method.startswith("safepath") else run.method.system_prompt or None  # "" leaves it to the protocol
    assert run.method.evaluation_prompt == own
    if run.method.system_prompt is not None:
        assert run.backbone.system_prompt == run.method.system_prompt  # what it is trained with


OLMO = """You are OLMo, a helpful function-calling AI assistant built by Ai2. Your date cutoff is November 2024, and \
your model weights are available at https://huggingface.co/allenai. You do not currently have access to any \
functions. <functions></functions>"""
PHI = "<|im_start|>system<|im_sep|>MICROSOFT<|im_end|>"
DEFAULT_TURNS = {
    "r1_llama_8b": "<｜begin▁of▁sentence｜>",
    "qwen3_8b": "",
    "s1_14b": f"<|im_start|>system\n{QWEN}<|im_end|>\n",
    "olmo_3_7b_think": f"<|im_start|>system\n{OLMO}<|im_end|>\n",
    "phi_4_reasoning": PHI,
}
"""What a family's own template writes before a user's message."""


def before_the_message(*overrides: str) -> tuple[str, str]:
    """What stands before the message in a prompt of the evaluation, and in one for an original trace."""
    open_value = [f"backbone.template.without_system='{PHI}'"] if "backbone=phi_4_reasoning" in overrides else []
    run = assembled("+benchmark@evaluation.benchmarks.embedded_benign=embedded_benign", *overrides, *open_value)
    (benchmark,), renderer = run.benchmarks, SimpleNamespace(backbone=run.backbone)
    renderer.prompt_text = functools.partial(Renderer.prompt_text, renderer)
    row = benchmark.examples[0]
    texts = [prompt_text(run, renderer, benchmark, row)]
    if original := run.structure.original:
        texts.append(renderer.prompt_text(row.prompt, "open", system=original.system_prompt))
    user = run.backbone.template.user.partition("{content}")[0]
    heads = [text.partition(user + row.prompt)[0] for text in texts]
    return heads[0], heads[-1]


@pytest.mark.parametrize("backbone", DEFAULT_TURNS)
def test_without_a_system_prompt_of_its_own_a_prompt_has_the_familys_default_turn(backbone: str) -> None:
    """Those of a protocol that sends none, and those for originals, whatever the method's system prompt."""
    asked = before_the_message(f"backbone={backbone}", "protocol=star1", "method=no_train")[0]
    original = before_the_message(f"backbone={backbone}", "method=alttrain")[1]
    assert (asked, original) == (DEFAULT_TURNS[backbone],) * 2


@pytest.mark.parametrize(("backbone", "told"), [("s1_14b", "the template's default"), ("r1_llama_8b", "none")])
def test_the_table_of_methods_says_what_an_empty_system_prompt_leaves(backbone: str, told: str) -> None:
    row = method_row(assembled("method=star1", f"backbone={backbone}"), [])
    assert (row["system prompt"], row["trained with"]) == ("the protocol's", told)


@pytest.mark.parametrize("method", ["star1", "safechain", "safechain_1k", "direct_refusal", "safekey", "thinksafe"])
def test_a_method_trained_without_a_system_prompt_is_asked_with_the_protocols(method: str) -> None:
    """R1-Act's script sends its system prompt to whatever weights it is given."""
    known, bos = (f"method={method}", "backbone=r1_llama_8b"), DEFAULT_TURNS["r1_llama_8b"]
    heads = [before_the_message(*known, f"protocol={name}")[0] for name in ("r1_act", "offline")]
    assert heads == [bos + LLAMA, bos]


@pytest.mark.parametrize(
    ("overrides", "readers"),
    [
        (("method=r1_act",), "method.system_prompt"),
        (("method=plain", "protocol=r1_act", ASKED), "method.system_prompt and protocol.system_prompt"),
        (("method=no_train", "protocol=alttrain", ASKED), "protocol.system_prompt"),
        (("backbone=hub", "backbone.source=a/b", "method=alttrain"), "method.system_prompt"),
    ],
)
def test_who_a_backbone_is_must_be_known_where_it_is_told(overrides: tuple[str, ...], readers: str) -> None:
    with pytest.raises(RunError, match=rf"backbone\.identity: needed by {readers}; give"):
        assembled(*overrides)
    told = assembled(*overrides, "backbone.identity=You are B.")
    assert "You are B." in (told.method.system_prompt, told.protocol.system_prompt)
    assert assembled(*overrides, "backbone.identity=''").method.system_prompt in ("", None)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=star1", "protocol=alttrain", "evaluation=none"),
        ("method=safepath_qwen", "protocol=alttrain", ASKED),
        ("method=no_train", "protocol=offline", ASKED),
    ],
)
def test_who_a_backbone_is_need_not_be_known_where_it_is_not_told(overrides: tuple[str, ...]) -> None:
    assert assembled(*overrides).backbone.identity is None


def test_the_identity_of_a_backbone_that_is_not_told_it_is_in_no_hash() -> None:
    runs = [assembled("method=no_train", ASKED, *more) for more in ((), ("backbone.identity=You are N.",))]
    runs += [assembled("method=star1", "protocol=star1", ASKED, *more) for more in ((), ("backbone.identity=''",))]
    first, second, third, fourth = ([run.protocol_hash(one) for one in run.benchmarks] for run in runs)
    assert first == second != []
    assert third == fourth != []


def test_run_json_tells_untrained_runs_apart_as_their_names_do() -> None:
    runs = [assembled("training=none", "adapter=none", f"dataset={name}", "tag=t") for name in ("gsm8k", "star1")]
    assert [run_document(run)["tag"] for run in runs] == ["gsm8k-t", "star1-t"]
    assert run_document(assembled("method=no_train", "dataset=star1", "tag=t"))["tag"] == "t"
    assert run_document(assembled("dataset=star1"))["tag"] == ""


def test_every_method_is_held_to_its_source() -> None:
    shipped = {
        path.name.removesuffix(".yaml") for path in resources.files("alttrain.conf").joinpath("method").iterdir()
    }
    assert shipped - set(TREATMENTS) == NO_SOURCE


@pytest.mark.parametrize("method", sorted(NO_SOURCE - {"custom"}))
def test_a_demo_method_trains_on_the_packaged_prompts(method: str) -> None:
    run = assembled("experiment=demo", f"method={method}", "hydra.mode=RUN")
    assessment = Segment("assessment", "The request is harmful because people could be hurt.")
    for row in run.rows:
        if lacks_original(run.structure, row):
            row = replace(row, thought=(Segment("reasoning", "One. Two. Three."),), answer="Three.")
        assert isinstance(run.structure.rewrite(row, 0, assessment), Example)


@pytest.mark.parametrize(("method", "backbone"), [("published", "r1_llama_8b"), ("no_train", "star1_r1_8b")])
def test_weights_that_authors_trained_are_no_backbone_to_start_from(method: str, backbone: str) -> None:
    with pytest.raises(
        RunError, match=f"method={method} with backbone={backbone}, which .* method=published goes with"
    ):
        assembled(f"method={method}", f"backbone={backbone}")
