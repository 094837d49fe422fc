"""Section `ray`: which Ray cluster runs the jobs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.base import Positive, Section


class RayConfig(Section):
    """Which Ray cluster runs the jobs."""

    address: str | None = None
    """Ray address such as `auto`; null uses RAY_ADDRESS or starts a local Ray."""
    num_cpus: Positive = 8
    """Logical CPUs of a Ray that is started locally."""
    object_store_mb: Positive = 512
    """Object store of a Ray that is started locally, in MB."""
    # Ray itself waits without limit for resources that the cluster does not have.
    place_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds to wait for resources before the job fails and names the missing one."""
    dashboard: bool | None = None
    """Start Ray's dashboard with a Ray started here; null does in an interactive terminal, where it is installed."""
