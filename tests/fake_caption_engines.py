"""Fake caption engines that obey the contract of `emoji_ldm.caption.engine_protocol.CaptionEngine`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from emoji_ldm.caption.engine_protocol import CaptionRequest, EngineAnswer, EngineLostError
from emoji_ldm.caption.sentence_format import write_sentence
from emoji_ldm.config import CaptionConfig


def caption_for(request: CaptionRequest) -> str:
    """A valid caption that differs by image, number and attempt."""
    head = f"round head of {request.seed}"
    return write_sentence("Blob", {"head_shape": head, "eyes": "black", "mouth": "wide", "expression": "calm",
                          "skin_color": "blue", "action": "waving", "background": "white"})  # fmt: skip


class FakeEngine:
    """Answers with the function `say`, and records the batches and the threads that prepared them."""

    can_resample = True

    def __init__(self, say: Callable[[CaptionRequest], str] = caption_for, batch_size: int | None = 4) -> None:
        """An exception that `say` raises fails the whole batch."""
        self.say, self.batch_size = say, batch_size
        self.batches: list[list[CaptionRequest]] = []
        self.preparers: set[str] = set()

    def prepare(self, requests: Sequence[CaptionRequest]) -> list[CaptionRequest]:
        """The requests themselves."""
        self.preparers.add(threading.current_thread().name)
        return list(requests)

    def answer(self, prepared: list[CaptionRequest]) -> list[EngineAnswer]:
        """One answer per request."""
        self.batches.append(prepared)
        return [EngineAnswer(self.say(request)) for request in prepared]


class DyingEngine(FakeEngine):
    """Dies at its second batch, once per folder; the engine that replaces it survives."""

    def __init__(self, folder: Path, config: CaptionConfig) -> None:
        """Record deaths in the folder, one file per process."""
        super().__init__()
        self.folder = folder

    def answer(self, prepared: list[CaptionRequest]) -> list[EngineAnswer]:
        """One answer per request, or the death of the engine."""
        if self.batches and not list(self.folder.iterdir()):
            (self.folder / str(os.getpid())).touch()
            raise EngineLostError("CUDA error: an illegal memory access was encountered")
        return super().answer(prepared)
