"""Whether the model hub answers, and what to do where it refuses.

Its own clients retry for minutes, so each process asks once, and briefly.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TIMEOUT_S = 3.0
GATED = "gated on the hub: accept its licence there and log in with `hf auth login`"


def check_reachable() -> None:
    """Raise ConnectionError if the hub is disabled or does not answer."""
    from huggingface_hub import constants

    if reason := "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else why_unreachable(constants.ENDPOINT):
        raise ConnectionError(reason)


@functools.cache
def why_unreachable(endpoint: str) -> str:
    """Return why the hub does not answer, or ""."""
    import http.client  # here: start-up takes less time without these
    import urllib.error
    import urllib.request

    try:
        with suppress(urllib.error.HTTPError):  # an error status is an answer
            urllib.request.urlopen(endpoint, timeout=TIMEOUT_S).close()
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: HF_ENDPOINT is no address
        return short_error(error)
    return ""


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Let the library `datasets` read only its cache while the hub does not answer, without trying it five times."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not any(before) and why_unreachable(constants.ENDPOINT):
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def short_error(error: Exception) -> str:
    """Return an error's type and the start of its first line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}" if str(error).strip() else repr(error)
