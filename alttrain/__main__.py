"""The console script `alttrain`, also `python -m alttrain`. It answers `--help` itself, before the app is imported.

`alttrain --help` says how a command line is written, and the options of each config group. `alttrain --help GROUP` says
what each option of a group is for, by the comment that begins its file.
"""

import re
import signal
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from textwrap import fill, shorten

WIDTH = 118
USAGE = """alttrain: experiments on the reasoning structure and safety of large reasoning models, from config to table

  alttrain experiment=demo                        No-train against AltTrain on a laptop's CPU, without a hub or a key
  alttrain method=alttrain backbone=r1_qwen_7b    one run: check, rewrite, train, generate, judge, report
  alttrain -m method=no_train,alttrain seed=0,1   a sweep; again, it runs only what is missing
  alttrain 'stages=[report]'                      the tables of all runs in output_dir

GROUP=OPTION chooses a part, KEY=VALUE sets anything in it, -m sweeps over comma-separated values.

  quick=true           a first look: limit=20 tag=quick, twenty prompts of each benchmark
  --help GROUP         what each option of a group is for: alttrain --help method
  --cfg job            the config that a command would run, and with it every key
  --info defaults      where each part of it is from
  --config-dir FOLDER  your own options, beside those below
  trusted=[PACKAGE]    what a config may build besides alttrain's own classes
  --hydra-help         all flags
"""


def help_text(arguments: Sequence[str]) -> str:
    """Return what `--help` and `--help GROUP ...` show; "" for another command line."""
    if arguments[:1] not in (["--help"], ["-h"]):
        return ""
    root = Path(str(resources.files("alttrain.conf")))
    options: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/**/*.yaml")):
        options.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    groups = arguments[1:]
    if any(group not in options for group in groups):
        return ""  # Hydra says what is wrong
    if groups:
        return "\n\n".join(_group_help(root / group, options[group]) for group in groups)
    width = max(map(len, options)) + 2
    lines = [
        fill(
            f"  {group:<{width}}{' '.join(path.stem for path in options[group])}",
            WIDTH,
            subsequent_indent=" " * (width + 2),
        )
        for group in sorted(options)
    ]
    primary = (root / "run.yaml").read_text(encoding="utf-8")  # whose list of stages has all
    (stages,) = re.findall(r"^stages: \[(.*)\]", primary, re.MULTILINE)
    keys = [key for key in re.findall(r"^(\w+):", primary, re.MULTILINE) if key not in ("defaults", "stages", "hydra")]
    outside = ", ".join([f"stages ({stages})", *(key for key in keys if key not in options)])
    return "\n".join([USAGE, f"keys outside the groups: {outside}", "", *lines])


def _group_help(folder: Path, options: Sequence[Path]) -> str:
    """Return a group's folder, and each option with the beginning of its file's first comment."""
    width, lines = max(len(path.stem) for path in options) + 2, [f"{folder}:"]
    for path in options:
        comment = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8").removeprefix("# @package _global_\n"))
        text = comment[0].replace("#", "") if comment else ""
        lines.append(f"  {path.stem:<{width}}{shorten(text, WIDTH - width - 2, placeholder=' ...')}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Answer `--help` at once; for everything else load the app."""
    if text := help_text(sys.argv[1:]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may close the pipe
        print(text)
        return
    from alttrain.run.app import main as run

    run()


if __name__ == "__main__":
    main()
