"""What the HTTP routes and the bulk runner need from whoever draws: Ray Serve pools in production, fakes in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from emoji_ldm.generate.request import GenerationRequest


@dataclass(frozen=True)
class RequestLimits:
    """What a model and the configuration allow."""

    model: str  # the model's name
    model_key: str  # hash of what decides its pixels
    width_px: int  # of a picture where a request does not say
    height_px: int
    side_step_px: int  # sides must be multiples of this
    max_side_px: int
    max_images: int  # per request
    max_steps: int
    schedulers: tuple[str, ...]  # the first is what "" means
    loras: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageTask:
    """One picture that somebody waits for. Its seed is fixed, so drawing it again gives the same picture."""

    model: str
    draw: GenerationRequest
    tenant: str = ""  # who asks; queues are fair between tenants
    bulk: bool = False  # gives way to interactive rows
    timeout_s: float = 600.0  # nobody waits longer
    request_id: str = ""


@dataclass(frozen=True)
class PartialImage:
    """The picture as the network sees it so far."""

    index: int  # from 0
    png: bytes


class Overloaded(Exception):
    """More waits to be drawn than may wait, or it would not be ready in time."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        """Say when to come back."""
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Overloaded], tuple[float]]:
        return Overloaded, (self.retry_after_s,)


class TaskTimeout(Exception):
    """Not drawn within `timeout_s`."""

    def __str__(self) -> str:
        """Kept as the reason where a picture of a bulk job is given up."""
        return "not drawn in time"


class ReplicaLost(Exception):
    """Replica after replica died over it."""


class Backend(Protocol):
    """Whoever draws."""

    async def models(self) -> Mapping[str, RequestLimits]:
        """The models by name, the default one first; waits for a model if none is loaded yet."""
        ...

    async def draw(self, wish: ImageTask) -> bytes:
        """PNG bytes. Cancelling the call frees the row. Raises Overloaded, Expired."""
        ...

    def stream(self, wish: ImageTask, partials: int) -> AsyncIterator[PartialImage | bytes]:
        """Up to `partials` previews, then the PNG bytes. Closing it frees the row. Raises as `draw`."""
        ...

    async def ready(self) -> bool:
        """Whether a request would be answered without waiting for a start; quick."""
        ...
