"""The config of a run and its validation before anything loads.

- `schema`    the closed root: an unknown top-level key is refused when the config composes
- `binding`   checks each `_target_` against its signature and each value against its annotation; collects all faults
- `targets`   the classes a config may name, the programs it may start, and type checks for what it builds
- `secrets`   API keys and environment variables, which no config may hold
- `overrides` tries command-line overrides one by one, and checks Hydra's own settings
- `identity`  the fingerprint of everything that shapes a result, the method, and the run's name

This package imports neither torch nor other rooms. It imports targets by the names that the config gives.
"""

from alttrain.config.binding import Fault, faults, instantiate
from alttrain.config.identity import (
    Changes,
    Method,
    changes,
    differences,
    flatten,
    run_name,
    shaping,
)
from alttrain.config.overrides import preview, spelt_out
from alttrain.config.schema import (
    STAGES,
    RunError,
    name_fault,
    register,
)
