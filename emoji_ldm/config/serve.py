"""Configuration of the service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.section import Positive, Section


class ServeConfig(Section):
    """The HTTP service over the sampler."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 8000
    """Port; 0 takes a free one."""
    checkpoint: str = ""
    """As `generate.checkpoint`."""
    batch_size: Positive = 8
    """Images per forward pass."""
    batch_wait_s: Annotated[float, Field(ge=0)] = 0.02
    """Longest wait for a batch to fill."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas kept when idle."""
    max_replicas: Positive = 2
    """Replicas under load."""
    max_queued_requests: Positive = 200
    """Waiting requests before new ones are answered 503."""
    max_images: Positive = 10
    """Images per request at most."""
    max_steps: Positive = 200
    """Denoising steps per request at most."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per replica."""
