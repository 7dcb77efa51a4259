"""Tests that read a judge's text out of an installed package are left out where it is not installed."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip without these packages."""
    absent = [package for package in packages if not _installed(package)]
    return pytest.mark.skipif(bool(absent), reason=f"no {absent}: install judges.txt as it says")


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
