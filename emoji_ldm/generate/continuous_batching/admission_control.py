"""Admission control: refuse a request at once if it would wait too long, instead of letting it time out in the queue.

Work on an image that nobody waits for any more is lost for everybody else. Under overload a server without admission
control therefore collapses: every image is finished just too late. So the wait of a new image is predicted from the
state of the buckets and the measured time of a tick, and the image is refused with `QueueFull` if the prediction
exceeds its deadline. The prediction treats a bucket as a machine with `max_batch` slots. A free slot means no wait.
Otherwise the steps that are ahead in the queue are filled into the slots as water fills a vessel with an uneven floor:
the slot with the fewest steps left takes them first, and the level that they reach is the tick at which the new image
starts. Meanwhile other buckets take their share of the time, for what they hold and for what still comes to them, at
the rate at which they admitted work lately: one that is filled up as fast as it drains never gets out of the way.

Three further rules:

- A lone request is always admitted, however bad the prediction, since only running ticks can correct it.
- All images have the same limit on their wait for a slot: the time-out less what the longest recent image takes. With a
  limit of its own each, short images, which can wait longer, would keep the queue so full that long ones never fit.
- A named tenant may fill only part of the queue.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from emoji_ldm.generate.continuous_batching.batch_bucket import BatchBucket, PendingImage
from emoji_ldm.generate.continuous_batching.batch_scheduler import BULK_SHARE
from emoji_ldm.generate.request import LatentShape

MAX_TENANT_SHARE = 0.75  # of the queue, for one named tenant
WAIT_SAFETY_FACTOR = 0.9  # of the allowed wait, since predictions are not exact
ARRIVALS_WINDOW_S = 10.0  # over which the rate of admitted work is averaged
MIN_LOAD = 0.001  # share of the time, below which past arrivals are forgotten
ARRIVAL_ROUNDS = 20  # of the fixed point below; each round adds the arrivals of the time that the round before added
MAX_RESERVED_SHARE = 0.75  # of the time-out, at most, is reserved for the steps of the longest recent image
NUM_RECENT = 64  # requests that count as recent

BucketKey = tuple[int, LatentShape, bool]  # of a bucket and a class


class QueueFull(Exception):
    """Too many images wait, or this one would not be ready by its deadline."""

    def __init__(self, retry_after_s: float) -> None:
        """State after how many seconds a new attempt makes sense."""
        super().__init__(f"try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[QueueFull], tuple[float]]:
        # The default pickles `args`, the message, and would pass it as the number when the exception crosses processes.
        return QueueFull, (self.retry_after_s,)


class DeadlineExceeded(Exception):
    """The image was not ready within its time-out, or would not be even without any other image."""


class AdmissionControl:
    """Decides whether a new image may join the queue; not thread-safe."""

    def __init__(self) -> None:
        # Of recent requests with a time-out: (seconds that the image takes in a full batch, time-out). A bounded
        # window, so that one unusually long image does not lower everybody's limit for ever.
        self._recent = deque[tuple[float, float]](maxlen=NUM_RECENT)
        self._arrivals = Arrivals()

    def check(
        self, pending: PendingImage, buckets: Collection[BatchBucket], *, max_queued: int, encode_s: float, idle: bool
    ) -> None:
        """Return if an image may wait.

        Args:
            pending: The new image; it is in no queue yet.
            buckets: All buckets, its own among them.
            max_queued: The largest number of waiting images per class.
            encode_s: Measured seconds that decoding an image and encoding it as PNG takes.
            idle: Whether no other image is pending.

        Raises:
            QueueFull: It has to come back later.
            DeadlineExceeded: It takes longer than its time-out even alone.
        """
        # Limits count the images of the same class in all buckets: a tenant must not get round them by spreading its
        # requests over models or sizes.
        queues = [bucket.waiting[pending.bulk] for bucket in buckets]
        num_waiting = sum(map(len, queues))
        num_own = sum(queue.count(pending.tenant) for queue in queues)
        wait_s = 0.0 if idle else _wait_s(pending, buckets, self._arrivals, encode_s)
        pending.predicted_s = wait_s or predict_alone_s(pending)
        excess_s = -math.inf if idle else self._excess_wait_s(pending, wait_s)
        # Requests without a tenant have no owner whom a share could be given to, so only the limit of the whole queue
        # holds for them. max(1, ...) lets a tenant wait with one image even where the queue is tiny.
        too_many = bool(pending.tenant) and num_own >= max(1, MAX_TENANT_SHARE * max_queued)
        if num_waiting >= max_queued or too_many or excess_s > 0:
            # Where the wait is too long, the excess is the time after which it is not. Where the queue is full, a place
            # becomes free after about the time of one image.
            raise QueueFull(max(1.0, excess_s if excess_s > 0 else wait_s / max(1, num_waiting)))
        self._arrivals.add(pending)

    def _excess_wait_s(self, pending: PendingImage, wait_s: float) -> float:
        """By how many seconds the wait for a slot would exceed its limit; negative if it would not."""
        timeout_s = pending.deadline - pending.submitted_at
        if timeout_s == math.inf:
            return -math.inf
        # Coming back later would not help this image, so it gets another error than QueueFull, which invites a retry.
        if predict_alone_s(pending) > timeout_s:
            raise DeadlineExceeded(
                f"{pending.steps} steps of this size take longer than {timeout_s:.1f} s; ask for less"
            )
        # The wait for a slot is the predicted wait less the image's own steps in a full batch.
        own_s = min(wait_s, pending.steps * pending.bucket.full_tick_s)
        self._recent.append((own_s, timeout_s))
        # Maxima over recent requests, so that all images have the same limit on their wait for a slot.
        reserved = max(own_s for own_s, _ in self._recent) / max(timeout_s for _, timeout_s in self._recent)
        limit_s = min(timeout_s - own_s, (1 - min(MAX_RESERVED_SHARE, reserved)) * timeout_s)
        return wait_s - own_s - WAIT_SAFETY_FACTOR * limit_s


class Arrivals:
    """How much of the time the work takes that was admitted lately, per bucket, as exponentially weighted averages.

    A bucket that runs empty is removed, and one that comes again soon is a new one: so this is not kept in the bucket.
    """

    def __init__(self) -> None:
        """Start without arrivals."""
        # Load at a time, that time, and the seconds of a full tick.
        self._loads: dict[BucketKey, tuple[float, float, float]] = {}

    def add(self, pending: PendingImage) -> None:
        """Count an image that was admitted."""
        bucket, now = pending.bucket, pending.submitted_at
        load, at, _ = self._loads.get(_key(bucket, pending.bulk), (0.0, now, 0.0))
        tick_s = bucket.predict_tick_s(bucket.max_batch, bucket.max_batch if pending.is_guided else 0)
        work_s = pending.steps * tick_s / bucket.max_batch
        load = load * _fading(now - at) + work_s / ARRIVALS_WINDOW_S
        self._loads[_key(bucket, pending.bulk)] = load, now, bucket.full_tick_s

    def of_others(self, pending: PendingImage) -> Iterator[tuple[BucketKey, float, float]]:
        """Key, seconds of work that came a second, and seconds of a full tick, of every other bucket of its class."""
        own = _key(pending.bucket, pending.bulk)
        for key, (load, at, full_tick_s) in list(self._loads.items()):
            load *= _fading(pending.submitted_at - at)
            if load < MIN_LOAD:
                del self._loads[key]
            elif key != own and key[-1] == pending.bulk:
                yield key, load, full_tick_s


def _key(bucket: BatchBucket, bulk: bool) -> BucketKey:
    # The model's identity as a number, as a reference would keep a model that was replaced in the device's memory.
    return id(bucket.model), bucket.shape, bulk


def _fading(elapsed_s: float) -> float:
    # Not negative: requests are submitted by many threads, and reach the admission in another order now and then.
    return math.exp(-max(0.0, elapsed_s) / ARRIVALS_WINDOW_S)


def _wait_s(pending: PendingImage, buckets: Collection[BatchBucket], arrivals: Arrivals, encode_s: float) -> float:
    """Predicted time until the PNG file: denoising and PNG encoding overlap, so the slower of the two counts."""
    num_before = sum(
        len(bucket.waiting[bulk]) + bucket.num_runnable(bulk)
        for bucket in buckets
        # The decode thread too serves interactive images first, so bulk images do not count as being before one.
        for bulk in ((False, True) if pending.bulk else (False,))
    )
    return max(predict_wait_s(buckets, pending, arrivals), (num_before + 1) * encode_s)


def predict_wait_s(buckets: Collection[BatchBucket], pending: PendingImage, arrivals: Arrivals | None = None) -> float:
    """Predicted time until the last step of an image that is about to join the queue of its bucket.

    Images that come after it do not delay it in its own bucket, but those of other buckets do: they are expected to
    arrive as before, or not at all without `arrivals`.
    """
    own_s = _own_bucket_wait_s(pending)
    others_s = _others_share_s(pending, own_s, buckets, arrivals or Arrivals())
    if pending.bulk:
        # Interactive images go first, except in this bucket as long as it has free slots to fill up.
        before = [bucket for bucket in buckets if bucket is not pending.bucket or _is_full(bucket)]
        return own_s + others_s + sum(_bucket_drain_s(bucket, False) for bucket in before)
    has_bulk = any(bucket.num_images(True) for bucket in buckets)
    # Bulk images are guaranteed a share of the slots, so interactive work proceeds at what is left of the speed.
    return (own_s + others_s) / (1 - BULK_SHARE if has_bulk else 1)


def _others_share_s(pending: PendingImage, own_s: float, buckets: Collection[BatchBucket], arrivals: Arrivals) -> float:
    """Time that other buckets take while this image's bucket works for `own_s` seconds."""
    bulk, own = pending.bulk, pending.bucket
    own_tick_s = own.row_s * min(own.max_batch, own.num_images(bulk) + 1)
    # They run in proportion to the time that their rows take, but only until they are done.
    now_s = {
        _key(bucket, bulk): min(
            _bucket_drain_s(bucket, bulk),
            own_s * bucket.row_s * min(bucket.max_batch, bucket.num_images(bulk)) / own_tick_s,
        )
        for bucket in buckets
        if bucket is not own
    }
    coming = list(arrivals.of_others(pending))
    # What arrives meanwhile makes it last longer, and more arrives in that time: a fixed point, from below. A bucket
    # that never runs dry takes its share for full ticks, and no more.
    others_s = total_s = sum(now_s.values())
    for _ in range(ARRIVAL_ROUNDS):
        more_s = (
            min(load * (own_s + total_s), max(0.0, own_s * full_tick_s / own_tick_s - now_s.get(key, 0.0)))
            for key, load, full_tick_s in coming
        )
        before_s, total_s = total_s, others_s + sum(more_s)
        if total_s - before_s < 0.01 * own_s:
            break
    return total_s


def predict_alone_s(pending: PendingImage) -> float:
    """Predicted time that an image takes without any other one."""
    return pending.steps * pending.bucket.predict_tick_s(1, 1)


def predict_drain_s(buckets: Collection[BatchBucket]) -> float:
    """Predicted time until the last step of everything that is pending now."""
    return sum(_bucket_drain_s(bucket, bulk) for bucket in buckets for bulk in (False, True))


def _own_bucket_wait_s(pending: PendingImage) -> float:
    """Time until the last step, if there were only the image's own bucket and class."""
    bucket, bulk = pending.bucket, pending.bulk
    rows = bucket.num_images(bulk)
    if rows < bucket.max_batch:
        return pending.steps * bucket.predict_tick_s(rows + 1, rows + 1)
    # Images that are being encoded are in no list of rows; they are assumed to have as many steps as this one.
    steps_left = [*bucket.steps_left_per_image(bulk), *[pending.steps] * bucket.preparing[bulk]]
    # The first rows occupy the slots; whatever does not fit them waits and is served before the new image.
    slots = sorted(steps_left[: bucket.max_batch] + [0] * (bucket.max_batch - len(steps_left)))
    steps_before = sum(steps_left[bucket.max_batch :])
    steps_before += bucket.waiting[bulk].steps_ahead(pending.tenant, pending.steps)
    return (_ticks_until_slot_free(slots, steps_before) + pending.steps) * bucket.full_tick_s


def _ticks_until_slot_free(slots: Sequence[int], steps_before: int) -> float:
    """Ticks until a slot is free for a new image.

    Args:
        slots: Steps left in each slot, ascending.
        steps_before: Steps that are served first, water-filled over the slots: those with the least left take them.
    """
    total = steps_before
    for count, (left, following) in enumerate(zip(slots, [*slots[1:], math.inf], strict=True), 1):
        # With the water in the lowest `count` slots, its level is total / count; it stops below the next slot.
        total += left
        if total <= count * following:
            break
    return total / count


def _bucket_drain_s(bucket: BatchBucket, bulk: bool) -> float:
    """Time until the last step of all images of a class in a bucket, if there were no others."""
    rows = min(bucket.max_batch, bucket.num_images(bulk))
    if not rows:
        return 0.0
    steps_left = bucket.steps_left_per_image(bulk)
    # A row cannot take more than one step per tick, so the longest row is a lower bound, however many slots are free.
    ticks = max(max(steps_left, default=0), (sum(steps_left) + bucket.waiting[bulk].total_steps) / rows)
    return ticks * bucket.predict_tick_s(rows, rows)


def _is_full(bucket: BatchBucket) -> bool:
    """Whether another image would have to wait for a slot."""
    return bucket.num_images(False) + bucket.num_images(True) >= bucket.max_batch
