"""The config of a run and its validation before anything loads.

- `overrides` composes a command line, and tries its overrides one by one to name every fault
- `schema`    the top-level keys: an unknown one is refused when the config composes
- `binding`   checks each `_target_` against its signature and its place, and each value against its annotation
- `trust`     what a config may build and start: alttrain's classes and what `trusted=[...]` names
- `secrets`   API keys and environment variables, which no config may hold
- `identity`  the fingerprint of everything that shapes a result, the method, and the run's name

This package imports neither torch nor other rooms. It imports targets by the names that the config gives.
"""

from alttrain.config.binding import faults, instantiate
from alttrain.config.identity import Changes, Method, changes, differences, digest_of, flatten, run_name, shaping
from alttrain.config.overrides import expand_arguments, preview
from alttrain.config.schema import STAGES, Fault, RunError, name_fault, register
