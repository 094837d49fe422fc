"""A batch through an engine, where a picture that the engine cannot bear costs its own answer only."""

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
    """An answer per request, or what the engine raised for that one alone.

    Args:
        engine: Is asked for the batch; if it raises, for its halves, down to the bad picture.
        requests: At least one.
        prepared: What `engine.prepare` made of them; None prepares them here.

    Raises:
        EngineDead: The engine says so: no picture is to blame.
        ModelError: Not even one picture fits the GPU, or all fail and so does a drawn one: the engine is at fault.
    """
    found = _bisected(engine, requests, prepared)
    if not any(isinstance(outcome, EngineAnswer) for outcome in found):  # poison comes together: at a tail, in a retry
        (proof,) = _bisected(engine, [probe_request()], None)
        if isinstance(proof, Exception):
            several = f"each of {len(found)} pictures"
            raise ModelError(f"the engine fails on {several}, and on a drawn one: {format_exception(proof)}")
    return found


def probe_request() -> CaptionRequest:
    """A picture that every engine in order can answer: a yellow face."""
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


def _bisected(engine: CaptionEngine, requests: Sequence[CaptionRequest], prepared: Any) -> list[AnswerOrError]:
    try:
        return [*engine.answer(engine.prepare(requests) if prepared is None else prepared)]
    except (EngineLostError, EmojiLdmError):
        raise
    except EngineOutOfMemoryError as error:
        if len(requests) == 1:
            raise ModelError(
                f"one picture alone is too much for the GPU's memory ({error}); "
                "use a smaller caption.model or caption.max_new_tokens, or a larger GPU"
            ) from None
    except Exception as error:  # noqa: BLE001 - a library may raise anything for a picture; its row keeps the reason
        if len(requests) == 1:
            return [error]
    half = len(requests) // 2
    return [*_bisected(engine, requests[:half], None), *_bisected(engine, requests[half:], None)]
