"""Rows of `images` -> rows of `captions`: full batches for the engine, validation, retries.

One queue feeds the engine. A caption that fails validation goes back to the end of the queue for a further answer, and
an image's next caption enters when the one before it is finished (it must differ from that). So batches stay full
until the queue runs dry, instead of shrinking with each round of retries. While the engine answers one batch, a thread
decodes and prepares the next.
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
from emoji_ldm.images.license_tag import without_license
from emoji_ldm.schemas import CAPTION_ATTRIBUTES, CAPTIONS


@dataclass
class _PendingCaption:
    """A caption in the queue."""

    row: dict[str, Any]  # of `images`
    plan: CaptionPlan
    number: int
    attempts: int  # answers given so far, in earlier runs too
    retries_left: int


@dataclass
class _PreparedBatch:
    """Captions whose images could be decoded, ready for the engine, and those whose images could not."""

    pending: list[_PendingCaption] = field(default_factory=list)
    requests: list[CaptionRequest] = field(default_factory=list)
    unreadable: list[tuple[_PendingCaption, str]] = field(default_factory=list)
    prepared: Any = None  # None if preparing failed: fault isolation prepares again, in smaller parts


class CaptionBatcher:
    """Makes the captions of some images with one engine."""

    def __init__(self, engine: CaptionEngine, config: CaptionConfig) -> None:
        """Keep the engine and its settings; `run` does the work."""
        self.engine, self.config = engine, config
        self.key, self.name = engine_key(config), engine_name(config)
        # Their quotient tells how full the batches were, which the job reports.
        self.num_requests = self.num_slots = 0  # answers requested, and the capacity of their batches
        self._queue, self._rows = deque[_PendingCaption](), list[dict[str, Any]]()

    def run(self, images: pa.Table) -> pa.Table:
        """Rows of `captions`, by image in the given order and then by number.

        Args:
            images: image_id, image, title, tags, and `plan` (see `planner.plan_column`) where some captions exist.

        Raises:
            EngineLostError, ModelError: See `fault_isolation.isolate_faults`.
        """
        # An image has at most one caption in the queue at a time: the next one has to differ from it, and cannot be
        # checked before it is known.
        rows = images.to_pylist()
        for row in rows:
            self._enqueue_next(row, self._plan(row))
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead:
            self._drain(ahead)
        order = {row["image_id"]: index for index, row in enumerate(rows)}
        # Captions finish in any order; sorting makes the rows of a shard the same in every run.
        self._rows.sort(key=lambda row: (order[row["image_id"]], row["number"]))
        return pa.Table.from_pylist(self._rows, schema=CAPTIONS.schema)

    def _drain(self, ahead: ThreadPoolExecutor) -> None:
        # While a batch is being answered, the next one is being prepared, and no more than one: prepared batches hold
        # decoded images, and those further ahead would only wait in memory.
        next_batch = self._take(ahead)
        while next_batch:
            batch, next_batch = next_batch.result(), None
            # The next batch is prepared meanwhile, but only if it is full. Taking a smaller one now would let the
            # engine run half empty, although the answers of this batch are about to put retries and next captions into
            # the queue.
            if len(self._queue) >= (self.engine.batch_size or 1):
                next_batch = self._take(ahead)
            # An image that cannot be decoded fails at once, since a retry would get the same bytes.
            for pending, reason in batch.unreadable:
                self._finish(pending, Caption("", reason=f"unreadable image: {reason}"))
            if batch.requests:
                for pending, outcome in zip(batch.pending, self._answers(batch), strict=True):
                    self._handle_outcome(pending, outcome)
            next_batch = next_batch or self._take(ahead)

    def _take(self, ahead: ThreadPoolExecutor) -> Future[_PreparedBatch] | None:
        """The next batch, being prepared; None if the queue is empty."""
        size = min(self.engine.batch_size or len(self._queue), len(self._queue))
        taken = [self._queue.popleft() for _ in range(size)]
        return ahead.submit(self._prepare, taken) if taken else None

    def _prepare(self, taken: Sequence[_PendingCaption]) -> _PreparedBatch:
        batch = _PreparedBatch()
        for pending in taken:
            try:
                image = _caption_input(pending.row)
            # This message would contain a memory address, which differs in each run. Equal inputs have to give equal
            # rows.
            except UnidentifiedImageError:
                batch.unreadable.append((pending, "not an image"))
                continue
            # These are the exceptions that Pillow raises for files that are damaged, or too large to be decoded safely.
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                batch.unreadable.append((pending, str(error)))
                continue
            batch.pending.append(pending)
            batch.requests.append(CaptionRequest(image, pending.row["image_id"], pending.number, pending.attempts))
        if batch.requests:
            try:
                batch.prepared = self.engine.prepare(batch.requests)
            # Preparing may fail for the same reason as answering, a single bad image. `isolate_faults` prepares again,
            # in smaller parts, and keeps the reason.
            except Exception:  # noqa: BLE001
                batch.prepared = None
        return batch

    def _answers(self, batch: _PreparedBatch) -> list[AnswerOrError]:
        self.num_requests += len(batch.requests)
        self.num_slots += self.engine.batch_size or len(batch.requests)
        return isolate_faults(self.engine, batch.requests, batch.prepared)

    def _handle_outcome(self, pending: _PendingCaption, outcome: AnswerOrError) -> None:
        """Accept the answer, retry, or give up."""
        # The engine has failed on this image even when it was alone, so asking again would only fail again.
        if isinstance(outcome, Exception):
            self._finish(pending, Caption("", reason=f"the engine failed on this image: {format_exception(outcome)}"))
            return
        # The number of answers so far, in earlier runs too, selects temperature and seed. A retry therefore never
        # repeats a request that has been answered before.
        pending.attempts += 1
        caption = self._validated(pending, outcome)
        # A retry goes to the end of the queue. Answering it at once would mean a batch of one.
        if caption.reason and pending.retries_left and self.engine.can_resample:
            pending.retries_left -= 1
            self._queue.append(pending)
        else:
            self._finish(pending, caption)

    def _validated(self, pending: _PendingCaption, answer: EngineAnswer) -> Caption:
        # The answer is validated with its title, which may hold anything, and then compared with the image's other
        # captions: training on one sentence twice would only weigh the image double.
        caption = validate_answer(answer, str(pending.row["title"] or ""))
        same = [number for number, text in pending.plan.good_captions.items() if text == caption.text]
        if same and not caption.reason:
            return Caption(caption.text, caption.attributes, f"same as caption {same[0]}")
        return caption

    def _finish(self, pending: _PendingCaption, caption: Caption) -> None:
        """Write the caption's row, good or failed, and queue the image's next caption."""
        good = not caption.reason
        if good:
            pending.plan.good_captions[pending.number] = caption.text
        self._rows.append({
            "caption_id": caption_id(pending.row["image_id"], self.key, pending.number),
            "image_id": pending.row["image_id"], "caption": caption.text if good else "",
            "engine": self.name, "engine_key": self.key, "number": pending.number, "attempts": pending.attempts,
            "status": "ok" if good else "failed", "reason": caption.reason,
            **{attribute: caption.attributes.get(attribute, "") for attribute in CAPTION_ATTRIBUTES},
        })  # fmt: skip
        del pending.plan.missing[pending.number]
        self._enqueue_next(pending.row, pending.plan)

    def _enqueue_next(self, row: dict[str, Any], plan: CaptionPlan) -> None:
        """Queue the image's next missing caption, if there is one."""
        for number in sorted(plan.missing)[:1]:
            self._queue.append(_PendingCaption(row, plan, number, plan.missing[number], self.config.max_retries))

    def _plan(self, row: dict[str, Any]) -> CaptionPlan:
        # Without a plan (as in tests and tools) all captions are missing.
        if "plan" in row:
            return CaptionPlan.from_json(json.loads(row["plan"]))
        return CaptionPlan(dict.fromkeys(range(self.config.num_captions), 0))


def caption_id(image_id: str, key: str, number: int) -> str:
    """Key of a row of `captions`."""
    return key_of(image_id, key, number)


def _caption_input(row: dict[str, Any]) -> CaptionInput:
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        # `convert` decodes the pixels now, while the file is open. Without it Pillow would decode them later, in the
        # engine, outside of the handling of broken images.
        return CaptionInput(image.convert("RGBA"), str(row["title"] or ""), tuple(without_license(row["tags"] or ())))
