"""Generation of one image of a bulk job, with retries until it has a row, completed or failed.

Errors are of three kinds. `Overloaded` says nothing about the image: it is tried again without limit, and the window
of its model shrinks. A permanent error (`PERMANENT_ERRORS`) would occur again, so the image fails at once. Any other
error is retried, but an image that fails again and again must not be retried for ever: it fails after `MAX_TRIES`.

The third kind is the hard one, since during an outage of the replicas every image fails. A try therefore counts in full
only if other images of the model succeeded in the meantime, and `OUTAGE_WEIGHT` otherwise.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import Backend, ImageTask, Overloaded, ReplicaLost, RequestLimits, TaskTimeout
from emoji_ldm.serve.bulk.aimd_window import AimdWindow
from emoji_ldm.serve.bulk.bulk_job import BulkJob
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow, completed_row, failed_row
from emoji_ldm.serve.bulk.shards import JobItem

# EmojiLdmError: the model refuses the request. ValueError: the image cannot be encoded as requested. An OSError, which
# Pillow raises for a damaged file, need not occur again.
PERMANENT_ERRORS = (EmojiLdmError, ValueError)
MAX_TRIES = 4
OUTAGE_WEIGHT = 0.2  # weight of a failed try while no other image succeeded
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between tries; each pause is twice the one before
LONGEST_REASON = 500  # characters


class ItemExecutor:
    """Generates the images of all jobs of a runner, within one window per model that the jobs share."""

    def __init__(self, backend: Backend, max_in_flight: int, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        """Have at most `max_in_flight` images in flight at each model."""
        self.backend, self.first_pause_s = backend, first_pause_s
        self.windows = defaultdict[str, AimdWindow](lambda: AimdWindow(max_in_flight))
        self.num_failures = 0  # tries that ended in an error other than Overloaded
        # One lock per model, since only images of one model share batches.
        self._solo_locks = defaultdict[str, asyncio.Lock](asyncio.Lock)  # by model

    async def execute(self, job: BulkJob, item: JobItem, models: Mapping[str, RequestLimits]) -> ItemRow:
        """Return the row of an image. The caller holds a slot of the model's window for the whole call.

        Args:
            job: The job that the image belongs to.
            item: The image.
            models: Limits by model name; a job may name a model that the service does not have any more.
        """
        if item.line.model not in models:
            # The model may have been removed from the configuration after the job was created.
            return failed_row(item, f"there is no model {item.line.model!r} any more")
        task = ImageTask(item.line.model, item.request, tenant=job.owner, bulk=True,
                         request_id=f"{job.id}-{item.index}")  # fmt: skip
        window, retries = self.windows[task.model], _Retries(self.first_pause_s)
        while True:
            num_successes = window.num_successes
            try:
                row = await self._generate_row(item, task, solo=retries.lost_replica)
            except Overloaded as error:
                window.record_overload()
                # Jitter spreads the retries of all images that were refused together.
                await asyncio.sleep(error.retry_after_s * random.uniform(1, 1.5))
            except PERMANENT_ERRORS as error:
                return failed_row(item, _reason(error))
            except Exception as error:  # noqa: BLE001 - the edge of one image: its row keeps the reason
                self.num_failures += 1
                if isinstance(error, TaskTimeout):
                    # Too much was in flight. It counts as a try too: an image that takes too long even by itself
                    # would otherwise come back for ever.
                    window.record_overload()
                if retries.exhausted(error, others_succeeded=window.num_successes > num_successes):
                    return failed_row(item, f"{RETRIES_EXHAUSTED}: {_reason(error)}")
                await asyncio.sleep(retries.next_pause_s())
            else:
                window.record_success()
                return row

    async def _generate_row(self, item: JobItem, task: ImageTask, *, solo: bool) -> ItemRow:
        png = await self._generate(task, solo=solo)
        if item.line.output:  # encoding is slow
            return await asyncio.to_thread(completed_row, item, png)
        return completed_row(item, png)

    async def _generate(self, task: ImageTask, *, solo: bool) -> bytes:
        """Generate an image; with `solo`, while no other such image of the model is being generated.

        Images share batches, so a replica that dies takes innocent ones with it. All of them are tried again, one at a
        time: the image that loses its replica again is the cause.
        """
        if not solo:
            return await self.backend.generate(task)
        async with self._solo_locks[task.model]:
            return await self.backend.generate(task)


# Tenacity retries by the outcome of one call. Here the decision depends on other images, so the loop stays our own.
class _Retries:
    """The failed tries of one image."""

    def __init__(self, first_pause_s: float) -> None:
        self.lost_replica = False  # whether replicas died over an earlier try
        self._weight, self._pause_s = 0.0, first_pause_s

    def exhausted(self, error: Exception, *, others_succeeded: bool) -> bool:
        """Count a failed try and return whether it was the last."""
        self._weight += 1 if others_succeeded else OUTAGE_WEIGHT
        lost_again = self.lost_replica and isinstance(error, ReplicaLost)
        self.lost_replica = self.lost_replica or isinstance(error, ReplicaLost)
        return self._weight >= MAX_TRIES or lost_again

    def next_pause_s(self) -> float:
        """Return the pause before the next try: exponential backoff with jitter."""
        pause_s = self._pause_s * random.uniform(0.5, 1)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s


def _reason(error: BaseException) -> str:
    # One line without tracebacks: reasons are shown in tables and CSV files.
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
