"""What `alttrain --help` prints: how to ask, and what can be chosen. Lists the config folder; composes nothing."""

from importlib import resources
from textwrap import fill

from alttrain.config import STAGES

HEAD = """alttrain: experiments on the reasoning structure and safety of large reasoning models, from config to table

  alttrain experiment=demo                        No-train against AltTrain on a laptop's CPU, without a hub or a key
  alttrain method=alttrain backbone=r1_qwen_7b    one run: check, rewrite, train, generate, judge, report
  alttrain -m method=no_train,alttrain seed=0,1   a sweep; again, it runs only what is missing
  alttrain 'stages=[report]'                      the tables of all runs in output_dir

GROUP=OPTION chooses a part, KEY=VALUE sets anything in it, -m sweeps over comma-separated values.

  --cfg job            the config that a command would run, and with it every key
  --info defaults      where each part of it is from
  --config-dir FOLDER  your own options, beside those below
  trusted=[PACKAGE]    what a config may build besides alttrain's own classes
  --hydra-help         all flags
"""


def help_text() -> str:
    """The help, with the options of every config group."""
    root = resources.files("alttrain.conf")
    options: dict[str, list[str]] = {}

    def walk(folder: object, group: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):  # type: ignore[attr-defined]
            if entry.is_dir() and entry.name != "__pycache__":
                walk(entry, f"{group}/{entry.name}" if group else entry.name)
            elif group and entry.name.endswith(".yaml"):
                options.setdefault(group, []).append(entry.name.removesuffix(".yaml"))

    walk(root, "")
    width = max(map(len, options)) + 2
    lines = [
        fill(f"  {group:<{width}}{' '.join(options[group])}", 118, subsequent_indent=" " * (width + 2))
        for group in sorted(options)
    ]
    keys = f"stages ({', '.join(STAGES)}), seed, tag, output_dir, data_dir"
    return "\n".join([HEAD, f"keys outside the groups: {keys}", "", *lines])
