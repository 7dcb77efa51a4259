"""Turn a composed config into the typed parts of a run. No part loads weights or imports torch when it is created."""

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alttrain.backbone import Backbone
from alttrain.backbone.config import Trainable
from alttrain.backbone.source import Weights, local_folder
from alttrain.config import Changes, Method, RunError, changes, faults, flatten, instantiate, name_fault, run_name
from alttrain.config.identity import shaping, shaping_of_engine, shaping_of_judge
from alttrain.config.trust import locate
from alttrain.dataset import Dataset, Selection
from alttrain.evaluation import Benchmark, Intervention, Protocol, protocol_hash
from alttrain.evaluation.judges.judge import sees_goal
from alttrain.evaluation.protocol import SAYS
from alttrain.generation import EngineConfig
from alttrain.records import Example, Texts, checksum
from alttrain.rewrite import Structure
from alttrain.training import Hardware, Logger, NoTraining, SupervisedFineTuning

PLACES = ("path", "file", "data_dir", "count")
"""Arguments of a row source that fingerprints leave out, since they contain the hash of its content."""

OF_SAMPLING = tuple(f"protocol.decoding.{key}" for key in ("top_p", "top_k", "seed"))
"""Keys that greedy decoding does not use."""


class NoThoughtError(RunError):
    """The run does not think, and none of its interventions applies to it."""


@dataclass(frozen=True)
class Run:
    """Everything that a stage needs."""

    name: str
    folder: Path  # it may not exist yet
    seed: int
    stages: tuple[str, ...]
    config: dict[str, Any]  # plain and resolved
    method: Method
    changed: Changes  # from the published method, protocol and benchmarks
    backbone: Backbone
    dataset: Dataset
    structure: Structure
    adapter: Trainable
    training: SupervisedFineTuning | NoTraining
    hardware: Hardware
    generation: EngineConfig
    protocol: Protocol
    benchmarks: tuple[Benchmark, ...]
    intervened_benchmarks: tuple[Benchmark, ...]  # the benchmarks under each intervention that applies to them
    loggers: Mapping[str, Logger]
    texts: Texts  # which samples' prompt, thought and answer go to the loggers

    @property
    def output_dir(self) -> Path:
        """The folder of all runs and of the report."""
        return self.folder.parent.parent

    @property
    def all_benchmarks(self) -> tuple[Benchmark, ...]:
        """All benchmarks, those without an intervention first, since the others read their generations."""
        return self.benchmarks + self.intervened_benchmarks

    @property
    def trained_folder(self) -> Path:
        return self.folder / self.adapter.folder

    @property
    def needs_training(self) -> bool:
        """Whether a training is still to be done."""
        return self.training.trains and not (self.folder / "train.json").exists()

    @property
    def is_rewritten(self) -> bool:
        return all((self.folder / name).exists() for name in ("train.jsonl", "rewrite.json"))

    @property
    def selection(self) -> Selection:
        """The rows to train on before the rewrite, none of them in a benchmark, and a report on all that were read.

        A benchmark that is added once the rewrite is done changes nothing.
        """
        benchmarks = () if self.is_rewritten else self.benchmarks
        return self.dataset.select(self.seed, {benchmark.name: benchmark.prompts() for benchmark in benchmarks})

    @property
    def data(self) -> str:
        """What decides which rows are read, apart from the seed."""
        return json.dumps([self.training.trains, *(self.config[key] for key in ("dataset", "evaluation", "data_dir"))])

    @property
    def rows(self) -> list[Example]:
        """The rows to train on before the rewrite; none if nothing is trained."""
        return self.selection.examples if self.training.trains else []

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that shapes the trained adapter, as flat keys: the config's shaping parts and hashes of the data.

        If nothing is trained, data and adapter are left out.
        """
        shapes = shaping(self.config)
        if not self.training.trains:
            return {key: value for key, value in shapes.items() if not key.startswith(("dataset.", "adapter."))}
        shapes |= {f"dataset content.{file}": digest for file, digest in self.dataset.content().items()}
        return shapes | local_weights({"rewrite": self.config["rewrite"]})

    def evaluation_fingerprint(self, benchmark: Benchmark) -> dict[str, Any]:
        """Return what shapes a benchmark's generations, except the adapter and what an intervention reads."""
        engine = shaping_of_engine(self.config["generation"], self.generation.batched)
        return engine | self._flat_settings(benchmark)

    def protocol_hash(
        self, benchmark: Benchmark, judge: Any = None, part: str = "", texts: Mapping[str, str] | None = None
    ) -> str:
        """Return the hash of everything that shapes a benchmark's number, except the model.

        Numbers with different hashes never share a column of a table. The number is that of the deciding judge and
        part, or of another `judge`, given as the part of its config that shapes verdicts, and `part`. `texts` has the
        hash of another run's texts that an intervention was made from (`folder.source_texts`).
        """
        judge = judge or judge_settings(self.config["evaluation"]["benchmarks"][benchmark.base_name]["judge"])
        settings = self._flat_settings(benchmark) | flatten(
            {"judged": {"part": part or self.protocol.parts_of(benchmark)[0], "judge": judge}}
        )
        told = settings["protocol.system_prompt"]
        if told and told == self.backbone.identity:
            settings["protocol.system_prompt"] = "the backbone's identity"
        if self.protocol.decoding_for(benchmark).temperature == 0:
            settings = {key: value for key, value in settings.items() if key not in OF_SAMPLING}
        return protocol_hash(settings | dict(texts or {}))

    def _flat_settings(self, benchmark: Benchmark) -> dict[str, Any]:
        """Return what the model is asked and how, as flat keys without file paths, with hashes of the data."""
        decoding = self.config["protocol"]["decoding"] | asdict(self.protocol.decoding_for(benchmark))
        protocol = {
            "decoding": {key: value for key, value in decoding.items() if value is not None},
            "system_prompt": self.protocol.system_prompt_for(benchmark),
        }
        if self.protocol.quantization is not None:
            protocol["quantization"] = self.protocol.quantization
        rows = self.config["evaluation"]["benchmarks"][benchmark.base_name]["rows"]
        rows = {key: value for key, value in rows.items() if key not in PLACES}
        form_and_rows = {"form": benchmark.form, "rows": rows}
        settings = flatten({"protocol": protocol, f"benchmark.{benchmark.base_name}": form_and_rows})
        if benchmark.intervention is not None:
            name = benchmark.intervention_name
            settings |= flatten({f"intervention.{name}": shaping_of_judge(self.config["intervention"][name])})
        return settings | {f"benchmark content.{file}": digest for file, digest in benchmark.content.items()}


def judge_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat keys of a judge's config that shape its verdicts.

    Added are which weights a local folder has, and the SHA-256 of the file of a class that is not alttrain's.
    """
    flat = flatten(shaping_of_judge(node))
    targets = {key: value for key, value in flat.items() if key.rpartition(".")[2] == "_target_"}
    own = {key: locate(target) for key, target in targets.items() if not target.startswith("alttrain.")}
    code = {f"{key} code": checksum(Path(str(sys.modules[part.__module__].__file__))) for key, part in own.items()}
    return flat | code | local_weights(node)


def local_weights(node: Mapping[str, Any]) -> dict[str, str]:
    """Return "KEY weights" -> identity for each key `model` of a plain config that names a folder which is there."""
    flat = flatten(node)
    models = {key: value for key, value in flat.items() if key.rpartition(".")[2] == "model" and isinstance(value, str)}
    return {
        f"{key} weights": Weights(folder, "local").identity
        for key, model in models.items()
        if (folder := local_folder(model)) and folder.is_dir()
    }


def assemble(config: DictConfig) -> Run:
    """Check a composed config and build its parts. Raises RunError with all faults."""
    if problems := faults(config):
        raise RunError("\n".join(["this config cannot run:", *(f"  {fault}" for fault in problems)]))
    _refuse_unknown_identity(config)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    if "second_opinions" in plain["protocol"]:
        plain["protocol"]["second_opinions"] = _second_opinions(plain["protocol"]["second_opinions"] or {})

    def part(key: str) -> Any:
        node = functools.reduce(lambda node, name: node[name], key.split("."), plain)
        try:
            return instantiate(node)
        except Exception as error:  # a user's class may raise anything
            raise RunError(f"{key}: {' '.join(str(error).split())}") from error

    benchmarks = {name: part(f"evaluation.benchmarks.{name}") for name in config.evaluation.benchmarks}
    for name, benchmark in benchmarks.items():
        if benchmark.name != name:
            raise RunError(f"evaluation.benchmarks.{name}.name={benchmark.name!r}: must be the key it is mounted at")
    interventions = {name: part(f"intervention.{name}") for name in config.intervention}
    name = run_name(config)
    if fault := name_fault(name):
        raise RunError(f"the run's name {name!r}: {fault}; shorten tag, or the names of its parts")
    engine, hardware = part("generation"), part("trainer")
    if choice := engine.choice(hardware.accelerator):
        engine, plain["generation"] = getattr(engine, choice), plain["generation"][choice]
    run = Run(
        name=name,
        folder=Path(config.output_dir) / "runs" / name,
        seed=config.seed,
        stages=tuple(config.stages),
        config={str(key): value for key, value in plain.items()},
        method=part("method"),
        changed=changes(config),
        backbone=part("backbone"),
        dataset=part("dataset"),
        structure=part("rewrite"),
        adapter=part("adapter"),
        training=part("training"),
        hardware=hardware,
        generation=engine,
        protocol=part("protocol"),
        benchmarks=tuple(benchmarks.values()),
        intervened_benchmarks=(),
        loggers={name: part(f"logger.{name}") for name in plain["logger"] if name != "texts"},
        texts=plain["logger"].get("texts", "none"),
    )
    if run.method.system_prompt is not None:
        run = replace(run, backbone=replace(run.backbone, system_prompt=run.method.system_prompt))
    run = replace(run, intervened_benchmarks=_intervened(run, interventions))
    _refuse_combinations(run)
    return run


def _refuse_unknown_identity(config: DictConfig) -> None:
    """Raise RunError if method or protocol tell the backbone who it is, and the config does not say that."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    asked = config.evaluation.benchmarks and config.method.evaluation_prompt is None
    told = flatten({part: raw[part] for part in ("method", *(["protocol"] if asked else []))})
    readers = [key for key, value in told.items() if "${backbone.identity}" in str(value)]
    if readers and config.backbone.get("identity") is None:
        raise RunError(
            f"backbone.identity: needed by {' and '.join(readers)}; give 'backbone.identity=\"You are NAME, created by "
            "MAKER. You are a helpful assistant.\"', or backbone.identity='' for no system prompt"
        )


def _second_opinions(by_measure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the second opinions with each measure's judges by keys: those of a list get their numbers as keys."""
    opinions = {}
    for measure, judges in by_measure.items():
        if measure not in SAYS:
            raise RunError(f"protocol.second_opinions.{measure}: there is no such measure; accepted: {', '.join(SAYS)}")
        by_key = dict(enumerate(judges)) if isinstance(judges, list) else judges or {}
        if not isinstance(by_key, dict) or not all(isinstance(judge, dict) for judge in by_key.values()):
            raise RunError(
                f"protocol.second_opinions.{measure}={judges!r}: expected a list of judges, or judges by keys"
            )
        opinions[measure] = {str(key): judge for key, judge in by_key.items()}
    return opinions


def _intervened(run: Run, interventions: Mapping[str, Intervention]) -> tuple[Benchmark, ...]:
    """Return the benchmarks under each intervention, without those on thoughts if the run does not think.

    Raises RunError if none of them applies to any benchmark.
    """
    thinks = run.training.thought == "open"
    intervened = tuple(
        benchmark.with_intervention(name, intervention)
        for benchmark in run.benchmarks
        for name, intervention in interventions.items()
        if benchmark.kind in intervention.kinds and (thinks or not intervention.thinks)
    )
    if interventions and run.benchmarks and not intervened:
        reason = "its benchmarks are of other kinds" if thinks else "it does not think, and they are on thoughts"
        fault = f"intervention: {','.join(interventions)}: none applies to {run.name}, because {reason}"
        raise (RunError if thinks else NoThoughtError)(f"{fault}; set intervention=none")
    return intervened


def _refuse_combinations(run: Run) -> None:
    """Raise RunError if two parts are incompatible."""
    if run.texts != "none" and not any("samples" in logger.holds for logger in run.loggers.values()):
        names = ",".join(run.loggers)
        raise RunError(
            f"logger.texts={run.texts}: logger=[{names}] holds no samples; add wandb, trackio or mlflow, or set none"
        )
    if run.method.name and run.backbone.published != (run.method.name == "published"):
        kind = "holds" if run.backbone.published else "does not hold"
        raise RunError(
            f"method={run.method.name} with backbone={run.backbone.name}, which {kind} weights that a method's authors "
            "trained: method=published goes with those, and with no others"
        )
    intervened = [(each, each.intervention) for each in run.intervened_benchmarks if each.intervention]
    giving = {  # `no_think_tag` too is for a backbone that thinks, but leaves the thought to it
        benchmark.intervention_name: None
        for benchmark, intervention in intervened
        if run.protocol.parts_of(benchmark)[0] != "answer" and intervention.thinks and intervention.mode != "absent"
    }
    if giving:
        raise RunError(
            f"protocol.judged={run.protocol.judged}: the judge would read what these interventions write into a "
            f"thought or leave of it: {','.join(giving)}; accepted: protocol.judged=answer"
        )
    for benchmark, intervention in intervened:
        if (intervention.converse or not intervention.chat) and run.structure.turns_before(""):
            raise RunError(
                f"{benchmark.name}: not for rewrite={run.structure.name}, which puts a turn before each prompt"
            )
        if intervention.source and (fault := name_fault(intervention.source)):
            raise RunError(f"intervention.{benchmark.intervention_name}.source={intervention.source!r}: {fault}")
        if intervention.converse and not sees_goal(benchmark.judge):
            raise RunError(
                f"{benchmark.name}: the judge {benchmark.judge.name} does not see an attack's goal, and a last message "
                "may be harmless by itself; choose a judge of harm that does: "
                "judge@protocol.judges.harmful_rate=harm_score and protocol.judges.harmful_rate.against=goal_if_any"
            )
    if not run.training.trains:
        return
    if not run.adapter.trains:
        raise RunError("adapter=none with training that trains: choose adapter=lora, or training=none")
    if run.training.objective.needs_key_sentence and run.backbone.attention == "flash_attention_2":
        raise RunError(
            "backbone.attention=flash_attention_2 with training/objective=safekey: it finds where sequences begin by "
            "their positions, and a key sentence's do not begin at 0; set backbone.attention=packed"
        )
    unsharded = {
        "training.optimizer=adamw_8bit": run.training.optimizer == "adamw_8bit",
        f"backbone.quantization={run.backbone.quantization}": run.backbone.quantization != "none",
    }
    for setting, is_set in unsharded.items():
        if run.hardware.sharded and is_set:
            raise RunError(f"{setting} does not train shards: choose another, or trainer.strategy=ddp")
    if not run.adapter.freezes and run.backbone.quantization != "none":
        raise RunError(
            f"adapter=full with backbone.quantization={run.backbone.quantization}: quantised weights cannot be "
            "trained; set backbone.quantization=none, or choose adapter=lora"
        )
