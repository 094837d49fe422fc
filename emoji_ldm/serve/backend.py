"""The interface between the HTTP layer and whatever generates images.

Routes and the bulk runner talk to a `Backend` only. In production it is a router over the Ray Serve replicas
(`ray_jobs.serving`); tests use fakes. The dataclasses and exceptions below are pickled between Ray processes, so they
stay plain, and replicas of two code versions must not be mixed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from emoji_ldm.generate.request import GenerationRequest


@dataclass(frozen=True)
class RequestLimits:
    """What one model accepts, given its weights and the service's configuration."""

    model: str  # name of the model, as requests use it
    model_key: str  # hash of everything that determines the model's pixels
    width_px: int  # image size if the request names none
    height_px: int
    side_step_px: int  # both sides must be multiples of this
    max_side_px: int
    max_images: int  # per request
    max_steps: int
    schedulers: tuple[str, ...]  # the first one is the default
    loras: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageTask:
    """One image that a client waits for. Its seed is fixed, so that a retry gives the same image."""

    model: str
    request: GenerationRequest
    tenant: str = ""  # name of the caller's key; queues are fair between tenants
    bulk: bool = False  # bulk tasks yield to interactive ones
    # A relative time, not a deadline: the clocks of two machines differ.
    timeout_s: float = 600.0  # the task is dropped after this time
    request_id: str = ""


@dataclass(frozen=True)
class PartialImage:
    """A preview: the image that the network predicts at an intermediate denoising step."""

    index: int  # number of the preview, from 0
    png: bytes


class Overloaded(Exception):
    """The queues are full, or the image would not be ready in time."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Overloaded], tuple[float]]:
        # By default an exception is unpickled from its message, which would arrive as `retry_after_s`.
        return Overloaded, (self.retry_after_s,)


class TaskTimeout(Exception):
    """The image was not ready within the task's `timeout_s`."""

    def __str__(self) -> str:
        """Return the text that bulk jobs store as the reason of a failed image."""
        return "not drawn in time"


class ReplicaLost(Exception):
    """Several replicas died in a row while they worked on this task."""


class Backend(Protocol):
    """Generates images. Parameters are positional, so that implementations may name them as they like."""

    # A coroutine although the limits are usually known, since a backend may have to ask a replica that has new weights.
    async def models(self) -> Mapping[str, RequestLimits]:
        """Return the limits by model name, the default model first; waits until a model is loaded."""
        ...

    # One call per image, not per request: each image joins whatever batch has a free place.
    async def generate(self, task: ImageTask, /) -> bytes:
        """Generate one image and return it as a PNG file. Cancelling the call frees its place in the batch.

        Raises:
            Overloaded: The queues are full.
            TaskTimeout: The task's time is over.
            ConfigError: The model cannot serve this request.
        """
        ...

    def stream(self, task: ImageTask, num_partials: int, /) -> AsyncIterator[PartialImage | bytes]:
        """Yield up to `num_partials` previews, then the PNG file. Closing the iterator frees the place in the batch.

        Raises:
            Overloaded, TaskTimeout, ConfigError: As `generate`.
        """
        ...

    async def ready(self) -> bool:
        """Tell whether a request would be served without waiting for a replica to start; answers at once."""
        ...
