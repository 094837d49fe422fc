"""When a picture would be drawn, by the time that ticks take."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from emoji_ldm.generate.continuous_batching.batch_scheduler import BULK_SHARE, BatchBucket, PendingImage


def predict_wait_s(lanes: Collection[BatchBucket], ticket: PendingImage) -> float:
    """Predicted time until a picture that is about to wait would be drawn, if nobody came after it."""
    own_s, own_rows = _own_bucket_wait_s(ticket), min(ticket.lane.cap, _num_images(ticket.lane, ticket.bulk) + 1)
    # While a lane moves on, another does so by its share of the rows, or until it is done.
    others_s = sum(
        min(_bucket_drain_s(lane, ticket.bulk), own_s * min(lane.cap, _num_images(lane, ticket.bulk)) / own_rows)
        for lane in lanes
        if lane is not ticket.lane
    )
    if ticket.bulk:
        before = [lane for lane in lanes if lane is not ticket.lane or _is_full(lane)]
        return own_s + others_s + sum(_bucket_drain_s(lane, False) for lane in before)
    bulk_moves = any(_num_images(lane, True) for lane in lanes)
    return (own_s + others_s) / (1 - BULK_SHARE if bulk_moves else 1)


def predict_alone_s(ticket: PendingImage) -> float:
    """Predicted time that a picture takes if there is no other."""
    return ticket.steps * ticket.lane.seconds(1, 1)


def predict_drain_s(lanes: Collection[BatchBucket]) -> float:
    """Predicted time until the last step of all that are here now."""
    return sum(_bucket_drain_s(lane, bulk) for lane in lanes for bulk in (False, True))


def _own_bucket_wait_s(ticket: PendingImage) -> float:
    """Time until it is drawn if there were its own lane and class only."""
    lane, bulk = ticket.lane, ticket.bulk
    rows = _num_images(lane, bulk)
    if rows < lane.cap:
        return ticket.steps * lane.seconds(rows + 1, rows + 1)
    lefts = [*lane.lefts(bulk), *[ticket.steps] * lane.preparing[bulk]]
    seats = sorted(lefts[: lane.cap] + [0] * (lane.cap - len(lefts)))
    before = sum(lefts[lane.cap :]) + lane.waiting[bulk].ahead(ticket.tenant, ticket.steps)
    return (_ticks_until_slot_free(seats, before) + ticket.steps) * lane.tick_s


def _ticks_until_slot_free(seats: Sequence[int], before: int) -> float:
    """Ticks until a seat is free, if `before` steps are to be taken first in whichever seats are free.

    Args:
        seats: Steps to go in each seat, ascending.
        before: Steps, poured onto the seats as water over stairs.
    """
    total = before
    for count, (left, following) in enumerate(zip(seats, [*seats[1:], math.inf], strict=True), 1):
        total += left
        if total <= count * following:
            break
    return total / count


def _bucket_drain_s(lane: BatchBucket, bulk: bool) -> float:
    """Time until all of a class that are in a lane now are drawn, if there were no others."""
    rows = min(lane.cap, _num_images(lane, bulk))
    if not rows:
        return 0.0
    lefts = lane.lefts(bulk)
    ticks = max(max(lefts, default=0), (sum(lefts) + lane.waiting[bulk].steps) / rows)
    return ticks * lane.seconds(rows, rows)


def _num_images(lane: BatchBucket, bulk: bool) -> int:
    """Pictures of a class that are in a lane."""
    return len(lane.waiting[bulk]) + lane.preparing[bulk] + len(lane.ready[bulk]) + len(lane.running[bulk])


def _is_full(lane: BatchBucket) -> bool:
    """Whether one more must wait for a seat."""
    return _num_images(lane, False) + _num_images(lane, True) >= lane.cap


class QueueFull(Exception):
    """Too much waits, or the picture would not be ready in time."""

    def __init__(self, retry_after_s: float) -> None:
        """Say when to come back."""
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[QueueFull], tuple[float]]:
        return QueueFull, (self.retry_after_s,)


class DeadlineExceeded(Exception):
    """Not drawn within `timeout_s`, or it takes longer than that even alone."""
