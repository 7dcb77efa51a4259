"""What a config, which may come from a stranger, may build and start.

A `_target_` names a class of alttrain, or a class of a package that the command line trusts, `trusted=[mypackage]`. A
name is checked before its module is imported.

A config may start the servers of the packaged options, exactly as written there. Other commands and vLLM options that
import code need `trusted`. The address of another server that gets an API key must be on the command line, or the key's
variable in `trusted`. Only the command line may set an MLflow server's address or let model-written code run outside
the sandbox. Hydra builds what its own node names, so that node is checked too.
"""

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from hydra._internal.utils import _locate
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alttrain.config.schema import Fault, name_fault
from alttrain.config.secrets import leaves

TRUSTED = "ALTTRAIN_TRUSTED"  # environment variable that passes `trusted` on to child processes
GUARDED_ARGUMENTS = ("base_url", "uri", "allow_unsandboxed")
"""Arguments through which keys, texts or model-written code can get out. A value given for one of these on the command
line is trusted wherever it stands in the config."""
REFUSED = (
    "a config builds classes of alttrain, and of packages that the command line trusts; if you know what it runs: "
    "trusted=[{package}]"
)
QUOTES = " '\"/"  # stripped from a command-line value; an address is the same with and without its last slash
SERVER_KEYS = {"https://api.openai.com/v1": "OPENAI_API_KEY", "https://api.together.xyz/v1": "TOGETHER_API_KEY"}
"""The servers of the packaged options, and the environment variable with each server's API key."""
PLUGINS: Mapping[str, type[Plugin]] = {"launcher._target_": Launcher, "sweeper._target_": Sweeper}
LOGGING = ("job_logging", "hydra_logging")
GUARDED_KEYS = re.compile(
    r"(overrides|job\.env_set|launcher\.(setup|teardown|python|srun_args|additional_parameters|address))(\..*)?",
    re.DOTALL,
)
"""Hydra keys that run commands, change the environment, or send jobs to other machines. From `overrides` Hydra composes
each job of a sweep anew."""
OUTPUT_KEYS: Mapping[str, Sequence[str | None]] = {
    "output_subdir": [None],
    "run.dir": ["."],
    "sweep.dir": ["${output_dir}/.sweep"],
    "sweep.subdir": ["."],
    "launcher.submitit_folder": ["${output_dir}/.sweep/submitit/%j", "${hydra.sweep.dir}/.submitit/%j"],
}
"""Where Hydra writes its own files, as in conf/. Other places are refused: files there could be overwritten, and
submitit unpickles what is in its folder."""
NO_FOLDER = re.compile(r"[\x00-\x20]*[a-z][a-z0-9+.-]*:|(databricks(-uc)?|uc)$", re.IGNORECASE)
"""What MLflow takes for a server. Like Python's urlsplit, it leaves out blanks and control characters in front.
Tabs and line breaks, which it leaves out anywhere, are gone before."""
INTERPOLATION = re.compile(r"\$\{(\w[\w.]*)\}")


def take_trusted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `trusted=[NAME,...]`, and trust those packages in this process and its children.

    Raises ValueError if a name is not the name of a package.
    """
    names, trusted_values, other_arguments = [], [], []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "trusted":
            names += [name.strip() for name in value.strip("[]").split(",")]
            continue
        other_arguments.append(argument)
        if (last := key.rpartition(".")[2]) in GUARDED_ARGUMENTS:
            trusted_values += [f"{last}={part.strip(QUOTES)}" for part in value.split(",")]
    for name in names:
        if not re.fullmatch(r"[\w./-]+", name):
            raise ValueError(f"trusted={name!r}: accepted: names of packages, such as trusted=[mypackage]")
    if names or trusted_values:
        os.environ[TRUSTED] = ",".join([*(names or trusted_names()), *trusted_values])
    return other_arguments


def trusted_names() -> tuple[str, ...]:
    """Return the packages and programs that the user trusts."""
    return tuple(filter(None, os.environ.get(TRUSTED, "").split(",")))


def given_on_command_line(key: str, value: object) -> bool:
    """Return whether the command line gives `value` to an argument named `key`."""
    return f"{key}={str(value).strip(QUOTES)}" in trusted_names()


def locate(path: object) -> Callable[..., Any]:
    """Import the class or function that a dotted path names.

    Raises ValueError if it is not such a path, PermissionError if a config may not name it, and ImportError if it does
    not exist.
    """
    if not isinstance(path, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", path):
        raise ValueError("expected a dotted path to a class or function")
    is_ours = path.startswith("alttrain.") and "._" not in path
    homes = tuple(f"{home}." for home in (("alttrain",) if is_ours else trusted_names()) if path.startswith(f"{home}."))
    if not homes:
        raise PermissionError(REFUSED.format(package=path.partition(".")[0]))
    target = _locate(path)
    if not (inspect.isclass(target) or inspect.isroutine(target)):
        raise ValueError(f"{path} is not a class or function")
    home = str(getattr(target, "__module__", None))  # a module's names include what it imports
    if not f"{home}.".startswith(homes):
        raise PermissionError(f"it is of {home}; " + REFUSED.format(package=home.partition(".")[0]))
    return target


def program_faults(node: dict[str, Any], key: str, target: Callable[..., Any]) -> Iterator[Fault]:
    """Yield a fault for what a node starts or loads that is not packaged or trusted."""
    name = f"{target.__module__}.{target.__qualname__}"
    url, variable, uri = (node.get(part) for part in ("base_url", "key_variable", "uri"))
    is_trusted = variable in trusted_names() or given_on_command_line("base_url", url)
    if variable and url and not is_trusted and SERVER_KEYS.get(str(url)) != variable:
        remedy = f"if you know that server, give its base_url on the command line, or trusted=[{variable}]"
        yield Fault(f"{key}.key_variable", variable, f"the key would be sent to {url}: {remedy}")
    if node.get("allow_unsandboxed") and not given_on_command_line("allow_unsandboxed", "true"):
        yield Fault(f"{key}.allow_unsandboxed", True, "this is for the command line, and not for a file; give it there")
    if (
        name == "alttrain.training.Mlflow"
        and NO_FOLDER.match(re.sub(r"[\t\r\n]", "", str(uri)))
        and not given_on_command_line("uri", uri)
    ):
        remedy = "if you know that server, give it on the command line"
        yield Fault(f"{key}.uri", uri, f"MLflow would send its key and texts there: {remedy}")
    if name == "alttrain.generation.server.ChildServer":
        command = node.get("command") or [""]
        packaged = [option for option in _options("alttrain.conf", "generation").values() if "command" in option]
        if command[0] not in trusted_names() and not any(_starts_same(node, option) for option in packaged):
            fault = "it and with_adapter are not as packaged, and would run as they are written"
            remedy = f"if you know what it runs, trusted=[{command[0]}] on the command line"
            yield Fault(f"{key}.command", command, f"{fault}: {remedy}")
    elif name == "alttrain.generation.engine.InProcessVllm" and "vllm" not in trusted_names():
        for option, value in (node.get("options") or {}).items():
            is_plain = isinstance(value, int | float) or (isinstance(value, str) and value.replace("_", "").isalnum())
            if not is_plain or "trust" in str(option):
                remedy = "if you know what it runs, trusted=[vllm] on the command line"
                yield Fault(f"{key}.options.{option}", value, f"vLLM may load code by it: {remedy}")


@functools.cache
def _options(package: str, *group: str) -> dict[str, Any]:
    """Return the packaged options of a config group, by name."""
    files = [file for file in resources.files(package).joinpath(*group).iterdir() if file.name.endswith(".yaml")]
    return {file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def _starts_same(node: dict[str, Any], option: dict[str, Any]) -> bool:
    """Return whether a node starts what a packaged option starts.

    Words that the option interpolates are skipped: they are checked where they come from.
    """
    command, expected = node.get("command") or [], option["command"]
    pairs = zip(command, expected, strict=False)
    same_words = all(word == packaged or packaged.startswith("${") for word, packaged in pairs)
    same_adapter = (node.get("with_adapter") or []) in ([], option["with_adapter"])
    return len(command) == len(expected) and same_words and same_adapter


def hydra_faults(config: DictConfig, overrides: Sequence[str], arguments: Iterable[str]) -> Iterator[Fault]:
    """Yield each fault in the `hydra` node of a config that `overrides` compose. Nothing of the node is resolved.

    Hydra builds its launcher, sweeper, callbacks and logging from this node, so they can run code. `arguments` is the
    command line, which may set what a file may not.
    """
    plain: Any = OmegaConf.to_container(config.hydra, resolve=False)
    given_keys = {argument.split("=", 1)[0].lstrip("+~") for argument in arguments}
    for name in LOGGING:
        options = _options("hydra.conf", "hydra", name)
        if plain.pop(name) not in options.values():
            accepted = f"hydra/{name}={', '.join(sorted(options))}"
            yield Fault(f"hydra.{name}", None, f"a log's handlers are code that runs; accepted: {accepted}")
    for key, value in leaves(plain):
        full_key = f"hydra.{key}"
        from_file = re.sub(r"(\.\d+)+$", "", full_key) not in given_keys
        # a job's name is part of the path of Hydra's log
        is_guarded = name_fault(value) if key == "job.name" else GUARDED_KEYS.fullmatch(key) and value is not None
        values = _interpolated(config, str(value))
        if key == "job.override_dirname" or (key.startswith("overrides.") and value in overrides):
            continue  # Hydra puts the overrides there
        if values is None:
            if key not in OUTPUT_KEYS or from_file or key.startswith("launcher."):
                yield Fault(full_key, value, "accepted here: plain values, and ${key} of one")
        elif key.startswith("launcher.") and not all(str(text).isprintable() for text in (key, value, *values)):
            fault = "a line break or another control character; after a line break, Slurm would run a command"
            yield Fault(full_key, value, f"{fault}; leave it out")
        elif key.rpartition(".")[2] == "_target_" and not _is_known_target(key, str(value)):
            remedy = f"if you know what it runs: trusted=[{str(value).partition('.')[0]}] on the command line"
            yield Fault(full_key, value, f"Hydra would build it; {remedy}")
        elif from_file and (is_guarded or value not in OUTPUT_KEYS.get(key, [value])):
            remedy = "give it there, or leave it out"
            yield Fault(full_key, value, f"this is for the command line, and not for a file; {remedy}")


def _interpolated(config: DictConfig, text: str) -> list[Any] | None:
    """Return the values of the keys that a text interpolates; None if one is a node, which could have a target, or the
    text has other interpolations."""
    try:
        values = [OmegaConf.select(config, key) for key in INTERPOLATION.findall(text)]
    except OmegaConfBaseException:
        return None
    is_plain = "${" not in INTERPOLATION.sub("", text) and not any(map(OmegaConf.is_config, values))
    return values if is_plain else None


def _is_known_target(key: str, target: str) -> bool:
    if plugin_type := PLUGINS.get(key):
        plugins = Plugins.instance().discover(plugin_type)
        return target in (f"{plugin.__module__}.{plugin.__name__}" for plugin in plugins)
    is_trusted = target.startswith(tuple(f"{package}." for package in trusted_names()))
    return is_trusted and re.fullmatch(r"callbacks\.[^.]+\._target_", key) is not None
