"""The console script `alttrain`, also `python -m alttrain`: sets three environment variables and starts the app."""

import os

SETTINGS = {
    # How long an OpenMP thread spins before it sleeps. GNU's default is 30 times this: 3 % faster on an idle machine,
    # but several times slower if another process uses a core (docs/performance.md).
    "GOMP_SPINCOUNT": "10000",
    # Number of matrix shapes for which oneDNN and torch cache compiled code. With the defaults of 1,024 the caches grow
    # by hundreds of megabytes over thousands of prompts, because each batch of prompts has another length.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
"""Defaults of environment variables.

The libraries read them when torch loads, which the app does after this module, so no restart is needed.
"""


def main() -> None:
    """Run the app. Keeps the variables that the user has set."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from alttrain.run import app

    app.main()


if __name__ == "__main__":
    main()
