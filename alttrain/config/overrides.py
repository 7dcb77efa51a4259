"""Compose a command line to configs, and find all its faults at once: Hydra stops at the first that it cannot apply."""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from alttrain.config.binding import faults
from alttrain.config.schema import Fault, RunError, did_you_mean, trains
from alttrain.config.trust import hydra_faults

CONFIG_MODULE = "alttrain.conf"
PRIMARY = "run"
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, YAMLError, RecursionError, KeyError)
"""What compose may raise: RecursionError for YAML nested too deep, KeyError for a variable that `env_copy` names."""
OPEN_KEYS = re.compile(
    r"((dataset(\.sources\.[\w-]+)?|evaluation\.benchmarks\.[\w-]+\.rows)\."
    r"(columns|constants|where|dates|labels|forms|extract|slices|erase)"
    r"|[\w.-]+\.(extra|options|batch_size_of))(\.[\w.-]+)?=|protocol\.(settings|means)\."
)
"""Keys that no file needs to have. Hydra alone would ask for a plus sign."""
SEED = re.compile(r"seed=\d{1,9}")
QUICK_OVERRIDES = ("limit=20", "tag=quick")  # what quick=true stands for: a first look
SEARCHED = "hydra.searchpath="  # begins the override with the folders of a user's options
ARGUMENTS = ("quick", "trusted")  # what a command line takes beside the keys of a config
TRAINING_GROUPS = ("training", "adapter", "rewrite", "teacher")
"""Groups whose overrides a job without training does not take; see `applicable_overrides`."""


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line as Hydra takes it.

    Open keys have "++" before them, quick=true becomes what it stands for, and ~ in output_dir the home folder.
    hydra.searchpath has no plus sign, behind which Hydra would look in no folder.
    """
    home = re.compile(r"(\+*output_dir=['\"]?)~(?=$|[/'\"])")  # which a shell leaves there after "="
    arguments = [home.sub(lambda found: f"{found[1]}{Path.home()}", argument) for argument in arguments]
    given_keys, spelt = {_key(argument) for argument in arguments}, list[str]()
    for argument in arguments:
        if argument.lstrip("+").startswith(SEARCHED):
            spelt.append(argument.lstrip("+"))
        elif quick := re.fullmatch(r"\+{0,2}quick=(true|false)", argument, re.IGNORECASE):
            implied = QUICK_OVERRIDES if quick[1].lower() == "true" else ()
            spelt += [override for override in implied if _key(override) not in given_keys]
        else:
            spelt.append(f"++{argument}" if OPEN_KEYS.match(argument) else argument)
    return spelt


def search_path(addresses: Sequence[str]) -> list[str]:
    """Return the override with which Hydra finds configs at addresses such as file:///my/options; [] for none."""
    return [f"{SEARCHED}{json.dumps(addresses, ensure_ascii=False)}"] if addresses else []


def searched_folders(override: str) -> list[str]:
    """Return the addresses in the override that begins with `SEARCHED`. Raises ValueError unless each is of a folder.

    Hydra would import a package as it looks for options there.
    """
    try:
        addresses = OverridesParser.create().parse_override(override).value()
    except HydraException:
        addresses = None
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise ValueError(f"{override}: expected a list of folders, such as hydra.searchpath=[file:///my/options]")
    for address in addresses:
        if not Path(address.removeprefix("file://")).is_dir():
            package = "; a package, which Hydra would import, is not taken" if address.startswith("pkg:") else ""
            raise ValueError(f"hydra.searchpath={address}: no such folder{package}")
    return addresses


def preview(arguments: list[str]) -> tuple[list[Fault], list[DictConfig]]:
    """Return the faults of command-line overrides and of the configs they compose, and those configs.

    Each value of a sweep is tried alone, of several seeds the first. The configs are not the sweep's jobs, but cover
    every value of every other key. If only some options of a swept group have a key, each that lacks it is a fault.
    """
    with initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
        problems: list[Fault] = []
        ordered = sorted(arguments, key=_order)
        values = {argument: _values(argument, problems) for argument in ordered}
        problems += [fault for argument in ordered if _key(argument) == "tag" for fault in _tag_faults(argument)]
        before = [argument for argument in ordered if not _order(argument)]
        lists = [value for argument in ordered if _key(argument) == "intervention" for value in values[argument]]
        problems += [fault for value in lists for fault in _intervention_faults(value, before)]
        for overrides in values.values():  # a method that trains comes first, so that keys of its training are known
            if len(overrides) > 1 and _key(overrides[0]) == "method":
                overrides.sort(key=lambda method: bool(_unused((method,))))
        firsts = [overrides[0] for overrides in values.values() if overrides]
        accepted, first, refused = _composable(firsts)
        variants = [accepted]
        swept = [found for found in values.values() if len(found) > 1 and not all(map(SEED.fullmatch, found))]
        if refused:  # perhaps keys of a group that the experiment sweeps
            params = {str(key): value for key, value in (first.hydra.sweeper.params or {}).items()}
            groups = GlobalHydra.instance().config_loader().list_groups("")
            own = [key for key in params if re.split("[/@]", key)[0] in groups and key not in map(_key, arguments)]
            own.sort(key=lambda key: not any(_key(override).startswith(f"{key}.") for override in refused))
            swept += [["", *found] for key in own if (found := _values(f"{key}={params[key]}", problems))]
        for first_value, *others in swept:
            rest = [override for override in accepted if _key(override) != _key(others[0])]
            late = [key for key in refused if any(_takes([*rest, other], key) for other in others)]
            for override in late:
                fault = refused[override]
                refused[override] = replace(fault, accepted=f"with {first_value} {fault.accepted}")
            if first_value or late:
                variants += [applicable_overrides([*rest, *late, other]) for other in others]
            if not first_value:  # it is the option of no job
                refused = {override: fault for override, fault in refused.items() if override not in late}
        problems += refused.values()
        configs = []
        for variant in variants:
            try:
                config = first if variant is accepted else _composed(variant)
            except COMPOSE_ERRORS as error:
                fault = _blamed(variant, error)
                problems.append(replace(fault, accepted=f"with {variant[-1]} {fault.accepted}"))
                continue
            try:
                variant_faults = [*hydra_faults(config, variant, arguments), *faults(without_hydra(config))]
            except COMPOSE_ERRORS as error:  # of an interpolation
                variant_faults = [Fault(getattr(error, "full_key", None) or "config", None, _first_line(error))]
            configs.append(config)
            problems += [fault for fault in variant_faults if fault not in problems]
        return problems, configs


def compose_config(overrides: list[str], arguments: Iterable[str]) -> DictConfig:
    """Compose overrides to a config, with Hydra's own node.

    `arguments` is the command line, which may set Hydra keys that a file may not. Raises RunError if the overrides do
    not compose, and for faults in Hydra's node.
    """
    try:
        config = _composed(overrides)
    except COMPOSE_ERRORS as error:
        raise RunError(str(_blamed(overrides, error))) from error
    if problems := list(hydra_faults(config, overrides, arguments)):
        raise RunError("\n".join(map(str, problems)))
    return config


def overrides_of(arguments: Sequence[str], multirun: bool) -> list[list[str]]:
    """Return the overrides of each job of a sweep; [] for a single run. Needs Hydra initialised."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = parser.parse_overrides(list(arguments))
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    hydra = compose_config([*filter(decides_hydra, fixed)], arguments).hydra
    if not multirun and hydra.mode != RunMode.MULTIRUN:
        return []
    params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*params, *arguments]), None)
    return [list(job) for job in dict.fromkeys(tuple(applicable_overrides(job)) for job in jobs)]


def config_shown(arguments: Sequence[str], multirun: bool, resolve: bool) -> str:
    """Return the output of `--cfg job`: the config of a run, or of a sweep's first job with all jobs as comments."""
    with initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
        batch = overrides_of(arguments, multirun)
        first = batch[0] if batch else list(arguments)
        config = OmegaConf.to_yaml(without_hydra(compose_config(first, arguments)), resolve=resolve)
    jobs = [f"# The first of {len(batch)} jobs. All of them:\n", *(f"#   {' '.join(own)}\n" for own in batch)]
    return config + "".join(jobs if batch else ())


def decides_hydra(override: str) -> bool:
    """Return whether an override may change Hydra's own node: one of its keys, or a choice of a whole part.

    A key inside a part does not, and may be one that only some options of the part have.
    """
    return _key(override).partition("@")[0].isidentifier() or _key(override).startswith("hydra")


def _composed(overrides: list[str]) -> DictConfig:
    return compose(config_name=PRIMARY, overrides=overrides, return_hydra_config=True)


def _takes(overrides: list[str], override: str) -> bool:
    """Return whether overrides compose with one more, and make use of it."""
    applicable = applicable_overrides([*overrides, override])
    try:
        return override in applicable and bool(_composed(applicable))
    except COMPOSE_ERRORS:
        return False


def without_hydra(config: DictConfig) -> DictConfig:
    """Remove Hydra's own node from a config, and return the config."""
    with open_dict(config):
        del config["hydra"]
    return config


def applicable_overrides(overrides: list[str]) -> list[str]:
    """Return a sweep job's overrides without those of a training, if the job's method trains nothing.

    So `method=no_train,alttrain training.epochs=1` changes the training of the method that has one. Needs Hydra
    initialised.
    """
    deciding = tuple(
        o for o in overrides if _key(o) in ("method", "experiment", "rewrite") or _key(o).startswith("hydra")
    )
    if "method" not in map(_key, deciding) or not any(map(is_training_override, overrides)):
        return overrides
    unused = _unused(deciding)
    return [o for o in overrides if _group(o) not in unused or not is_training_override(o)]


def is_training_override(override: str) -> bool:
    """Return whether an override is of a group that only training uses, except for methods that change the prompt.

    `training.thought` also says whether an untrained backbone thinks.
    """
    return _group(override) in TRAINING_GROUPS and _key(override) != "training.thought"


def _group(override: str) -> str:
    group, _, package = _key(override).partition("@")
    return re.split(r"[./]", package or group)[0]


@functools.cache
def _unused(overrides: tuple[str, ...]) -> Sequence[str]:
    """Return the groups of `TRAINING_GROUPS` that a composed config does not use; none if it does not compose."""
    try:
        config = compose(config_name=PRIMARY, overrides=list(overrides))
    except COMPOSE_ERRORS:  # reported elsewhere
        return ()
    if "rewrite" in map(_key, overrides):
        changes_prompt = any(config.rewrite.get(key) for key in ("system", "prompt_form", "before"))
    else:
        changes_prompt = config.rewrite.name != "none"  # the method's own
    return () if trains(config) else [group for group in TRAINING_GROUPS if group != "rewrite" or not changes_prompt]


def _composable(overrides: list[str]) -> tuple[list[str], DictConfig, dict[str, Fault]]:
    """Return the overrides that compose, tried together and then one by one, their config, and the others' faults."""
    try:
        return overrides, _composed(overrides), {}
    except COMPOSE_ERRORS:
        pass
    accepted, config, refused = list[str](), _composed([]), dict[str, Fault]()
    for override in overrides:
        try:
            config = _composed([*accepted, override])
            accepted.append(override)
        except COMPOSE_ERRORS as error:
            refused[override] = _explain(override, error, accepted, config)
    return accepted, config, refused


def _order(argument: str) -> int:
    """Sort key: Hydra's own keys, which may add config folders; then groups, those in a place last; then other keys."""
    key = _key(argument)
    group, _, place = key.partition("@")
    return 0 if key.startswith("hydra.") else 3 if "." in group else 1 + bool(place)


def _values(argument: str, problems: list[Fault]) -> list[str]:
    """Split an argument into overrides with one value each: itself, or one for each value of a simple sweep."""
    try:
        override = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_override(argument)
    except HydraException as error:
        problems.append(Fault(_key(argument), None, _first_line(error)))
        return []
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [argument]


def _tag_faults(argument: str) -> Iterator[Fault]:
    """Yield a fault for each tag that Hydra reads as a number and would spell anew: 1.10 would become the tag 1.1."""
    for text in argument.partition("=")[2].split(","):
        with suppress(HydraException):  # reported elsewhere
            value = OverridesParser.create().parse_override(f"tag={text}").value()
            if not isinstance(value, int | float) or isinstance(value, bool) or str(value) == text:
                continue
            yield Fault("tag", text, f"it would be read as the number {value}; quote it: 'tag=\"{text}\"'")


def _intervention_faults(override: str, before: list[str]) -> Iterator[Fault]:
    """Yield a fault for an intervention that two options of a list have: Hydra would make one of them.

    `before` are the overrides of Hydra's own keys.
    """
    options = OverridesParser.create().parse_override(override).value()
    if isinstance(options, list):
        with suppress(*COMPOSE_ERRORS):  # reported elsewhere
            composed = [_composed([*before, f"intervention={option}"]) for option in options]
            names = Counter(name for config in composed for name in config.intervention)
            if twice := [str(name) for name, count in names.items() if count > 1]:
                yield Fault("intervention", options, f"has {', '.join(twice)} twice; name each intervention once")


def _key(argument: str) -> str:
    return argument.split("=", 1)[0].lstrip("+~")


def _blamed(overrides: list[str], error: Exception) -> Fault:
    """Return the fault of the override that an error of composing them names, or of the last."""
    blamed = next((one for one in overrides if f"'{_key(one)}'" in str(error)), overrides[-1])
    return _explain(blamed, error, [one for one in overrides if one != blamed])


def _explain(argument: str, error: BaseException, accepted: list[str], config: DictConfig | None = None) -> Fault:
    """Turn a composition error of Hydra into a fault that says what is accepted.

    `config` is what the `accepted` overrides compose, if it is at hand.
    """
    key, value = _key(argument), argument.partition("=")[2]
    if key == "quick":
        return Fault(key, value, "accepted: true, false")
    config = _composed(accepted) if config is None else config
    options = _options(key.partition("@")[0], config) if value else []
    if key.partition("@")[0] == "benchmark" and not argument.startswith("+benchmark@"):
        addition = f"+benchmark@evaluation.benchmarks.{value}={value}"
        accepted_here = f"a benchmark is added to an evaluation by {addition}; there are: {', '.join(options)}"
        return Fault(key, value, accepted_here)
    if options and value not in options:
        return Fault(key, value, f"accepted: {', '.join(options)}{did_you_mean(value, options)}")
    if options and argument.startswith("+") and key in config.hydra.runtime.choices:
        return Fault(key, value, "this part is there; leave the plus sign out")
    if options:
        while error.__cause__:
            error = error.__cause__
        return Fault(key, value, f"it does not compose ({type(error).__name__}: {' '.join(str(error).split())})")
    siblings = _known_keys(key, config)
    if siblings is None:
        return Fault(key, value, _first_line(error.__cause__ or error))
    settable = [name for name in siblings if name != "hydra" and not name.startswith("_")]
    hint = did_you_mean(key.rpartition(".")[2], settable)
    if "method" in map(_key, accepted) and _group(argument) in _unused(tuple(accepted)):
        hint = "; the method trains nothing"
    return Fault(key, value, f"there is no such key; accepted: {', '.join(settable)}{hint}")


def _options(group: str, config: DictConfig) -> list[str]:
    """Return the options of a group, with those of --config-dir. `config` has Hydra's own node."""
    names = GlobalHydra.instance().config_loader().get_group_options(group)
    folders = [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]
    return sorted({*names, *(path.stem for folder in folders for path in (folder / group).glob("*.yaml"))})


def _known_keys(key: str, config: DictConfig) -> list[str] | None:
    """Return the sibling keys of `key` in a config, or None if `key` itself exists."""
    node: object = config
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(node, DictConfig) or parent not in node:
            return [str(name) for name in node] if isinstance(node, DictConfig) else None
        node = node[parent]
    if isinstance(node, DictConfig) and last not in node:
        others = [] if parents else [*GlobalHydra.instance().config_loader().list_groups(""), *ARGUMENTS]
        return [*dict.fromkeys([*map(str, node), *others])]
    return None


def _first_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error).strip().split("\n")[0])
