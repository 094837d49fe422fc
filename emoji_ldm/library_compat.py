"""Shared checks of the compat modules, which alone may use private parts of a library.

Each library whose private parts are used has one module `*_compat.py` beside its users. Such parts change without
notice, so the module names the versions it was tested with and refuses others when it is loaded. A wrong guess would
otherwise show as wrong weights, long after it was made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def require_version(package: str, known: tuple[str, ...]) -> None:
    """Refuse a library whose private parts were never tested.

    Args:
        package: Name of the distribution.
        known: Release series, such as `("0.19",)`; any patch release of them will do.

    Raises:
        ImportError: Another version is installed, or none.
    """
    series = " or ".join(f"{one}.x" for one in known)
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ImportError(f"{package} is not installed; install {package} {series}") from None
    if not any(f"{found}.".startswith(f"{one}.") for one in known):
        raise ImportError(
            f"{package} {found} is installed, but emoji_ldm uses private parts of {package} that are tested with "
            f"{series} only; install one of these versions"
        )


@contextmanager
def hide_package(name: str) -> Iterator[None]:
    """Within the block, a package that is not loaded yet counts as not installed.

    Some libraries import an optional package merely because it is there, which costs seconds.
    """
    modules: dict[str, Any] = sys.modules
    if name in modules:
        yield
        return
    modules[name] = None
    try:
        yield
    finally:
        modules.pop(name, None)
