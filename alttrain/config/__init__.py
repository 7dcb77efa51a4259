"""What a run's config may hold, and its check before anything loads.

- `schema`    the closed root: a top-level key that is no field there is refused when the config composes
- `binding`   every `_target_` held against its signature, every value against its annotation; all faults collected
- `targets`   which classes a config may name, what it may start, and whether a class has the type of its place
- `secrets`   keys and environment variables, which no config may hold
- `overrides` command-line overrides tried one by one, and what a config may say to Hydra itself
- `identity`  the fingerprint of everything that shapes a result, the method, and the run's name

No torch here, and nothing of the other rooms: targets are imported by the name the config gives.
"""

from alttrain.config.binding import Fault, faults, instantiate
from alttrain.config.identity import Changes, Method, changes, differences, flatten, run_name, shaping
from alttrain.config.overrides import preview
from alttrain.config.schema import STAGES, RunError, name_fault, register

__all__ = [
    "STAGES",
    "Changes",
    "Fault",
    "Method",
    "RunError",
    "changes",
    "differences",
    "faults",
    "flatten",
    "instantiate",
    "name_fault",
    "preview",
    "register",
    "run_name",
    "shaping",
]
