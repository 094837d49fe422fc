"""The choice of the rows that the next tick advances.

A tick advances rows of one bucket (one model, one latent shape), so three questions come up at every tick:

- Which class? Interactive images go before bulk images. Bulk images fill the slots that interactive ones leave free,
  and are guaranteed a tenth of the row slots while both classes have work, so that a bulk job always progresses.
- Which bucket? Deficit round robin (Shreedhar & Varghese, 1995), in seconds: every bucket earns its share of the time
  that passes, the bucket with the largest deficit runs, and pays for its tick. Shares come from the tenants: each
  tenant has the same share of the time, spread over its buckets by the time that its rows take there. So all rows of a
  tenant advance equally often; by their number alone, a large image would wait for many ticks of small ones.
- Which rows? Rows that run stay in the batch until they are done; the longest waiting ready rows take free slots.
  A running row pauses, with all its state, only while the other class has the tick to itself.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator

from emoji_ldm.generate.continuous_batching.batch_bucket import BatchBucket, PendingImage
from emoji_ldm.generate.request import LatentShape
from emoji_ldm.generate.warmup import LoadedModel

PRIORITY_CLASSES = ("interactive", "bulk")
BOTH_CLASSES = (False, True)  # values of `bulk`
BULK_SHARE = 0.1  # guaranteed share of the row slots for bulk images
# The latency of a bucket with a tiny share is bounded: after so long without a tick it is next, whatever its share.
MAX_IDLE_S = 10.0


class BatchScheduler:
    """All buckets, and which of them is next; not thread-safe."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[LoadedModel, LatentShape], BatchBucket] = {}
        self._bulk_deficit = 0.0  # ticks that bulk images are owed

    def __iter__(self) -> Iterator[BatchBucket]:
        """Every bucket."""
        return iter(self._buckets.values())

    def bucket(self, model: LoadedModel, shape: LatentShape) -> BatchBucket:
        """The bucket of a model and shape, created if there is none."""
        # The loaded model is part of the key by identity, so images that were requested before a swap of weights stay
        # in buckets of the old model.
        key = (model, shape)
        if key not in self._buckets:
            self._buckets[key] = BatchBucket(model, shape, model.shape_profile(shape))
        return self._buckets[key]

    def drop_finished(self) -> None:
        """Remove rows that have ended, and buckets that are empty."""
        for key, bucket in list(self._buckets.items()):
            bucket.drop_ended()
            if bucket.is_empty:
                # The engine would keep the stacked tensors of the last rows of this shape, and with them the memory.
                bucket.model.engine.evict(bucket.shape)
                del self._buckets[key]

    def next_to_prepare(self, max_images: int) -> list[PendingImage]:
        """Take up to `max_images` waiting images of one bucket that are to be encoded next; empty if none are."""
        for bulk in BOTH_CLASSES:
            buckets = [bucket for bucket in self if bucket.needs_preparing(bulk)]
            if buckets:
                # The bucket with the fewest runnable rows would run dry first.
                bucket = min(buckets, key=lambda bucket: bucket.num_runnable(bulk))
                free = bucket.max_batch - len(bucket.ready[bulk]) - bucket.preparing[bulk]
                count = min(max_images, len(bucket.waiting[bulk]), free)
                bucket.preparing[bulk] += count
                return [bucket.waiting[bulk].pop() for _ in range(count)]
        return []

    @property
    def has_work_to_prepare(self) -> bool:
        """Whether any image is to be encoded."""
        return any(bucket.needs_preparing(bulk) for bucket in self for bulk in BOTH_CLASSES)

    def has_runnable(self, classes: Collection[bool] = BOTH_CLASSES) -> bool:
        """Whether a tick could advance a row of these classes."""
        return any(bucket.num_runnable(bulk) for bucket in self for bulk in classes)

    def next_batch(self, classes: Collection[bool] = BOTH_CLASSES) -> tuple[BatchBucket, list[PendingImage]]:
        """The bucket of the next tick and its images. There must be a runnable row of these classes."""
        has_interactive, has_bulk = (self.has_runnable({bulk} & set(classes)) for bulk in BOTH_CLASSES)
        # Bulk images get a tick of their own when nobody else needs it, or when a whole tick is owed to them.
        bulk = has_bulk and (not has_interactive or self._bulk_deficit >= 1)
        bucket = self._next_bucket(bulk)
        batch = bucket.next_batch(bulk, fill_up=len(classes) > 1)
        if has_interactive and has_bulk:
            # Slots that bulk images got for filling up a tick count towards their share. The bounds limit what
            # accumulates: at most two ticks in a row go to bulk images, and slots that they took while many were free
            # do not count against them later.
            share = sum(pending.bulk for pending in batch) / bucket.max_batch
            self._bulk_deficit = min(2.0, max(0.0, self._bulk_deficit + BULK_SHARE - share))
        return bucket, batch

    def _next_bucket(self, bulk: bool) -> BatchBucket:
        """Choose by deficit, and book the tick: everybody earns a share of it, the chosen bucket pays for it."""
        shares = self._shares(bulk)
        oldest, now = min(shares, key=lambda bucket: bucket.last_stepped_at), time.monotonic()
        # What each bucket would earn by a tick of its own is added first: all new buckets have a deficit of 0, and the
        # one with the larger share is due first then.
        chosen = max(shares, key=lambda bucket: bucket.deficit_s + shares[bucket] * bucket.full_tick_s)
        # Deficits rely on predictions; this bound holds even if those are wrong.
        if now - oldest.last_stepped_at > MAX_IDLE_S:
            chosen = oldest
        # Shares sum to 1, so what all buckets earn together equals what the chosen one pays: the deficits neither grow
        # nor shrink in total.
        for bucket, share in shares.items():
            bucket.deficit_s += share * chosen.full_tick_s
        chosen.deficit_s -= chosen.full_tick_s
        chosen.last_stepped_at = now
        return chosen

    def _shares(self, bulk: bool) -> dict[BatchBucket, float]:
        """Shares of the time, which sum to 1, of the buckets that could run a row of a class."""
        rows = {bucket: bucket.runnable_by_tenant(bulk) for bucket in self if bucket.num_runnable(bulk)}
        total_s = defaultdict[str, float](float)
        for bucket, tenants in rows.items():
            for tenant, count in tenants.items():
                total_s[tenant] += count * bucket.row_s
        # Each of the T tenants has 1 / T of the time. A tenant with all its rows in one bucket gives that bucket its
        # whole share; one with rows in several gives each in proportion.
        return {bucket: sum(count * bucket.row_s / total_s[tenant] for tenant, count in tenants.items()) / len(total_s)
                for bucket, tenants in rows.items()}  # fmt: skip
