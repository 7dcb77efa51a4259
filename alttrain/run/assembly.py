"""A composed config -> the typed parts of a run. Light: no part loads weights or imports torch when it is made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from alttrain.backbone import Backbone, LoRA, NoAdapter
from alttrain.config import RunError, faults, flatten, instantiate, run_name
from alttrain.config.identity import SHAPING
from alttrain.dataset import ExampleSource
from alttrain.evaluation import Benchmark
from alttrain.generation import InProcess
from alttrain.rewrite import Structure
from alttrain.training import Hardware, NoTraining, SupervisedFineTuning
from alttrain.training.trackers import Tracker


@dataclass(frozen=True)
class Run:
    """Everything a stage needs. `config` is plain and resolved; `folder` may not exist yet."""

    name: str
    folder: Path
    seed: int
    stages: tuple[str, ...]
    config: dict[str, Any]
    backbone: Backbone
    dataset: ExampleSource
    structure: Structure
    adapter: LoRA | NoAdapter
    training: SupervisedFineTuning | NoTraining
    hardware: Hardware
    generation: InProcess
    benchmarks: tuple[Benchmark, ...]
    tracker: Tracker

    @property
    def output_dir(self) -> Path:
        """The folder of all runs and of the report."""
        return self.folder.parent.parent

    def fingerprint(self) -> dict[str, Any]:
        """All that shapes the trained adapter, as flat keys: the config's shaping parts and the data's content."""
        shaping = flatten({key: self.config[key] for key in SHAPING})
        content = {f"dataset content.{file}": digest for file, digest in self.dataset.content().items()}
        return {**shaping, **content}

    def evaluation_fingerprint(self, benchmark: Benchmark) -> dict[str, Any]:
        """All that shapes a benchmark's generations, beyond the adapter."""
        prompts = self.config["evaluation"]["benchmarks"][benchmark.name]["rows"]
        shaping = flatten({"generation": self.config["generation"], f"benchmark.{benchmark.name}.rows": prompts})
        content = {f"benchmark content.{file}": digest for file, digest in benchmark.rows.content().items()}
        places = {key for key in shaping if key.endswith(".path")}
        return {key: value for key, value in (shaping | content).items() if key not in places}


def assemble(config: DictConfig) -> Run:
    """Check a composed config and build its parts. Raises RunError with all faults."""
    if found := faults(config):
        raise RunError("\n".join(["this config cannot run:", *(f"  {fault}" for fault in found)]))
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    part = _builder(config)
    benchmarks = {name: part(f"evaluation.benchmarks.{name}") for name in config.evaluation.benchmarks}
    for name, benchmark in benchmarks.items():
        if benchmark.name != name:
            raise RunError(f"evaluation.benchmarks.{name}.name={benchmark.name!r}: must be the key it is mounted at")
    name = run_name(config)
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise RunError(f"the run's name {name!r} would not be a plain folder name; check tag and the groups' names")
    run = Run(
        name=name,
        folder=Path(config.output_dir) / "runs" / name,
        seed=config.seed,
        stages=tuple(config.stages),
        config={str(key): value for key, value in plain.items()},
        backbone=part("backbone"),
        dataset=part("dataset"),
        structure=part("rewrite"),
        adapter=part("adapter"),
        training=part("training"),
        hardware=part("trainer"),
        generation=part("generation"),
        benchmarks=tuple(benchmarks.values()),
        tracker=part("logger"),
    )
    if isinstance(run.training, SupervisedFineTuning) and isinstance(run.adapter, NoAdapter):
        raise RunError("adapter=none with training that trains: choose adapter=lora, or training=none")
    return run


def _builder(config: DictConfig) -> Callable[[str], Any]:
    def build(key: str) -> Any:
        try:
            return instantiate(OmegaConf.select(config, key))
        except InstantiationException as error:
            raise RunError(f"{key}: {_cause(error)}") from error

    return build


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(str(cause).split())
