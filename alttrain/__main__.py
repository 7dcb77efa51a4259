"""The console script `alttrain`, also `python -m alttrain`."""

import sys

from alttrain.run.help import help_text


def main() -> None:
    """Answer `--help` at once; for everything else load the app."""
    if shown := help_text(sys.argv[1:]):
        print(shown)
        return
    from alttrain.run.app import main as run

    run()


if __name__ == "__main__":
    main()
