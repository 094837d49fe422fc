"""How many pictures are asked for at once: more while they are taken, fewer once the pools are full.

One picture of a bulk job, whatever it takes: waits while the pools are full, tries again after what may pass.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict, deque
from collections.abc import Mapping

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.serve.backend import Backend, ImageTask, Overloaded, ReplicaLost, RequestLimits, TaskTimeout
from emoji_ldm.serve.bulk.item_schema import RETRIES_EXHAUSTED, ItemRow, completed_row, failed_row
from emoji_ldm.serve.bulk.job_store import BulkJob
from emoji_ldm.serve.bulk.shards import JobItem
from emoji_ldm.serve.errors import RequestError

INITIAL_LIMIT, MIN_LIMIT = 32, 4
DECREASE_FACTOR = 0.7
DECREASE_INTERVAL_S = 1.0  # refusals that come together count as one


class AimdWindow:
    """Bounded places, given out in the order in which they are asked for.

    A job asks for one place at a time, so that jobs take turns picture by picture.
    Grows by one per taken picture until the first refusal, then by one per round (additive
    increase, multiplicative decrease).
    """

    def __init__(self, most: int) -> None:
        """Begin with a few places; there are never more than `most`."""
        self.most, self.limit, self.inside = most, float(min(INITIAL_LIMIT, most)), 0
        self.refusals = self.taken_total = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._shrunk = 0.0

    async def enter(self) -> None:
        """Wait for a place."""
        if self.inside < self.limit and not self._waiting:
            self.inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it had just been let in
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1
        self._admit()

    def taken(self) -> None:
        """A picture was drawn."""
        self.taken_total += 1
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + (1 / self.limit if self.refusals else 1))
            self._admit()

    def refused(self) -> None:
        """The pools are full."""
        self.refusals += 1
        if time.monotonic() - self._shrunk > DECREASE_INTERVAL_S:
            self._shrunk = time.monotonic()
            self.limit = max(min(MIN_LIMIT, self.most), DECREASE_FACTOR * self.limit)

    def _admit(self) -> None:
        while self._waiting and self.inside < self.limit:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self.inside += 1
                turn.set_result(None)


PERMANENT_ERRORS = (EmojiLdmError, RequestError, ValueError)  # this picture's own fault: it would be refused again
MAX_TRIES = 4  # that failed while other pictures went well
SOLO_FAILURE_WEIGHT = (
    0.2  # weight of a try while no other went well: it is the pools' fault more likely than the picture's
)
LONGEST_PAUSE_S = 30.0
LONGEST_REASON = 500  # characters


class ItemExecutor:
    """Draws pictures through a backend, within a window per model, which all jobs share."""

    def __init__(self, backend: Backend, most: int, *, first_pause_s: float = 0.5) -> None:
        """Ask each model for at most `most` pictures at once."""
        self.backend, self.first_pause_s = backend, first_pause_s
        self.windows = defaultdict[str, AimdWindow](lambda: AimdWindow(most))
        self._alone = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self.failures = 0  # tries that did not give a picture

    async def row(self, job: BulkJob, picture: JobItem, models: Mapping[str, RequestLimits]) -> ItemRow:
        """The finished row. The caller has entered the model's window, and leaves it after this."""
        if picture.line.model not in models:
            return failed_row(picture, f"there is no model {picture.line.model!r} any more")
        wish = ImageTask(picture.line.model, picture.draw, tenant=job.owner, bulk=True,
                    request_id=f"{job.id}-{picture.index}")  # fmt: skip
        window, tries, pause_s, lost = self.windows[wish.model], 0.0, self.first_pause_s, False
        while True:
            others = window.taken_total
            try:
                png = await self._drawn(wish, alone=lost)
                row = (
                    await asyncio.to_thread(completed_row, picture, png)
                    if picture.line.output
                    else completed_row(picture, png)
                )
            except Overloaded as error:
                window.refused()
                await asyncio.sleep(error.retry_after_s * random.uniform(1, 1.5))
                continue
            except PERMANENT_ERRORS as error:
                return failed_row(picture, _reason(error))
            except Exception as error:  # noqa: BLE001 - the edge of one picture: after some tries the reason is kept
                self.failures += 1
                if isinstance(error, TaskTimeout):  # a try: one that takes too long by itself would come back for ever
                    window.refused()
                tries += 1 if window.taken_total > others else SOLO_FAILURE_WEIGHT
                if tries >= MAX_TRIES or (lost and isinstance(error, ReplicaLost)):
                    return failed_row(picture, f"{RETRIES_EXHAUSTED}: {_reason(error)}")
                lost = lost or isinstance(error, ReplicaLost)
            else:
                window.taken()
                return row
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _drawn(self, wish: ImageTask, *, alone: bool) -> bytes:
        """A picture; one that was lost with its replicas, by its own fault or a neighbour's, is drawn when no other
        such one is, which tells whose fault it was.
        """
        if not alone:
            return await self.backend.draw(wish)
        async with self._alone[wish.model]:
            return await self.backend.draw(wish)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
