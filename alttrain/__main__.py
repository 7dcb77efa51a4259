"""The console script `alttrain`, also `python -m alttrain`: sets three environment variables and starts the app."""

import os

SETTINGS = {
    # How long an OpenMP thread spins before it sleeps. GNU's default is 30 times this: 3 % faster on an idle machine,
    # and several times slower as soon as another process wants a core (docs/performance.md).
    "GOMP_SPINCOUNT": "10000",
    # Product shapes for which oneDNN and torch's calls of it keep compiled code. The defaults of 1,024 grow by hundreds
    # of megabytes over thousands of prompts, because every batch of prompts has another length.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
"""The libraries read these when torch loads, which the app does after this module, so no restart is needed."""


def main() -> None:
    """Run the app. Variables that the user has set are kept."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from alttrain.run import app

    app.main()


if __name__ == "__main__":
    main()
