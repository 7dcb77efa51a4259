"""The one error a user's mistake ends in: a message that names the key or file, the value and the remedy."""

from hydra.errors import CompactHydraException


class RunError(CompactHydraException):
    """A run cannot go on, and the message says why and what to do. Hydra prints it without a stack trace."""
