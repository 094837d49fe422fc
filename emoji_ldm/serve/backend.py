"""The interface between the HTTP layer and whatever generates images.

Routes and the bulk runner talk to a `Backend` only. In production it is a router over the Ray Serve replicas
(`ray_jobs.serving`); tests use fakes.

During a rolling update, an ingress of one release talks to replicas of another. Tasks therefore travel as plain
dictionaries of what differs from the defaults (`to_message`): a release that has a new field understands tasks without
it, and one that lacks the field refuses only tasks that use it, which then go to a newer replica. Whatever else is
pickled between processes, the exceptions below and `PartialImage`, keeps its fields.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

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
    registered: str = ""  # a checkpoint of the catalog (`model_catalog`), which replicas of `model` load beside it
    tells_place: bool = False  # whether a stream begins with its `QueuePlace`, and says when that changes


Message = dict[str, Any]


def to_message(task: ImageTask) -> Message:
    """Return a task as a dictionary of the fields that differ from their defaults."""
    return {**_changed(task), "request": _changed(task.request)}


def from_message(message: Mapping[str, Any]) -> ImageTask:
    """Return the task of a message; raises OtherRelease if it has a field that this release does not know."""
    request = message["request"]
    unknown = [*(message.keys() - _names(ImageTask)), *(request.keys() - _names(GenerationRequest))]
    if unknown:
        # Left out, the field would change the image without a word.
        raise OtherRelease(f"this replica is of another release: it does not know {', '.join(sorted(unknown))}")
    return ImageTask(**{**message, "request": GenerationRequest(**request)})


def _changed(values: ImageTask | GenerationRequest) -> Message:
    return {each.name: value for each in fields(values) if (value := getattr(values, each.name)) != each.default}


def _names(kind: type[ImageTask | GenerationRequest]) -> set[str]:
    return {each.name for each in fields(kind)}


@dataclass(frozen=True)
class PartialImage:
    """A preview: the image that the network predicts at an intermediate denoising step."""

    index: int  # number of the preview, from 0
    png: bytes


@dataclass(frozen=True)
class QueuePlace:
    """Where an image is in the queue of its replica."""

    place: int  # 1 is the next one; 0: it is being drawn
    eta_s: float  # predicted time until it is ready


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


class OtherRelease(Exception):
    """The replica's release does not understand the task; a replica of the sender's release does."""


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

    def stream(self, task: ImageTask, num_partials: int, /) -> AsyncIterator[QueuePlace | PartialImage | bytes]:
        """Yield up to `num_partials` previews, then the PNG file. Closing the iterator frees the place in the batch.

        Before and between them come places in the queue, if the task wants them.

        Raises:
            Overloaded, TaskTimeout, ConfigError: As `generate`.
        """
        ...

    async def ready(self) -> bool:
        """Tell whether a request would be served without waiting for a replica to start; answers at once."""
        ...
