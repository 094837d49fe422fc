"""Counters and gauges of a batcher, for metrics, autoscaling and benchmarks."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from emoji_ldm.generate.continuous_batching.admission_control import predict_drain_s
from emoji_ldm.generate.continuous_batching.batch_bucket import BatchBucket, PendingImage
from emoji_ldm.generate.continuous_batching.batch_scheduler import PRIORITY_CLASSES
from emoji_ldm.generate.warmup import LoadedModel

FINAL_STATES = ("drawn", "cancelled", "expired", "failed")  # also names of exported metrics


@dataclass(frozen=True)
class BatcherStats:
    """Counters since the start, and gauges. Mappings by class have the keys of PRIORITY_CLASSES."""

    queued: Mapping[str, int]  # images that wait, encoded or not
    running: Mapping[str, int]  # rows in the batch
    finishing: int  # images and previews that wait for decoding
    row_steps: Mapping[str, int]  # steps left of all images that wait or run
    oldest_s: Mapping[str, float]  # age of the image that waits longest
    rows_per_forward: Mapping[int, int]  # ticks by their number of images
    tick_s: Mapping[int, float]  # seconds in ticks by their number of images
    row_steps_per_s: float  # of a full tick, as measured recently
    max_batch: int  # images of a full tick
    encode_s: float  # seconds to decode an image and encode it as PNG, as measured recently
    drain_s: float  # predicted time until everything that is pending now is done
    drawn: int
    cancelled: int
    refused: int
    expired: int
    failed: int


class BatcherCounters:
    """The counters of a batcher; not thread-safe."""

    def __init__(self) -> None:
        self.final_states: Counter[str] = Counter()
        self.refused = 0
        self._ticks: Counter[int] = Counter()
        self._tick_s: defaultdict[int, float] = defaultdict(float)

    def tick(self, num_rows: int, seconds: float) -> None:
        """Count a tick."""
        self._ticks[num_rows] += 1
        self._tick_s[num_rows] += seconds

    def stats(
        self, buckets: Iterable[BatchBucket], model: LoadedModel, finishing: int, encode_s: float
    ) -> BatcherStats:
        """The counters, and the gauges of the buckets as they are now; speeds are those of `model`."""
        buckets = list(buckets)
        shape = model.encoder_decoder.model.latent_shape
        # A full tick of guided images, each of which is two rows: the worst case, so an autoscaler does not
        # overestimate the speed.
        full_tick_s = model.profile.predict_s(model.engine.num_unet_rows(model.max_batch, model.max_batch, shape))
        # An image leaves the queue's list while it is being encoded but still waits for its caller, hence `preparing`.
        queued = _by_class(
            buckets, lambda bucket, bulk: sum(1 for _ in _waiting_images(bucket, bulk)) + bucket.preparing[bulk]
        )
        running = _by_class(buckets, lambda bucket, bulk: len(bucket.running[bulk]))
        num_to_encode = sum(queued.values()) + sum(running.values()) + finishing
        return BatcherStats(
            queued=queued,
            running=running,
            finishing=finishing,
            row_steps=_by_class(
                buckets, lambda bucket, bulk: bucket.waiting[bulk].total_steps + bucket.steps_left(bulk)
            ),
            oldest_s=_oldest_s(buckets),
            rows_per_forward=dict(self._ticks),
            tick_s=dict(self._tick_s),
            row_steps_per_s=model.max_batch / full_tick_s,
            max_batch=model.max_batch,
            encode_s=encode_s,
            # Denoising and encoding run in parallel threads, so the slower of them decides, as in `admission_control`.
            drain_s=max(predict_drain_s(buckets), num_to_encode * encode_s),
            refused=self.refused,
            **{name: self.final_states[name] for name in FINAL_STATES},
        )


def _by_class(buckets: list[BatchBucket], count: Callable[[BatchBucket, bool], int]) -> dict[str, int]:
    # The position of a class's name in PRIORITY_CLASSES is its value of `bulk`.
    return {name: sum(count(bucket, bool(bulk)) for bucket in buckets) for bulk, name in enumerate(PRIORITY_CLASSES)}


def _waiting_images(bucket: BatchBucket, bulk: bool) -> Iterable[PendingImage]:
    return chain(bucket.waiting[bulk], bucket.ready[bulk])


def _oldest_s(buckets: list[BatchBucket]) -> dict[str, float]:
    now = time.monotonic()
    return {
        name: max(
            (now - pending.submitted_at for bucket in buckets for pending in _waiting_images(bucket, bool(bulk))),
            default=0.0,
        )
        for bulk, name in enumerate(PRIORITY_CLASSES)
    }
