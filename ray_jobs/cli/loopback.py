"""Has a local Ray listen on the loopback address alone, with its metrics and the ports of its processes.

By default Ray takes the machine's own address, so that other nodes could join; its metrics are then open to the
network. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is Ray's switch against that: with 0, its processes use the loopback address.
Ray has no other public way: it turns `ray.init(_node_ip_address="127.0.0.1")` back into the machine's address, and its
endpoint of metrics has an option for the port alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `--help` must not wait for pydantic
    from emoji_ldm.config import RayConfig

VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def local_ray_on_loopback(config: RayConfig) -> Iterator[None]:
    """Context in which a command imports Ray; without effect on a cluster that is joined, or if the user decided.

    Ray reads the variable when it is imported, so this has to come before.
    """
    if config.address or os.environ.get("RAY_ADDRESS") or VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
