"""Configuration of the Ray cluster."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.base import Positive, Section


class RayConfig(Section):
    """Which Ray cluster runs the jobs."""

    address: str | None = None
    """Ray address such as `auto`; null uses RAY_ADDRESS or starts a local Ray."""
    num_cpus: Positive = 8
    """Logical CPUs of a Ray started here."""
    object_store_mb: Positive = 512
    """Object store of a Ray started here, in MB."""
    place_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Wait for resources before the job says which one is missing."""
    dashboard: bool | None = None
    """Start Ray's dashboard with a Ray started here; null does in an interactive terminal, where it is installed."""
