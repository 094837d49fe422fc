"""The interface of caption engines: requests, answers, errors, and the key of an engine's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from emoji_ldm.caption import prompt
from emoji_ldm.config import CaptionConfig, key_of

# The revision is part of every engine's key. Raising it makes all captions be written anew, so it is raised only when
# the same settings give other captions.
CAPTION_REVISION = 2
# The first answer is the most likely one, by greedy decoding. It is the same in every run, so a further answer has to
# be sampled, and more freely each time.
TEMPERATURES = (0.0, 0.7, 1.0)  # of the first answer and of each further one
# Tokens beyond the 50 most likely are mostly noise: sampling one of them derails a sentence.
TOP_K = 50


@dataclass(frozen=True)
class CaptionInput:
    """An image to describe, with what the listing says about it."""

    image: Image.Image  # RGBA
    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class CaptionRequest:
    """A request for one answer; the same request gets the same answer in every run and batch."""

    input: CaptionInput
    image_id: str
    number: int = 0  # which of the image's captions
    attempt: int = 0  # which answer for this caption

    @property
    def temperature(self) -> float:
        """0 for the first answer of the first caption, higher for each further attempt or caption."""
        # A further caption starts one step higher, since greedy decoding would repeat the first caption word by word.
        return TEMPERATURES[min(self.attempt + (self.number > 0), len(TEMPERATURES) - 1)]

    @property
    def seed(self) -> int:
        """Seed of the sampling, 31 bits."""
        # The seed comes from the request alone. Neither the batch nor the worker nor the order of requests can change
        # an answer.
        return int(key_of(self.image_id, self.number, self.attempt), 16) % 2**31


@dataclass(frozen=True)
class EngineAnswer:
    """What an engine wrote, before validation."""

    text: str
    finished: bool = True  # False if the length limit cut it off
    attributes: Mapping[str, str] | None = None  # None: they are parsed from the text
    error: str = ""  # why the engine itself has no answer; empty if it has one


class EngineLostError(Exception):
    """The engine cannot answer any more and its process must be replaced; no image is to blame."""


class EngineOutOfMemoryError(Exception):
    """The batch is too large for the GPU; the engine still works."""


class CaptionEngine(Protocol):
    """A loaded engine."""

    batch_size: int | None  # requests per call; None takes any number and batches them itself
    can_resample: bool  # whether asking again may give another answer

    def prepare(self, requests: Sequence[CaptionRequest]) -> Any:
        """Make model inputs on the CPU. Called in another thread than `answer`, and at the same time."""
        ...

    def answer(self, prepared: Any) -> list[EngineAnswer]:
        """Run the model: one answer per request, in order.

        Raises:
            EngineLostError: The engine cannot answer any more.
            EngineOutOfMemoryError: These are too many requests at once.
        """
        ...


def engine_key(config: CaptionConfig) -> str:
    """Hash of all that determines an engine's first answer; batch size, workers and number of attempts do not.

    Rows of `captions` carry it: changing a hashed value makes a job write new captions beside the old ones.
    """
    # The metadata engine has no settings besides its code, which CAPTION_REVISION stands for.
    if config.engine == "metadata":
        return key_of(CAPTION_REVISION, config.engine)
    return key_of(
        CAPTION_REVISION, config.engine, config.model, config.size_px, config.max_new_tokens, prompt.INSTRUCTION
    )


def engine_name(config: CaptionConfig) -> str:
    """The engine as the table `captions` names it, with its model."""
    return config.engine if config.engine == "metadata" else f"{config.engine} ({config.model})"
