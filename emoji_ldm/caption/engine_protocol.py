"""Which engines there are, what they are asked and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from emoji_ldm.caption import prompt
from emoji_ldm.config import CaptionConfig, key_of

CAPTION_REVISION = 2  # goes into every engine's key: raise it when captions change for the same settings
TEMPERATURES = (0.0, 0.7, 1.0)  # first answer, then each time a fresh one is wanted; 0 is greedy
TOP_K = 50  # tokens that a sampled answer may choose from: beyond them lies noise


@dataclass(frozen=True)
class CaptionInput:
    """A picture to describe."""

    image: Image.Image  # RGBA
    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class CaptionRequest:
    """One answer that is wanted; the same request gets the same answer in every run and batch."""

    subject: CaptionInput
    image_id: str
    number: int = 0  # which of the image's captions
    attempt: int = 0  # which answer for this caption

    @property
    def temperature(self) -> float:
        """0 for the first answer of the first caption, then higher with each step."""
        return TEMPERATURES[min(self.attempt + (self.number > 0), len(TEMPERATURES) - 1)]

    @property
    def seed(self) -> int:
        """Of the sampling, 31 bits."""
        return int(key_of(self.image_id, self.number, self.attempt), 16) % 2**31


@dataclass(frozen=True)
class EngineAnswer:
    """What an engine says, not judged yet."""

    text: str
    ended: bool = True  # False if the longest length cut it off
    attributes: Mapping[str, str] | None = None  # None: they are read from the text
    fault: str = ""  # why the engine itself has no answer


class EngineLostError(Exception):
    """The engine cannot answer anything any more: its process must be replaced. Says nothing of the pictures."""


class EngineOutOfMemoryError(Exception):
    """The batch is too large for the GPU; the engine lives on."""


class CaptionEngine(Protocol):
    """An engine, loaded and ready."""

    batch_size: int | None  # requests per call; None takes any number and fills its own batches
    samples: bool  # whether asking again may give another answer

    def prepare(self, requests: Sequence[CaptionRequest]) -> Any:
        """The CPU's part: model inputs. Called in another thread than `answer`, while that runs."""
        ...

    def answer(self, prepared: Any) -> list[EngineAnswer]:
        """The GPU's part: one answer per request, in order.

        Raises:
            EngineDead: Now and for ever.
            OutOfMemory: For this many requests at once.
        """
        ...


def engine_key(config: CaptionConfig) -> str:
    """Hash of all that decides what an engine writes first; batches, workers and how often it is asked do not."""
    if config.engine == "metadata":
        return key_of(CAPTION_REVISION, config.engine)
    return key_of(
        CAPTION_REVISION, config.engine, config.model, config.size_px, config.max_new_tokens, prompt.INSTRUCTION
    )


def engine_name(config: CaptionConfig) -> str:
    """The engine as the table names it, with its model."""
    return config.engine if config.engine == "metadata" else f"{config.engine} ({config.model})"
