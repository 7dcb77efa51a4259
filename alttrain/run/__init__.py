"""The Hydra app and its stages: check, rewrite, train, generate, judge, report.

- `app`        the command line; `execution` runs the stages, `sweep` several jobs, and `plan` says what they cost
- `assembly`   `Run`, all that a stage needs; `session` has its models, `folder` and `status` the files of its folder
- `stages`     a module each; `asking` has how a prompt is asked, `opinions` how judges agree with each other and people
- `ask`, `label`, `probe`, `show`, `status`   the other console scripts

Only this package and `config` use DictConfig. Each stage reads files of earlier stages, writes its own, skips finished
work, and imports torch only if a model has work to do.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException

from alttrain.config import RunError

INTERRUPTED = 130
"""The exit code of a console script that Ctrl-C ended."""


@contextmanager
def console_script() -> Iterator[None]:
    """End a console script without a traceback: if it is refused with exit code 2, on Ctrl-C with `INTERRUPTED`."""
    try:
        yield
    except (HydraException, ValueError, OSError) as error:
        print(RunError(str(error)), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        exec("")  # without it, CPython ends by SIGINT if the interrupt came while a string was executed
        sys.exit(INTERRUPTED)
