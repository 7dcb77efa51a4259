"""What a config may start, and where it may send keys: the servers of the packaged options, as they are written there.

Another command, its environment, or what vLLM would import is code of whoever wrote the config: it needs `trusted`. So
does a key for another server, and model-written code outside the sandbox, unless the command line itself says so.
"""

import functools
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import yaml

from alttrain.config.targets import said, trusted

KEYS = {"https://api.openai.com/v1": "OPENAI_API_KEY", "https://api.together.xyz/v1": "TOGETHER_API_KEY"}
"""The servers of the packaged options, and the variable of each one's key."""


def program_faults(node: dict[str, Any], key: str, target: Callable[..., Any]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what is accepted, where a node would start or load what is not packaged and not trusted."""
    name = f"{target.__module__}.{target.__qualname__}"
    url, variable, uri = (node.get(part) for part in ("base_url", "key_variable", "uri"))
    if variable and url and not (KEYS.get(str(url)) == variable or variable in trusted() or said("base_url", url)):
        yield (
            f"{key}.key_variable",
            variable,
            f"the key would be sent to {url}: if you know that server, give its base_url on the command line, or "
            f"trusted=[{variable}]",
        )
    if node.get("allow_unsandboxed") and not said("allow_unsandboxed", "true"):
        yield f"{key}.allow_unsandboxed", True, "this is for the command line, and not for a file; give it there"
    if name == "alttrain.training.config.Mlflow" and "://" in str(uri) and not said("uri", uri):
        yield (
            f"{key}.uri",
            uri,
            "MLflow would send its key and texts there: if you know that server, give it on the command line",
        )
    if name == "alttrain.generation.child.ChildServer":
        if not str(node.get("health", "/")).startswith("/"):
            yield f"{key}.health", node["health"], "expected a path on the server that is started, such as /health"
        command = node.get("command") or [""]
        if command[0] not in trusted() and not any(_same(node, one) for one in _packaged()):
            yield (
                f"{key}.command",
                command,
                "it, with_adapter and environment are not as packaged, and would run as they are written: if you know "
                f"what it runs, trusted=[{command[0]}] on the command line",
            )
    elif name == "alttrain.generation.vllm.InProcessVllm" and "vllm" not in trusted():
        for option, value in (node.get("options") or {}).items():
            plain = isinstance(value, int | float) or (isinstance(value, str) and value.replace("_", "").isalnum())
            if not plain or "trust" in str(option):
                yield (
                    f"{key}.options.{option}",
                    value,
                    "vLLM may load code by it: if you know what it runs, trusted=[vllm] on the command line",
                )


@functools.cache
def _packaged() -> tuple[dict[str, Any], ...]:
    files = (resources.files("alttrain.conf") / "generation").iterdir()
    options = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.name.endswith(".yaml")]
    return tuple(option for option in options if "command" in option)


def _same(node: dict[str, Any], option: dict[str, Any]) -> bool:
    """Whether a node starts what an option does; words that the option interpolates are checked where they are from."""
    command, own = node.get("command") or [], option["command"]
    words = all(word == packaged or packaged.startswith("${") for word, packaged in zip(command, own, strict=False))
    alike = len(command) == len(own) and words
    return alike and all(not node.get(part) or node[part] == option[part] for part in ("with_adapter", "environment"))
