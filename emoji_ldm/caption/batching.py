"""Rows of `images` through an engine into rows of `captions`: full batches, gates, further answers.

One queue feeds the engine. A caption that fails a gate goes back to its end, and an image's next
caption enters when the one before it is settled, so batches stay full until the queue runs dry;
the next batch is decoded and prepared in a thread while the engine answers this one.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from emoji_ldm.caption.engine_protocol import (
    CaptionEngine,
    CaptionInput,
    CaptionRequest,
    EngineAnswer,
    engine_key,
    engine_name,
)
from emoji_ldm.caption.fault_isolation import AnswerOrError, format_exception, isolate_faults
from emoji_ldm.caption.planner import CaptionPlan
from emoji_ldm.caption.validators import Caption, validate_answer
from emoji_ldm.config import CaptionConfig, key_of
from emoji_ldm.schemas import CAPTION_ATTRIBUTES, CAPTIONS


@dataclass
class _PendingCaption:
    """A caption that is being made."""

    row: dict[str, Any]  # of `images`
    plan: CaptionPlan
    number: int
    attempts: int  # answers given, in earlier runs too
    again: int  # further answers that may be asked for


@dataclass
class _PreparedBatch:
    """Drafts whose pictures could be read, ready for the engine, and those whose could not."""

    drafts: list[_PendingCaption] = field(default_factory=list)
    requests: list[CaptionRequest] = field(default_factory=list)
    unreadable: list[tuple[_PendingCaption, str]] = field(default_factory=list)
    prepared: Any = None  # None if preparing failed: then picture by picture


class CaptionBatcher:
    """Makes the captions of some images with one engine."""

    def __init__(self, engine: CaptionEngine, config: CaptionConfig) -> None:
        """Nothing is asked yet."""
        self.engine, self.config = engine, config
        self.key, self.name = engine_key(config), engine_name(config)
        self.asked = self.slots = 0  # requests, and places in the batches that carried them
        self._queue, self._rows = deque[_PendingCaption](), list[dict[str, Any]]()

    def run(self, images: pa.Table) -> pa.Table:
        """Rows of `captions`, by image in the given order and then by number.

        Args:
            images: image_id, image, title, tags, and `plan` (see `plan.column`) where not all captions are wanted.

        Raises:
            EngineDead, ModelError: See `poison.outcomes`.
        """
        rows = images.to_pylist()
        for row in rows:
            self._enter(row, self._plan(row))
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead:
            self._drain(ahead)
        place = {row["image_id"]: index for index, row in enumerate(rows)}
        self._rows.sort(key=lambda row: (place[row["image_id"]], row["number"]))
        return pa.Table.from_pylist(self._rows, schema=CAPTIONS.schema)

    def _drain(self, ahead: ThreadPoolExecutor) -> None:
        coming = self._take(ahead)
        while coming:
            batch, coming = coming.result(), None
            if len(self._queue) >= (self.engine.batch_size or 1):  # else the answers to come may fill it up
                coming = self._take(ahead)
            for draft, reason in batch.unreadable:
                self._settle(draft, Caption("", reason=f"unreadable picture: {reason}"))
            if batch.requests:
                for draft, outcome in zip(batch.drafts, self._ask(batch), strict=True):
                    self._weigh(draft, outcome)
            coming = coming or self._take(ahead)

    def _take(self, ahead: ThreadPoolExecutor) -> Future[_PreparedBatch] | None:
        """The next batch, on its way; None if the queue is empty."""
        size = min(self.engine.batch_size or len(self._queue), len(self._queue))
        drafts = [self._queue.popleft() for _ in range(size)]
        return ahead.submit(self._prepare, drafts) if drafts else None

    def _prepare(self, drafts: Sequence[_PendingCaption]) -> _PreparedBatch:
        batch = _PreparedBatch()
        for draft in drafts:
            try:
                subject = _caption_input(draft.row)
            except UnidentifiedImageError:  # its text holds an address in memory
                batch.unreadable.append((draft, "not an image"))
                continue
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
                batch.unreadable.append((draft, str(error)))
                continue
            batch.drafts.append(draft)
            batch.requests.append(CaptionRequest(subject, draft.row["image_id"], draft.number, draft.attempts))
        if batch.requests:
            try:
                batch.prepared = self.engine.prepare(batch.requests)
            except Exception:  # noqa: BLE001 - `outcomes` prepares again, piece by piece, and keeps the reason
                batch.prepared = None
        return batch

    def _ask(self, batch: _PreparedBatch) -> list[AnswerOrError]:
        self.asked += len(batch.requests)
        self.slots += self.engine.batch_size or len(batch.requests)
        return isolate_faults(self.engine, batch.requests, batch.prepared)

    def _weigh(self, draft: _PendingCaption, outcome: AnswerOrError) -> None:
        """Take the answer as caption, ask again, or give up."""
        if isinstance(outcome, Exception):
            self._settle(draft, Caption("", reason=f"the engine failed on this picture: {format_exception(outcome)}"))
            return
        draft.attempts += 1
        caption = self._judged(draft, outcome)
        if caption.reason and draft.again and self.engine.samples:
            draft.again -= 1
            self._queue.append(draft)
        else:
            self._settle(draft, caption)

    def _judged(self, draft: _PendingCaption, answer: EngineAnswer) -> Caption:
        caption = validate_answer(answer, str(draft.row["title"] or ""))
        same = [number for number, text in draft.plan.texts.items() if text == caption.text]
        if same and not caption.reason:
            return Caption(caption.text, caption.attributes, f"same as caption {same[0]}")
        return caption

    def _settle(self, draft: _PendingCaption, caption: Caption) -> None:
        good = not caption.reason
        if good:
            draft.plan.texts[draft.number] = caption.text
        self._rows.append({
            "caption_id": caption_id(draft.row["image_id"], self.key, draft.number),
            "image_id": draft.row["image_id"], "caption": caption.text if good else "",
            "engine": self.name, "engine_key": self.key, "number": draft.number, "attempts": draft.attempts,
            "status": "ok" if good else "failed", "reason": caption.reason,
            **{attribute: caption.attributes.get(attribute, "") for attribute in CAPTION_ATTRIBUTES},
        })  # fmt: skip
        del draft.plan.wanted[draft.number]
        self._enter(draft.row, draft.plan)

    def _enter(self, row: dict[str, Any], plan: CaptionPlan) -> None:
        """Queue the image's next wanted caption, if there is one."""
        for number in sorted(plan.wanted)[:1]:
            self._queue.append(_PendingCaption(row, plan, number, plan.wanted[number], self.config.max_retries))

    def _plan(self, row: dict[str, Any]) -> CaptionPlan:
        if "plan" in row:
            return CaptionPlan.from_json(json.loads(row["plan"]))
        return CaptionPlan(dict.fromkeys(range(self.config.num_captions), 0))


def caption_id(image_id: str, key: str, number: int) -> str:
    """Key of a row of `captions`."""
    return key_of(image_id, key, number)


def _caption_input(row: dict[str, Any]) -> CaptionInput:
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        return CaptionInput(image.convert("RGBA"), str(row["title"] or ""), tuple(row["tags"] or ()))
