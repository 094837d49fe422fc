"""Generation of one image of a bulk job, with retries until it has a row, and how many run at once.

Errors are of three kinds. `Overloaded` says nothing about the image: it is tried again without limit, and the window
of its model shrinks. A permanent error (`PERMANENT_ERRORS`) would occur again, so the image fails at once. Any other
error is retried, but an image that fails again and again must not be retried for ever: it fails after `MAX_TRIES`.

The third kind is the hard one, since during an outage of the replicas every image fails. A try therefore counts in full
only if other images of the model succeeded in the meantime, and `OUTAGE_WEIGHT` otherwise.

The number of images in flight at one model adapts to the capacity of its replicas. The capacity changes with the number
of replicas, their batch size and the interactive requests, none of which the runner knows. So it is found as TCP finds
the capacity of a network (additive increase, multiplicative decrease; Chiu and Jain 1989; RFC 5681, section 3.1): the
limit grows while images are generated and shrinks when a replica answers that its queue is full. Until the first such
answer it grows by one per image, which doubles it per round ("slow start"), afterwards by about one per round.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import Backend, ImageTask, Overloaded, ReplicaLost, RequestLimits, TaskTimeout
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobItem, item_request_id
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow, completed_row, failed_row

LOG = logging.getLogger(__name__)
INITIAL_LIMIT, MIN_LIMIT = 32, 4
DECREASE_FACTOR = 0.7
DECREASE_INTERVAL_S = 1.0  # all calls of a round are refused at the same moment: together they count as one signal
# EmojiLdmError: the model refuses the request. ValueError: the image cannot be encoded as requested. An OSError, which
# Pillow raises for a damaged file, need not occur again.
PERMANENT_ERRORS = (EmojiLdmError, ValueError)
MAX_TRIES = 4
OUTAGE_WEIGHT = 0.2  # weight of a failed try while no other image succeeded
UNKNOWN_MODEL_S = 15.0  # a model that was registered a moment ago is not known here yet
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between tries; each pause is twice the one before
LONGEST_REASON = 500  # characters


@dataclass(eq=False)
class _Waiter:
    """A job that waits for a slot."""

    owner: str
    priority: int
    admitted: asyncio.Future[None]


class AimdWindow:
    """A semaphore with an adaptive limit, which admits waiters in the order of their arrival.

    All jobs share the window of a model. Each job waits for one slot at a time, so that jobs take turns image by image.
    Among the jobs of one owner, the one with the highest priority takes the turns of all; other owners do not notice.
    """

    def __init__(self, max_limit: int) -> None:
        """Start with `INITIAL_LIMIT` slots; the limit never exceeds `max_limit`."""
        self.max_limit, self.limit, self.in_flight = max_limit, float(min(INITIAL_LIMIT, max_limit)), 0
        self.num_overloads = self.num_successes = 0
        self._waiters: deque[_Waiter] = deque()
        self._decreased_at = 0.0

    async def acquire(self, owner: str = "", priority: int = 0) -> None:
        """Wait for a slot and take it, for a job of this owner and priority."""
        # Even with a free slot, a newcomer queues behind those who wait, or they might starve.
        if self.in_flight < self.limit and not self._waiters:
            self.in_flight += 1
            return
        waiter = _Waiter(owner, priority, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            # The slot may have been granted in the same iteration of the event loop in which the task was cancelled.
            if waiter.admitted.done() and not waiter.admitted.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Return a slot."""
        self.in_flight -= 1
        self._admit()

    def record_success(self) -> None:
        """Increase the limit after an image was generated."""
        self.num_successes += 1
        if self.limit < self.max_limit:
            self.limit = min(self.max_limit, self.limit + (1 / self.limit if self.num_overloads else 1))
            self._admit()

    def record_overload(self) -> None:
        """Decrease the limit after a replica refused an image because its queue is full."""
        self.num_overloads += 1
        # One decrease per interval, as TCP reduces its window once per round trip and not once per lost packet.
        if time.monotonic() - self._decreased_at > DECREASE_INTERVAL_S:
            self._decreased_at = time.monotonic()
            self.limit = max(min(MIN_LIMIT, self.max_limit), DECREASE_FACTOR * self.limit)

    def _admit(self) -> None:
        while self._waiters and self.in_flight < self.limit:
            waiter = self._next()
            # A waiter that was cancelled stays in the queue until its turn, and is skipped here.
            if not waiter.admitted.cancelled():
                self.in_flight += 1
                waiter.admitted.set_result(None)

    def _next(self) -> _Waiter:
        """Remove and return the waiter whose turn it is."""
        first = self._waiters.popleft()
        own = [each for each in self._waiters if each.owner == first.owner and not each.admitted.cancelled()]
        best = max(own, key=lambda each: each.priority, default=first)
        if first.admitted.cancelled() or best.priority <= first.priority:
            return first
        self._waiters.remove(best)
        # Its turn is spent: in front of the queue it would bring its owner one turn after another.
        self._waiters.append(first)
        return best


class ItemExecutor:
    """Generates the images of all jobs of a runner, within one window per model that the jobs share."""

    def __init__(self, backend: Backend, max_in_flight: int, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        """Have at most `max_in_flight` images in flight at each model."""
        self.backend, self.first_pause_s = backend, first_pause_s
        self.windows = defaultdict[str, AimdWindow](lambda: AimdWindow(max_in_flight))
        self.num_failures = 0  # tries that ended in an error other than Overloaded
        self._missing_since: dict[str, float] = {}  # models that nobody here knows, by time.monotonic()
        # One lock per model, since only images of one model share batches.
        self._solo_locks = defaultdict[str, asyncio.Lock](asyncio.Lock)  # by model

    async def execute(self, job: BulkJob, item: JobItem, models: Mapping[str, RequestLimits]) -> ItemRow:
        """Return the row of an image. The caller holds a slot of the model's window for the whole call.

        Args:
            job: The job that the image belongs to.
            item: The image.
            models: Limits by model name; a job may name a model that the service does not have any more.
        """
        if item.line.error:
            return failed_row(item, item.line.error)
        if item.line.model not in models and not await self._appears(item.line.model):
            # The model may have been removed from the configuration after the job was created.
            return failed_row(item, f"there is no model {item.line.model!r} any more")
        task = ImageTask(item.line.model, item.request, tenant=job.owner, bulk=True,
                         request_id=item_request_id(job.id, item.index))  # fmt: skip
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
                LOG.warning("request %s of a bulk job failed: %s", task.request_id, _reason(error))
                return failed_row(item, _reason(error))
            except Exception as error:  # noqa: BLE001 - the edge of one image: its row keeps the reason
                self.num_failures += 1
                if isinstance(error, TaskTimeout):
                    # Too much was in flight. It counts as a try too: an image that takes too long even by itself
                    # would otherwise come back for ever.
                    window.record_overload()
                LOG.warning("request %s of a bulk job: a try failed: %s", task.request_id, _reason(error))
                if retries.exhausted(error, others_succeeded=window.num_successes > num_successes):
                    return failed_row(item, f"{RETRIES_EXHAUSTED}: {_reason(error)}")
                await asyncio.sleep(retries.next_pause_s())
            else:
                window.record_success()
                return row

    async def _appears(self, model: str) -> bool:
        """Whether a model that is not known here becomes known soon; the images of a job wait for it together."""
        since = self._missing_since.setdefault(model, time.monotonic())
        while time.monotonic() - since < UNKNOWN_MODEL_S:
            await asyncio.sleep(self.first_pause_s)
            if model in await self.backend.models():
                self._missing_since.pop(model, None)
                return True
        return False

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
