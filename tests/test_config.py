"""Every option composes and binds; planted mistakes are refused by key, value and what is accepted; all at once."""

import functools
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alttrain.config import (
    STAGES,
    Fault,
    RunError,
    changes,
    differences,
    expand_arguments,
    faults,
    flatten,
    preview,
    register,
    run_name,
)
from alttrain.config import overrides as of_overrides
from alttrain.config.identity import SHAPING, shaping
from alttrain.config.schema import TEXTS, RunSchema
from alttrain.config.trust import TRUSTED, take_trusted
from alttrain.records import Texts
from alttrain.run.app import _flags
from alttrain.run.assembly import assemble
from alttrain.run.folder import write_config
from alttrain.run.stages.judge import _provenance, judges_of

CONF = Path(__file__).parent.parent / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
NO_OPTIONS = (CONF, CONF / "benchmark" / "kind")  # the primary config, and what benchmarks have in common
OPTIONS = [(path.parent.relative_to(CONF).as_posix(), path.stem) for path in FILES if path.parent not in NO_OPTIONS]
ENGINES = [option for group, option in OPTIONS if group == "generation"]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]
NEEDS = {"multi_turn_live": ["intervention.crescendo.attacker.model_name=m"]}
"""What an experiment cannot run without."""
MOUNTED = {
    "benchmark": "evaluation.benchmarks.{}",
    "judge": "protocol.judges.{}",
    "dataset/source": "dataset.sources.{}",
    "dataset/selection": "dataset",
}
ALONE = ("experiment", "method", "launcher", "teacher")
"""Groups whose options change other parts, or which some configs lack."""
LINES = {"benchmark": (25, 120), "evaluation": (25, 120)}
"""The most lines and characters of a line, where a group's files have fewer than others."""

RECIPE = "name, epochs, learning_rate, batch_size, warmup_steps, max_length, max_steps, warmup_share, batch_size_of, "
RECIPE += "schedule, optimizer, weight_decay, betas, gradient_clip, b_ratio, thought, objective"


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


def composed(overrides: list[str], hydra: bool = False) -> DictConfig:
    """The config Hydra composes, with no check of ours. Not to be changed: the same overrides give the same object."""
    return _composed(tuple(overrides), hydra)


@functools.cache
def _composed(overrides: tuple[str, ...], hydra: bool) -> DictConfig:
    with initialize_config_module("alttrain.conf", version_base="1.3"):
        return compose("run", overrides=list(overrides), return_hydra_config=hydra)


def override(group: str, option: str) -> str:
    """How the command line chooses an option, mounted where its group belongs if the primary config has no place."""
    if group not in MOUNTED:
        return f"{group}={option}"
    there = {"benchmark": composed([]).evaluation.benchmarks, "dataset/source": composed([]).dataset.sources}
    there["judge"] = composed([]).protocol.judges
    append = "+" if option not in there.get(group, [option]) else ""
    return f"{append}{group}@{MOUNTED[group].format(option)}={option}"


def chosen(*options: tuple[str, str]) -> list[str]:
    """Overrides that choose options, each of a group, and fill the values they leave open."""
    choices = [override(*one) for one in options]
    return [*choices, *(f"{key}=filled" for key in sorted(OmegaConf.missing_keys(composed(choices))))]


def told(overrides: list[str]) -> list[str]:
    """The faults of a command line as they are printed."""
    return [str(fault) for fault in preview(overrides)[0]]


def strings(node: Any) -> Iterator[str]:
    """Every string in a nested plain config."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else [node]:
        if isinstance(child, dict | list):
            yield from strings(child)
        elif isinstance(child, str):
            yield child


def test_every_file_is_short() -> None:
    wrong = []
    for path in FILES:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(CONF)
        lines, (most, widest) = text.splitlines(), LINES.get(name.parts[0], (44, 123))
        if len(lines) > most or max(map(len, lines)) > widest:
            wrong.append(f"{name}: {len(lines)} lines of up to {max(map(len, lines))} characters")
        if not isinstance(yaml.safe_load(text), dict):
            wrong.append(f"{name} is no mapping")
    assert not wrong, "\n".join(wrong)


def test_all_groups_are_walked() -> None:
    groups = {group for group, _ in OPTIONS}
    assert {"backbone", "backbone/template", "dataset", "rewrite", "adapter", "training", "trainer"} <= groups
    assert {"generation", "evaluation", "logger", "experiment", "method", "benchmark", "judge"} <= groups
    assert not preview([])[0]


def batches() -> list[list[tuple[str, str]]]:
    """All options, those together that one config may have: mounted side by side, or one of each group."""
    groups = {group: [one for one in OPTIONS if one[0] == group] for group, _ in OPTIONS}
    mounted = [options for group, options in groups.items() if group in MOUNTED]
    single = [group for group in groups if group not in MOUNTED and (group in ALONE or "/" in group)]
    alone = [[one] for group in single for one in groups[group]]
    others = [options for group, options in groups.items() if group not in {*single, *MOUNTED}]
    return [*mounted, *alone, *([*filter(None, row)] for row in itertools.zip_longest(*others))]


def faults_together(options: list[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with options: faults, what does not resolve, and parts that are not those of their files."""
    config = composed(chosen(*options))
    found = [str(fault) for fault in faults(config)]
    if found:
        yield from found
        return
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    yield from (f"holds {text!r}" for text in strings(plain) if "${" in text or text == "???")
    for group, option in options:
        if group in ("experiment", "method", "launcher"):
            continue
        key = MOUNTED.get(group, group.replace("/", ".")).format(option)
        raw = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
        own = OmegaConf.select(config, key)
        if own is None:
            yield f"{option} is not at {key}"
        else:
            said = [name for name in ("_target_", "name") if "${" not in raw.get(name, "${")]
            yield from (f"{key} has another {name} than its file" for name in said if own[name] != raw[name])


PARTS = {group.partition("/")[0] for group, _ in OPTIONS} | {*RunSchema.__dataclass_fields__, "quick"}
OVERRIDE = rf"\+?(?:{'|'.join(PARTS)})(?:[./@][\w./@-]+)?="
OVERRIDE += r"(?:\[[^]]*\]|'?\$?\{[^}]*\}+'?|[^][\s'`(){};]*[^][\s'`(){};.,:])"
"""An override in a comment, without the quotes around it, and without the stop or comma that ends its clause."""


def commented(path: Path, mounted: str) -> Iterator[list[str]]:
    """The overrides that the comments of a file give, those with only blanks between them together.

    A key's own comment may give mappings for it: `key: ... # for example {...}`. `mounted` is the file's own key.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    text = " ".join(line.partition("# ")[2].strip() for line in lines)
    for given in re.findall(rf"(?<![\w./@+-])(?<!\w\()'?{OVERRIDE}'?(?: '?{OVERRIDE}'?)*", text):
        yield [one.replace("'", "") for one in re.findall(OVERRIDE, given)]
    key = [mounted]
    for line in lines:
        if place := re.match(r"( *)(\w+):", line):
            key = [*key[: 1 + len(place[1]) // 2], place[2]]
            for value in re.findall(r"\{[\w.]+: .*?\}+", line.partition("# ")[2]):
                yield [f"{'.'.join(key)}={value}"]


@pytest.mark.slow
def test_what_comments_say_to_type_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with the file's own option. A choice alone is only looked up."""
    monkeypatch.setenv(TRUSTED, "")
    refused, tried = {}, 0
    for path in FILES:
        group, option = path.parent.relative_to(CONF).as_posix(), path.stem
        for given in commented(path, MOUNTED.get(group, group.replace("/", ".")).format(option)):
            tried += 1
            keys = {one.partition("=")[0] for one in given}
            if len(given) == 1 and tuple(given[0].split("=")) in OPTIONS:
                continue
            own = [] if group == "." else [one for one in chosen((group, option)) if one.partition("=")[0] not in keys]
            if found := told(expand_arguments(take_trusted([*own, *given]))):
                refused[f"{path.relative_to(CONF)}: {' '.join(given)}"] = found
    assert refused == {}
    assert tried > 50


def options_faults() -> Iterator[str]:
    """What is wrong with any option; those that do not compose are told as well."""
    for options in batches():
        named = f"{'='.join(options[0])}{' and those beside it' if options[1:] else ''}"
        try:
            yield from (f"{named}: {fault}" for fault in faults_together(options))
        except (HydraException, OmegaConfBaseException) as error:
            yield f"{named}: {error}"


@pytest.mark.slow
def test_every_option_composes_without_fault_and_without_torch() -> None:
    """All in one process of their own, so that what they load is seen."""
    code = (
        "import json, sys\nimport kept_configs, test_config as test\ntest.register()\n"
        "wrong = [*test.options_faults()]\n"
        "heavy = {'torch', 'transformers', 'peft', 'pytorch_lightning'} & {*sys.modules}\n"
        "wrong += [f'{name} is loaded' for name in heavy]\n"
        "print(json.dumps(wrong))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    wrong = json.loads(done.stdout)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_experiments_sweep_only_what_exists() -> None:
    """Without their benchmarks, which take most of the time; the options are tried with them above."""
    wrong = []
    for experiment in EXPERIMENTS:
        sweep = composed([f"experiment={experiment}"], hydra=True).hydra.sweeper.params or {}
        swept = [f"{key}={values}" for key, values in ({"evaluation": "none"} | dict(sweep)).items()]
        found, configs = preview([f"experiment={experiment}", *swept, *NEEDS.get(experiment, [])])
        wrong += [f"experiment={experiment}: {fault}" for fault in found]
        if len({run_name(config) for config in configs}) < len(configs):
            wrong.append(f"experiment={experiment} has two jobs of one name")
    assert not wrong, "\n".join(wrong)


def test_the_page_and_the_loggers_take_the_same() -> None:
    assert get_args(Texts) == TEXTS
    assert told(["page_texts=some"]) == ["page_texts='some': accepted: all, benign, none"]
    assert told(["logger.texts=some"]) == ["logger.texts='some': accepted: all, benign, none"]


@pytest.mark.parametrize("options", ["wandb", "[csv,wandb]", "[csv,tensorboard,wandb,mlflow,trackio]", "none"])
def test_one_logger_several_or_none(options: str) -> None:
    (config,) = preview([f"logger={options}"])[1]
    names = [name for name in options.strip("[]").split(",") if name != "none"]
    assert list(assemble(config).loggers) == names


def test_values_come_through_interpolations() -> None:
    config = assemble(composed(["evaluation=safety", "training=none", "adapter=none", "data_dir=/d"])).config
    benchmarks = config["evaluation"]["benchmarks"]
    assert {benchmark["rows"]["data_dir"] for benchmark in benchmarks.values()} == {"/d"}
    assert benchmarks["strongreject"]["judge"] == config["protocol"]["judges"]["harmful_rate"]
    assert config["training"]["thought"] == config["backbone"]["untrained_thought"] == "absent"


@pytest.mark.slow
def test_every_experiment_runs_on_any_engine() -> None:
    choosing = [name for name in EXPERIMENTS if "generation" in (CONF / "experiment" / f"{name}.yaml").read_text()]
    assert choosing == ["demo"]  # all others leave the engine alone alike, so that one of them is tried with each
    wrong = []
    for experiment, generation in {*itertools.product(["demo", "main"], ENGINES), *((e, "vllm") for e in EXPERIMENTS)}:
        asked = [f"experiment={experiment}", f"generation={generation}", "evaluation=none"]
        config = composed([*asked, *NEEDS.get(experiment, [])])
        found = [str(fault) for fault in faults(config)]
        if ("slots" in config.generation) != config.generation._target_.endswith("InProcess"):
            found.append("has the slots of another engine")
        wrong += [f"experiment={experiment} generation={generation}: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)


def test_live_attackers_are_named_once_and_judged_against_the_goal() -> None:
    name, url = (f"intervention.crescendo.attacker.{key}" for key in ("model_name", "base_url"))
    assert told(["experiment=multi_turn_live"]) == [f"{name}='???': a value is needed here"]
    run = assemble(
        composed(
            ["experiment=multi_turn_live", "method=no_train", "backbone=r1_llama_8b", f"{name}=m", f"{url}=http://h/v1"]
        )
    )
    attacks: Any = [benchmark.intervention for benchmark in run.intervened_benchmarks]
    assert [type(attack).__name__ for attack in attacks] == ["Crescendo", "ActorAttack"]
    assert {(attack.attacker.model_name, attack.attacker.base_url) for attack in attacks} == {("m", "http://h/v1")}
    judges: Any = [benchmark.judge for benchmark in run.all_benchmarks]
    assert {(judge.name, judge.against) for judge in judges} == {("llama_guard_3", "goal_if_any")}


def test_the_demo_decodes_wide_in_this_process() -> None:
    own, chosen = (composed(["experiment=demo", *more]).generation for more in ([], ["generation=in_process"]))
    assert own == {**chosen, "slots": 192, "chunk": 256}


def test_experiment_changes_groups_and_a_method_comes_after_it() -> None:
    assert composed(["experiment=demo", "method=demo_alttrain"]).training.name == "demo"
    assert composed(["experiment=demo", "method=no_train"]).training.name == "none"
    assert composed(["method=no_train"]).adapter == {"_target_": "alttrain.backbone.NoAdapter"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sead=1"], r"sead='1': there is no such key; accepted: stages, seed, .*; did you mean 'seed'\?"),
        (["quik=true"], r"quik='true': there is no such key; accepted: .*, quick, trusted; did you mean 'quick'\?"),
        (["trused=[x]"], r"trused='\[x\]': there is no such key; accepted: .*; did you mean 'trusted'\?"),
        (["quick=maybe"], r"quick='maybe': accepted: true, false"),
        (["trainin=sft"], r"trainin='sft': there is no such key; accepted: .*; did you mean 'training'\?"),
        (["training=stf"], r"training='stf': accepted: (\w+, )*sft(, \w+)*; did you mean 'sft'\?"),
        (["experiment=dmo"], r"experiment='dmo': accepted: .*demo.*; did you mean 'demo'\?"),
        (["method=no_trian"], r"method='no_trian': accepted: .*; did you mean 'no_train'\?"),
        (["backbone/template=chatm"], r"backbone/template='chatm': accepted: .*; did you mean 'chatml'\?"),
        (["+benchmark@evaluation.benchmarks.x=xstest"], r"benchmark@.*='xstest': accepted: .*'xstest_safe'\?"),
        (["training.epocs=3"], r"training\.epocs='3': there is no such key; accepted: .*; did you mean 'epochs'\?"),
        (
            ["+training.epocs=3"],
            rf"training\.epocs=3: there is no such key; accepted: {RECIPE}; did you mean 'epochs'\?",
        ),
        (["+rewrite.understanding.fallback.x=1"], r"rewrite.*fallback\.x=1: there is no such key; accepted: none"),
        (["+dataset.sources.embedded.x=1"], r"dataset.*embedded\.x=1: there is no such key; accepted: file, limit"),
        (["training.optim.lr=3"], r"training\.optim\.lr='3': there is no such key; accepted: .*epochs.*"),
        (["nothing.lr=3"], r"nothing\.lr='3': there is no such key; accepted: (?!.*hydra).*backbone.*"),
        (["nothing=3"], r"nothing='3': there is no such key; accepted: (?!.*hydra).*backbone.*"),
        (
            ["rewrite.original.short.openin=x"],
            r"rewrite\.original\.short\.openin='x': there is no such key; .*'opening'\?",
        ),
        (["dataset.amounts.harmfull=1"], r"dataset\.amounts\.harmfull='1': .* accepted: harmful, .*'harmful'\?"),
        (["training._target_=alttrain.training.SFT"], r"training\._target_='alttrain\.training\.SFT': cannot be imp.*"),
        (["training._target_=alttrain.nope.X"], r"training\._target_='alttrain\.nope\.X': cannot be imported.*nope.*"),
        (["training._target_=sft"], r"training\._target_='sft': cannot be imported: expected a dotted path .*"),
        (["~training.epochs"], r"training\.epochs: missing; alttrain\.training\.SupervisedFineTuning needs it"),
        (
            ["~rewrite.original.short.tokens"],
            r"rewrite\.original\.short\.tokens: missing; alttrain\.rewrite\.SelfT.*",
        ),
        (["judge=wildguard_harm"], r"judge='wildguard_harm': .*override one of judge@.*judges\.harmful_rate, .*"),
        (["dataset=local"], r"dataset\.path='\?\?\?': a value is needed here"),
        (["backbone.name=${nope}"], r"backbone\.name: .*'nope' not found"),
        (["stages=[chek]"], r"stages='chek': accepted: " + ", ".join(STAGES) + r"; did you mean 'check'\?"),
        (["stages=[check,go]"], r"stages='go': accepted: " + ", ".join(STAGES)),
        (["training.epochs=[1"], r"training\.epochs: .*"),
        (["training"], r"training: .*EQUAL.*"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_told_by_key_value_and_remedy(overrides: list[str], message: str) -> None:
    found = told(overrides)
    assert len(found) == 1
    assert re.fullmatch(message, found[0]), found[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=x", r"training\.epochs='x': .*integer"),
        ("training.epochs=2.0", r"training\.epochs=2\.0: .*integer"),
        ("training.epochs=true", r"training\.epochs=True: .*integer"),
        ("training.batch_size=null", r"training\.batch_size.*integer"),
        ("training.optimizer=sgd", r"training\.optimizer='sgd': .*'adamw' or 'adamw_8bit'"),
        ("training.schedule=step", r"training\.schedule='step': .*'cosine' or 'cosine_from_zero'"),
        ("training.warmup_share=1", r"training\.warmup_share=1: .*less than 1.*"),
        ("+training.batch_size_of.a=x", r"training\.batch_size_of\.a='x': .*integer"),
        ("training.epochs=-1", r"training\.epochs=-1: .*greater than 0"),
        ("training.learning_rate=0", r"training\.learning_rate=0: .*greater than 0"),
        ("training.learning_rate=nan", r"training\.learning_rate=nan: .*(greater|less) than .*"),
        ("training.learning_rate=inf", r"training\.learning_rate=inf: .*less than inf"),
        ("training.betas=[0.9]", r"training\.betas=\[0\.9\]: .*at least 2 items.*"),
        ("training.betas=[0.9,1.0]", r"training\.betas\[1\]=1\.0: .*less than 1"),
        ("adapter.dropout=1", r"adapter\.dropout=1: .*less than 1"),
        ("adapter.target_modules=q_proj", r"adapter\.target_modules='q_proj': .*Sequence.*"),
        ("rewrite.original.short.tokens=-1", r"rewrite\.original\.short\.tokens=-1: .*greater than 0"),
        ("trainer.accelerator=tpu", r"trainer\.accelerator='tpu': .*'auto', 'cpu' or 'gpu'"),
        ("generation.dtype=int4", r"generation\.dtype='int4': .*'auto', 'bfloat16', 'float16' or 'float32'"),
        ("protocol.decoding.max_new_tokens=0", r"protocol\.decoding\.max_new_tokens=0: .*greater than 0"),
        (
            "evaluation.benchmarks.embedded_harmful.measure=asr",
            r"evaluation\.benchmarks\.embedded_harmful\.measure='asr': .*'harmful_rate', .*'accuracy'",
        ),
    ],
)
def test_wrong_value_is_told_by_key_and_value(override: str, message: str) -> None:
    """Without a search for what else may be wrong with the command line."""
    given = OverridesParser.create().parse_override(override)
    config = composed([]).copy()
    OmegaConf.update(config, given.key_or_group, given.value(), force_add=True)
    (found,) = faults(config)
    assert re.fullmatch(message, str(found)), found


@pytest.mark.parametrize(
    ("argument", "accepted"),
    [("seed=x", "integer"), ("seed=1.5", "integer"), ("stages=check", "list"), ("output_dir=null", "not optional")],
)
def test_wrong_type_of_a_top_level_key_says_what_is_accepted(argument: str, accepted: str) -> None:
    key, _, value = argument.partition("=")
    (found,) = told([argument])
    assert found.startswith(f"{key}=")
    assert value in found
    assert accepted in found.lower(), found


@pytest.mark.parametrize("argument", ["backbone=null", "training=null", "dataset={path: x}"])
def test_group_without_an_option_is_a_fault(argument: str) -> None:
    (found,) = told([argument])
    assert found.startswith(argument.partition("=")[0])
    assert "accepted" in found


@pytest.mark.parametrize("key", ["training", "backbone.template", "evaluation.benchmarks.embedded_harmful"])
def test_node_without_target_is_a_fault(key: str) -> None:
    (found,) = told([f"~{key}._target_"])
    assert found.startswith(key)
    assert "_target_" in found


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_that_is_not_finite_is_a_fault(value: str) -> None:
    """It would be written to a file that nothing reads."""
    (found,) = told([f"protocol.decoding.temperature={value}"])
    assert found.startswith(f"protocol.decoding.temperature={value}: ")


def test_leaf_of_a_mapping_is_named() -> None:
    (found,) = told(["dataset.amounts.harmful=-1"])
    assert found.startswith("dataset.amounts.harmful=-1: "), found


def test_all_faults_are_told_at_once() -> None:
    keys = [fault.key for fault in preview(["training.epocs=1", "training.batch_size=x", "sead=1", "rewrite=al"])[0]]
    assert sorted(keys) == ["rewrite", "sead", "training.batch_size", "training.epocs"]
    keys = [fault.key for fault in preview(["stages=[go]", "adapter.rank=0", "backbone.context_length=1.5"])[0]]
    assert sorted(keys) == ["adapter.rank", "backbone.context_length", "stages"]


@pytest.mark.slow
def test_a_key_that_is_given_before_the_choice_that_has_it_is_no_fault_beside_another() -> None:
    asked = [
        "protocol.judges.harmful_rate.base_url=http://localhost:1/v1",
        "judge@protocol.judges.harmful_rate=llama_guard_3",
    ]
    assert [fault.key for fault in preview([*asked, "limt=3"])[0]] == ["limt"]
    asked = ["judge@rewrite.guard=llama_guard_3", "method=thinksafe"]  # the method has the place
    assert [fault.key for fault in preview([*asked, "limt=3"])[0]] == ["limt"]


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["+experiment=demo", "+launcher=ray", "++method=alttrain"])
def test_a_plus_before_a_part_that_is_there_is_told(argument: str) -> None:
    (found,) = told([argument])
    assert found.endswith(": this part is there; leave the plus sign out"), found
    (found,) = told(["+benchmark=humaneval"])
    assert "+benchmark@evaluation.benchmarks.humaneval=humaneval" in found


def test_open_value_does_not_hide_other_faults() -> None:
    keys = [fault.key for fault in preview(["dataset=local", "training.epochs=x"])[0]]
    assert sorted(keys) == ["dataset.path", "training.epochs"]


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("training.epochs=1,2", []),
        ("training.epochs=1,x", ["'x'"]),
        ("training.epochs=0,1,x", ["0", "'x'"]),
        ("training.epochs=range(-1,2)", ["-1", "0"]),
        ("training.epochs=choice(1,x)", ["'x'"]),
        ("training=demo,stf,nne", ["'stf'", "'nne'"]),
    ],
)
def test_every_value_of_a_sweep_is_checked(argument: str, found: list[str]) -> None:
    key = argument.partition("=")[0]
    assert [fault.partition(":")[0] for fault in told([argument])] == [f"{key}={value}" for value in found]


def test_sweep_is_checked_together_with_other_overrides() -> None:
    found, configs = preview(["training=demo,sft", "seed=1,2", "training.epochs=7"])
    assert not found
    assert [(c.training.name, c.seed) for c in configs] == [("demo", 1), ("sft", 1)]  # one seed stands for all
    assert re.match("seed='x': with seed=x", *told(["seed=1,x"]))
    assert {c.training.epochs for c in configs} == {7}


def test_key_that_one_value_of_a_sweep_takes_away_is_blamed() -> None:
    (found,) = told(["training=sft,none", "training.epochs=2"])
    assert found == "training.epochs='2': with training=none there is no such key; accepted: name, thought"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teachers", "lacking"),
    [
        ("gpt4o,server", {}),
        ("template,server", {"template": "name"}),
        ("server,template", {"template": "name"}),
        ("template,backbone,gpt4o", {"template": "name", "backbone": "max_tokens, chunk"}),
    ],
)
def test_key_of_some_options_of_a_sweep_is_refused_with_each_that_lacks_it(
    teachers: str, lacking: dict[str, str]
) -> None:
    found, configs = preview([f"teacher={teachers}", "teacher.writer.model_name=X"])
    key = "teacher.writer.model_name='X'"
    assert [str(fault) for fault in found] == [
        f"{key}: with teacher={teacher} there is no such key; accepted: {accepted}"
        for teacher, accepted in lacking.items()
    ]
    with_writer = [config for config in configs if "model_name" in config.teacher.get("writer", {})]
    assert {config.teacher.writer.model_name for config in with_writer} == {"X"}


@pytest.mark.slow
def test_key_of_options_that_an_experiment_sweeps_is_known() -> None:
    swap = ["experiment=teacher_swap", "evaluation=none"]
    assert told([*swap, "teacher.repairs=2"]) == []
    (found,) = told([*swap, "teacher.writer.temperature=1.0"])
    assert re.match(r"teacher\.writer\.temperature='1\.0': with teacher=backbone there is no such key", found)
    (found,) = told([*swap, "teacher.repais=2"])
    assert found == "teacher.repais='2': there is no such key; accepted: name"


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """A user's config folder with one sound option and some with mistakes."""
    texts = {
        "training/mine.yaml": "defaults: [sft]\nname: mine\nepochs: 3\n",
        "training/misspelt.yaml": "defaults: [sft]\nepocs: 3\n",
        "training/mistyped.yaml": "defaults: [sft]\nepochs: three\n",
        "training/bare.yaml": "name: bare\nepochs: 3\n",
        "rewrite/nested.yaml": "defaults: [alttrain]\noriginal: {short: {openin: Yes.}}\n",
        "experiment/top.yaml": "# @package _global_\nsead: 3\n",
        "experiment/torn.yaml": "# @package _global_\nhydra: {sweeper: {params: {seed: 1, method: 'a b: {'}}}\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_typo_beside_a_method_that_trains_nothing_is_one_fault() -> None:
    (fault,) = told(["method=no_train,demo_alttrain", "training.epohcs=1"])
    assert re.match("training.epohcs='1': there is no such key; accepted: .*epochs", fault)


def test_a_sweep_in_a_users_experiment_that_hydra_cannot_read_is_a_fault_beside_the_others(config_dir: Path) -> None:
    faults_told = told([f"hydra.searchpath=[file://{config_dir}]", "experiment=torn", "bogus=1"])
    assert sorted(fault.partition("=")[0].partition(":")[0] for fault in faults_told) == ["bogus", "method"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("training=mine", None),
        (
            "training=misspelt",
            rf"training\.epocs=3: there is no such key; accepted: {RECIPE}; did you mean 'epochs'\?",
        ),
        ("training=mistyped", r"training\.epochs='three': .*integer"),
        ("training=bare", r"training.*_target_.*"),
        (
            "rewrite=nested",
            r"rewrite\.original\.short\.openin='Yes\.': there is no such key; accepted: .*; did you mean 'opening'\?",
        ),
    ],
)
def test_yaml_file_of_a_user_is_checked(config_dir: Path, option: str, message: str | None) -> None:
    found = [str(fault) for fault in faults(composed([option, f"hydra.searchpath=[file://{config_dir}]"]))]
    if message is None:
        assert found == []
    else:
        assert len(found) == 1
        assert re.fullmatch(message, found[0]), found[0]


def test_unknown_top_level_key_in_yaml_does_not_compose(config_dir: Path) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException), match="sead"):
        composed(["experiment=top", f"hydra.searchpath=[file://{config_dir}]"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("trainin: {epochs: 1}", "Key 'trainin' not in 'RunSchema'"),
        ("defaults: [{override /backbone: nope}]", "Could not find 'backbone/nope'"),
        ("a: [", r"mine\.yaml\", line 3"),
        (f"tag: {'[' * 3000}", "RecursionError"),
        ("hydra: {job: {env_copy: [NO_SUCH]}}", "NO_SUCH"),
    ],
)
def test_an_own_option_that_does_not_compose_is_told_with_its_fault(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    (found,) = told([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert re.match(rf"experiment='mine': it does not compose .*{fault}", found)


def test_an_intervention_is_named_once(tmp_path: Path) -> None:
    """Hydra alone would make one of two options that have the same name, or of one that is given twice."""
    (tmp_path / "intervention").mkdir()
    (tmp_path / "intervention" / "mine.yaml").write_text(
        "prefill_refusal: {_target_: alttrain.evaluation.interventions.Begin, answer: Well}\n"
    )
    own = f"hydra.searchpath=[file://{tmp_path}]"
    expected = "intervention=['prefill', 'mine']: has prefill_refusal twice; name each intervention once"
    assert told([own, "intervention=[prefill,mine]"]) == [expected]
    (found,) = told(["intervention=[many_shot,many_shot],prefill"])
    assert found.startswith("intervention=['many_shot', 'many_shot']: has many_shot twice")
    assert not told([own, "intervention=[thinking,mine]"])


def test_searchpath_is_known_to_the_check_of_the_command_line(config_dir: Path) -> None:
    found, (config, *_) = preview([f"hydra.searchpath=[file://{config_dir}]", "training=mine"])
    assert [str(fault) for fault in found] == []
    assert (config.training.name, config.training.epochs, config.training.batch_size) == ("mine", 3, 8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("benchmark=mybenc", r"benchmark='mybenc': .*; there are: .*, multijail, mybench, nq_open, "),
        ("+benchmark@evaluation.benchmarks.x=mybenc", r".*, mybench, .*; did you mean 'mybench'\?"),
        ("training=mime", r"training='mime': accepted: alttrain, bare, demo, .*; did you mean 'mine'\?"),
    ],
)
def test_an_unknown_option_names_those_of_the_user(config_dir: Path, given: str, said: str) -> None:
    (config_dir / "benchmark").mkdir()
    (config_dir / "benchmark" / "mybench.yaml").write_text("name: mybench\n")
    (found,), _ = preview([f"hydra.searchpath=[file://{config_dir}]", given])
    assert re.match(said, str(found)), found


def test_an_option_of_a_user_with_the_name_of_a_packaged_one_is_refused(config_dir: Path) -> None:
    assert _flags([f"--config-dir={config_dir}", "training=mine"]).overrides == ["training=mine"]
    (config_dir / "rewrite" / "original").mkdir()
    (config_dir / "rewrite" / "original" / "auto.yaml").write_text("defaults: [short]\n")
    folder = f"hydra.searchpath=['file://{config_dir}']"
    for given in (f"--config-dir={config_dir}", folder, f"+{folder}", f"++{folder}"):
        with pytest.raises(ValueError, match=r"/original/auto\.yaml: alttrain has an option of this name .* another"):
            _flags(expand_arguments([given, "training=mine"]))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("null", "expected a list of folders, such as"),
        ("5", "expected a list of folders, such as"),
        ("[5]", "expected a list of folders, such as"),
        ("file:///tmp", "expected a list of folders, such as"),
        ("[/tmp],[/var]", "expected a list of folders, such as"),
        ("['/tmp", "expected a list of folders, such as"),
        ("[/tmp,file:///no/such]", "hydra.searchpath=file:///no/such: no such folder"),
        ("[pkg://antigravity]", "hydra.searchpath=pkg://antigravity: no such folder; a package, which Hydra would im"),
    ],
)
def test_a_search_path_is_a_list_of_folders(value: str, said: str) -> None:
    for sign in ("", "+", "++"):
        with pytest.raises(ValueError, match=re.escape(said)):
            _flags(expand_arguments([f"{sign}hydra.searchpath={value}"]))


def test_a_search_path_is_given_once(config_dir: Path) -> None:
    """Hydra would compose another config than the checked one."""
    given = [f"hydra.searchpath=[file://{config_dir}]", "hydra.searchpath=[/tmp]"]
    with pytest.raises(ValueError, match=r"searchpath=\[/tmp\]: give one list of all folders"):
        _flags(given)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("+benchmark@evaluation.benchmark.xstest_safe=xstest_safe", "evaluation.benchmark"),
        ("+evaluation.limit=5", "evaluation.limit"),
    ],
)
def test_evaluation_has_benchmarks_and_no_other_key(given: str, key: str) -> None:
    assert told([given]) == [f"{key}: there is no such key; accepted: benchmarks"]


@pytest.mark.parametrize(
    ("given", "faults_told"),
    [
        ("tag=1.10", ["1.10"]),
        ("tag=1.1,1.10", ["1.10"]),
        ("tag=1e3", ["1e3"]),
        ("tag=1_0,2", ["1_0"]),
        *((given, []) for given in ("tag=1.1", 'tag="1.10"', "tag='1.10'", "tag=v1.10", "tag=true", "tag=7", "tag=")),
    ],
)
def test_a_tag_that_hydra_spells_anew_as_a_number_is_a_fault(given: str, faults_told: list[str]) -> None:
    said = "tag={!r}: it would be read as the number {}; quote it: 'tag=\"{}\"'"
    assert told([given]) == [said.format(tag, float(tag) if "_" not in tag else int(tag), tag) for tag in faults_told]


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        ("output_dir=~/study", "output_dir={home}/study"),
        ("++output_dir='~/my study'", "++output_dir='{home}/my study'"),
        ("output_dir=~", "output_dir={home}"),
        ("output_dir=a/~/b", "output_dir=a/~/b"),
        ("output_dir=~else/study", "output_dir=~else/study"),
    ],
)
def test_the_home_folder_in_output_dir_is_expanded(given: str, expanded: str) -> None:
    assert expand_arguments([given]) == [expanded.format(home=Path.home())]


def test_fault_prints_key_value_and_remedy() -> None:
    assert str(Fault("a.b", 3, "accepted: 1, 2")) == "a.b=3: accepted: 1, 2"
    assert str(Fault("a.b", "x", "accepted: y")) == "a.b='x': accepted: y"
    assert str(Fault("a.b", None, "missing")) == "a.b: missing"


def test_stages_keep_their_order() -> None:
    assert STAGES == ("check", "rewrite", "train", "generate", "judge", "report")
    assert tuple(composed([]).stages) == STAGES


def test_flatten() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": None}
    assert flatten(nested, "x.") == {"x.a.b.c": 1, "x.a.d": [1, {"e": 2}], "x.f": None}
    assert flatten({}) == {}


def test_where_a_guards_judges_are_served_shapes_nothing() -> None:
    """Also of those that a majority holds."""

    def shaped(url: str) -> dict[str, Any]:
        judges = {"one": {"model": "m", "base_url": url}, "two": {"writer": {"base_url": url, "model_name": "n"}}}
        return shaping(dict.fromkeys(SHAPING) | {"rewrite": {"guard": {"judges": judges}, "base_url_of": url}})

    here, there = shaped("http://here/v1"), shaped("http://there/v1")
    assert {key for key in here if here[key] != there[key]} == {"rewrite.base_url_of"}
    assert here["rewrite.guard.judges.two.writer.model_name"] == "n"


def test_differences() -> None:
    old = {"b": 1, "a": "x", "gone": 0, "same": [1]}
    new = {"b": 2, "a": "y", "came": None, "same": [1]}
    assert differences(old, new) == [
        "a: 'x' -> 'y'",
        "b: 1 -> 2",
        "came: '(absent)' -> None",
        "gone: 0 -> '(absent)'",
    ]
    assert differences(old, dict(reversed(old.items()))) == []


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "smollm2_135m-embedded-alttrain-sft-s0"),
        (["seed=7", "tag=try"], "smollm2_135m-embedded-alttrain-sft-s7-try"),
        (["experiment=demo", "method=no_train", "seed=1"], "smollm2_135m-no_train-s1"),
        (["method=demo_alttrain", "tag=try"], "smollm2_135m-demo_alttrain-s0-try"),
        (["method=demo_alttrain", "backbone.source=/a/folder", "dataset.sources.embedded.file=train"],
         "smollm2_135m-demo_alttrain-s0"),
        (["dataset=local", "dataset.path=f", "dataset.name=d", "rewrite=direct_refusal", "training=demo"],
         "smollm2_135m-d-direct_refusal-demo-s0"),
    ],
)  # fmt: skip
def test_run_name(overrides: list[str], name: str) -> None:
    assert run_name(composed(overrides)) == name


def asked(*arguments: str, folder: Path) -> tuple[int, str, str, list[str]]:
    """Exit code, output, error output and the heavy modules loaded, of the app run in a process of its own."""
    code = (
        "import sys\nfrom alttrain.__main__ import main\ncode = 0\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code or 0\n"
        "print('\\n' + '|'.join(m for m in ('torch', 'transformers', 'peft') if m in sys.modules))\nsys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=60)
    output, _, heavy = done.stdout.removesuffix("\n").rpartition("\n")
    return done.returncode, output.rstrip("\n"), done.stderr, heavy.split("|") if heavy else []


@pytest.mark.slow
def test_help_and_config_are_shown_without_torch(tmp_path: Path) -> None:
    code, output, errors, heavy = asked("--help", folder=tmp_path)
    assert (code, errors, heavy) == (0, "", [])
    assert re.search(r"trainer +auto cpu gpu_80gb\n", output)
    code, output, errors, heavy = asked("--help", "trainer", "method", folder=tmp_path)
    assert (code, errors, heavy) == (0, "", [])
    assert re.match(r".*/trainer:\n  auto      A GPU if there is one", output)
    assert re.search(r"^  no_train +The backbone without training\.$", output, re.MULTILINE)
    groups = [
        line.split()[0] for line in asked("--help", folder=tmp_path)[1].splitlines() if re.match("  [a-z/]+ {2}", line)
    ]
    _, output, *_ = asked("--help", *groups, folder=tmp_path)
    assert [line for line in output.splitlines() if re.fullmatch(r"  \S+ *", line)] == []  # each says what it is for
    code, output, errors, heavy = asked("--cfg", "job", "training.epochs=3", folder=tmp_path)
    assert (code, errors, heavy) == (0, "", [])
    shown = yaml.safe_load(output)
    assert (shown["training"]["epochs"], shown["stages"]) == (3, list(STAGES))
    assert list(tmp_path.iterdir()) == []
    code = "import sys, alttrain.__main__ as main\nsys.argv = ['alttrain', '--help']\nmain.main()\n"
    command = [sys.executable, "-c", f"{code}print('hydra' in sys.modules)"]
    told = subprocess.run(command, capture_output=True, check=False).stdout
    assert told.endswith(b"\nFalse\n")  # which takes most of a second
    code = "import sys, atexit, alttrain.__main__ as main\n"
    code += "atexit.register(lambda: print('alttrain.run.execution' in sys.modules, file=sys.stderr))\nmain.main()"
    for line in (["seed=a"], ["--cfg", "job"]):  # neither needs a stage
        command = [sys.executable, "-c", code, *line]
        assert subprocess.run(command, capture_output=True, check=False).stderr.endswith(b"False\n")
    done = subprocess.run(f"{sys.executable} -m alttrain --help | true", shell=True, capture_output=True, check=True)
    assert done.stderr == b""


def test_few_configs_are_composed_for_the_faults_of_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a fifth of a second."""
    composed_of: list[list[str]] = []
    compose = of_overrides.compose

    def counted(**named: Any) -> DictConfig:
        composed_of.append(named["overrides"])
        return compose(**named)

    monkeypatch.setattr(of_overrides, "compose", counted)
    typos = ["trainig=x", "training.epocs=1", "backbone=r1_qwen_9b", "sead=1"]
    assert len(told(typos)) == len(typos)
    assert len(composed_of) == len(typos) + 2  # all together, each alone, and what is left of them


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_sweeps_config_is_its_first_jobs_and_how_the_others_differ(tmp_path: Path, flags: list[str]) -> None:
    sweep = [*flags, "experiment=demo", *(["seed=5,6"] if flags else []), "protocol.decoding.max_new_tokens=7"]
    code, output, errors, heavy = asked(*sweep, "--cfg", "job", folder=tmp_path)
    assert (code, errors, heavy) == (0, "", [])
    shown = yaml.safe_load(output)  # the jobs are comments
    config, own = composed(["experiment=demo", "method=no_train"]), {"seed": 5} if flags else {}
    assert shown["rewrite"] == OmegaConf.to_container(config.rewrite)
    assert shown["seed"] == own.get("seed", 0)
    more = ["experiment=demo", "protocol.decoding.max_new_tokens=7"]
    seeds = ["seed=5", "seed=6"] if flags else [""]
    jobs = [{f"method={method}", *more, seed} - {""} for method in ("no_train", "demo_alttrain") for seed in seeds]
    told = [line for line in output.splitlines() if line.startswith("#")]
    assert told[0] == f"# The first of {len(jobs)} jobs. All of them:"
    assert [set(line.removeprefix("#").split()) for line in told[1:]] == jobs
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_typos_exit_with_2_and_one_message(tmp_path: Path) -> None:
    arguments = ("-m", "training.epocs=3", "method=demo_alttrain,no_trian", "adapter.rank=0", "stages=[chek]")
    code, output, errors, heavy = asked(*arguments, folder=tmp_path)
    assert (code, output, heavy) == (2, "", [])
    assert "Traceback" not in errors
    head, *lines = errors.splitlines()
    assert head == "alttrain cannot run this:"
    assert sorted(line.split(":")[0].strip() for line in lines) == [
        "adapter.rank=0",
        "method='no_trian'",
        "stages='chek'",
        "training.epocs='3'",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("question", [["--cfg", "job"], ["--help"]], ids=" ".join)
def test_question_with_a_typo_has_no_traceback(tmp_path: Path, question: list[str]) -> None:
    code, _, errors, _ = asked(*question, "training.epocs=3", folder=tmp_path)
    assert code != 0
    assert "epocs" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_config_that_is_asked_for_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    """One that only lacks values is shown: that is how one sees which."""
    code, output, errors, _ = asked("--cfg", "job", "run=x", "method=altrain", "training.epocs=3", folder=tmp_path)
    assert (code, output) == (2, "")
    head, *lines = errors.splitlines()
    assert head == "alttrain cannot run this:"
    assert [line.split(":")[0].strip() for line in lines] == ["run='x'", "method='altrain'", "training.epocs='3'"]
    assert "did you mean 'alttrain'?" in lines[1]
    code, output, errors, _ = asked("--cfg", "job", "teacher=server", folder=tmp_path)
    assert (code, errors) == (0, "")
    assert yaml.safe_load(output)["teacher"]["writer"]["model_name"] == "???"


def test_open_keys_need_no_plus_and_quick_is_a_limit_with_a_tag() -> None:
    open_keys = ["dataset.columns.prompt=Q", "dataset.sources.a.where.b=1", "protocol.settings.maths.samples=2"]
    open_keys += ["dataset.dates.day=[2025-01-01,null]", "evaluation.benchmarks.b.rows.forms.prompt=x"]
    open_keys += ["generation.extra={a: 1}", "teacher.writer.extra.a.b=1"]
    open_keys += ["generation.options.a=1", "training.batch_size_of.mine=8", "dataset.where={a: 1}"]
    others = ["dataset.size=3", "+dataset.columns.x=y", "protocol.judges.accuracy.name=z", "seed=1"]
    assert expand_arguments([*open_keys, *others]) == [*(f"++{key}" for key in open_keys), *others]
    assert expand_arguments(["quick=true", "--cfg", "job"]) == ["limit=20", "tag=quick", "--cfg", "job"]
    assert expand_arguments(["limit=5", "+quick=True"]) == ["limit=5", "tag=quick"]
    assert expand_arguments(["quick=false"]) == []


def test_what_only_looks_like_an_interpolation_stays_as_it_is(tmp_path: Path) -> None:
    """When the saved config is read again, and where a method is compared with its published form."""
    run = assemble(composed(["method=safety_prompt", r"rewrite.system='Say \${seed}, \\\${} and \${oc.select:seed}'"]))
    assert run.structure.system == r"Say ${seed}, \${} and ${oc.select:seed}"
    write_config(replace(run, folder=tmp_path))
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"), resolve=True) == run.config
    assert changes(composed(["method=alttrain", r"backbone.identity='I am \${seed}'"])).treatment == {}


LISTED = "[{_target_: alttrain.evaluation.RefusalJudge, name: helpfulness}]"


@pytest.mark.parametrize("how", ["+judge@KEY.0=helpfulness", f"+KEY={LISTED}"], ids=["a key", "a list"])
def test_a_second_opinion_is_added_by_a_key_or_as_a_list(how: str) -> None:
    """As conf/judge/helpfulness.yaml says: the option is mounted under a key. Either way it is a mapping afterwards."""
    key = "protocol.second_opinions.over_refusal_rate"
    run = assemble(composed([how.replace("KEY", key)]))
    (benchmark,) = (one for one in run.benchmarks if one.name == "embedded_benign")
    found = {where: (judge.name, judge.says) for where, judge in judges_of(run, benchmark).items()}
    assert found == {
        "protocol.judges.over_refusal_rate": ("refusal", "refused"),
        f"{key}.0": ("helpfulness", "refused"),
    }
    assert list(run.config["protocol"]["second_opinions"]["over_refusal_rate"]) == ["0"]
    assert set(_provenance(run, benchmark)["judges"]) == {"refusal", "helpfulness"}


def test_a_second_opinion_that_is_no_judge_is_named() -> None:
    key = "protocol.second_opinions"
    wrong = {
        "{harmful_rate: 3}": "harmful_rate=3: expected a list of judges, or judges by keys",
        "{accuracy: [x]}": r"accuracy=\['x'\]: expected a list of judges, or judges by keys",
        "{harmful: []}": "harmful: there is no such measure; accepted: harmful_rate, over_refusal_rate, accuracy",
    }
    for given, told in wrong.items():
        with pytest.raises(RunError, match=rf"^{key}\.{told}"):
            assemble(composed([f"++{key}={given}"]))
    assert assemble(composed([f"++{key}={{harmful_rate: null}}"])).protocol.second_opinions == {"harmful_rate": {}}
