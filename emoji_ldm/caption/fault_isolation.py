"""Fault isolation: an image on which an engine fails loses its own answer, never those of its batch.

A library may raise anything for one bad image, and the error does not say for which. So a failed batch is halved until
the images that fail are alone. This costs about 2 log2(N) further calls per bad image in a batch of N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from emoji_ldm.caption.engine_protocol import (
    CaptionEngine,
    CaptionInput,
    CaptionRequest,
    EngineAnswer,
    EngineLostError,
    EngineOutOfMemoryError,
)
from emoji_ldm.errors import EmojiLdmError, ModelError

AnswerOrError = EngineAnswer | Exception


def isolate_faults(
    engine: CaptionEngine, requests: Sequence[CaptionRequest], prepared: Any = None
) -> list[AnswerOrError]:
    """An answer per request, or the exception that the engine raised for that request alone.

    Args:
        engine: It gets the batch; if it raises, the halves of it, down to single requests.
        requests: At least one.
        prepared: What `engine.prepare` made of them; None prepares them here.

    Raises:
        EngineLostError: The engine cannot answer any more; no image is to blame.
        ModelError: One image alone exceeds the GPU's memory, or all fail and so does a probe image: the engine is
            broken, and rows marked as failed would hide that.
    """
    # One answer proves that the engine works, so the exceptions beside it are the fault of their images.
    found = _answer_or_bisect(engine, requests, prepared)
    # If all failed, either the engine is broken, or a small batch (the last one, or one of retries) held bad images
    # only. A probe that every working engine can answer tells the two apart.
    if not any(isinstance(outcome, EngineAnswer) for outcome in found):
        (probe,) = _answer_or_bisect(engine, [probe_request()], None)
        if isinstance(probe, Exception):
            raise ModelError(
                f"the engine fails on each of {len(found)} images, and on a test image: {format_exception(probe)}"
            )
    return found


def probe_request() -> CaptionRequest:
    """A request that every working engine can answer: a drawn yellow face."""
    face = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(face)
    draw.ellipse((8, 8, 120, 120), fill="gold")
    for left in (40, 76):
        draw.ellipse((left, 44, left + 12, 56), fill="black")
    draw.arc((36, 48, 92, 96), 20, 160, fill="black", width=6)
    return CaptionRequest(CaptionInput(face, "Smiling face", ("face",)), "harmless")


def format_exception(error: Exception) -> str:
    """An exception as a short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _answer_or_bisect(engine: CaptionEngine, requests: Sequence[CaptionRequest], prepared: Any) -> list[AnswerOrError]:
    try:
        return [*engine.answer(engine.prepare(requests) if prepared is None else prepared)]
    # These concern the engine or the configuration, not an image, so halving the batch could not help.
    except (EngineLostError, EmojiLdmError):
        raise
    except EngineOutOfMemoryError as error:
        # A single image that does not fit is a matter of configuration: every other image has the same size in pixels
        # and would fail as well.
        if len(requests) == 1:
            raise ModelError(
                f"one image alone exceeds the GPU's memory ({error}); "
                "use a smaller caption.model or caption.max_new_tokens, or a larger GPU"
            ) from None
    # A library may raise anything for an image. At a batch of one the culprit is found, and its row keeps the reason.
    except Exception as error:  # noqa: BLE001
        if len(requests) == 1:
            return [error]
    # The prepared inputs belong to the whole batch, so the halves are prepared again.
    half = len(requests) // 2
    return [*_answer_or_bisect(engine, requests[:half], None), *_answer_or_bisect(engine, requests[half:], None)]
