"""What a run's config may hold, and its check before anything loads.

- `schema`   the closed root: a top-level key that is not a field there is refused when the config composes
- `faults`   every `_target_` bound against its signature, every value against its annotation, all faults collected
- `targets`  which classes a config may name, and whether they have the type of their place; `programs` and `launching`
  say what it may start, and what it may tell Hydra
- `names`    what a name must be that becomes a path
- `overrides` command-line overrides tried one by one, so that all typing errors are told at once
- `identity` the fingerprint of everything that shapes a run's result
- `method`   a whole treatment under one name, the run's name, and what a run changes of its method

No torch here, and nothing of the other rooms: targets are imported by the name the config gives.
"""

from alttrain.config.binding import Fault, faults, instantiate
from alttrain.config.errors import RunError
from alttrain.config.identity import differences, flatten, shaping
from alttrain.config.method import Changes, Method, changes, run_name
from alttrain.config.overrides import preview
from alttrain.config.schema import STAGES, register

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
    "preview",
    "register",
    "run_name",
    "shaping",
]
