"""The one error a user's mistake ends in: a message that names the key or file, the value and the remedy."""

from hydra.errors import CompactHydraException

from alttrain.config.secrets import masked


class RunError(CompactHydraException):
    """A run cannot go on, and the message says why and what to do; what looks like a key is masked in it.

    Hydra prints it without a stack trace.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))
