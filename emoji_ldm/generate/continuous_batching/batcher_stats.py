"""What a batcher does, in numbers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from emoji_ldm.generate.continuous_batching.admission_control import predict_drain_s
from emoji_ldm.generate.continuous_batching.batch_scheduler import PRIORITY_CLASSES, BatchBucket, PendingImage
from emoji_ldm.generate.warmup import LoadedModel

FINAL_STATES = ("drawn", "cancelled", "expired", "failed")


@dataclass(frozen=True)
class BatcherStats:
    """Counters since the start, and gauges; those by class have the keys of CLASSES."""

    queued: Mapping[str, int]  # pictures that wait, prepared or not
    running: Mapping[str, int]  # rows in flight
    finishing: int  # pictures and previews that wait to be decoded
    row_steps: Mapping[str, int]  # steps to go, of all that wait or run
    oldest_s: Mapping[str, float]  # age of the one that waits longest
    rows_per_forward: Mapping[int, int]  # ticks by pictures in them
    tick_s: Mapping[int, float]  # seconds spent in them
    row_steps_per_s: float  # of a full tick, as measured lately
    cap: int  # pictures of a full tick
    pack_s: float  # time that packing a picture takes, as measured lately
    drain_s: float  # predicted time until all that are here are drawn
    drawn: int
    cancelled: int
    refused: int
    expired: int
    failed: int


class BatcherCounters:
    """Counters of a batcher."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.refused = 0
        self._ticks: Counter[int] = Counter()
        self._tick_s: defaultdict[int, float] = defaultdict(float)

    def tick(self, num_rows: int, seconds: float) -> None:
        """Count a tick."""
        self._ticks[num_rows] += 1
        self._tick_s[num_rows] += seconds

    def stats(self, lanes: Iterable[BatchBucket], cast: LoadedModel, finishing: int, pack_s: float) -> BatcherStats:
        """The counters, and what is seen in the lanes now; `cast` is the one whose speed is told."""
        lanes = list(lanes)
        full_s = cast.profile.seconds(cast.engine.cost(cast.cap, cast.cap, cast.stages.model.latent_shape))
        queued = _by_class(lanes, lambda lane, bulk: sum(1 for _ in _waiting_images(lane, bulk)) + lane.preparing[bulk])
        running = _by_class(lanes, lambda lane, bulk: len(lane.running[bulk]))
        to_pack = sum(queued.values()) + sum(running.values()) + finishing
        return BatcherStats(
            queued,
            running,
            finishing,
            _by_class(lanes, lambda lane, bulk: lane.waiting[bulk].steps + lane.steps_left(bulk)),
            _oldest_s(lanes),
            dict(self._ticks),
            dict(self._tick_s),
            cast.cap / full_s,
            cast.cap,
            pack_s,
            max(predict_drain_s(lanes), to_pack * pack_s),
            refused=self.refused,
            **{name: self.ends[name] for name in FINAL_STATES},
        )


def _by_class(lanes: list[BatchBucket], count: Callable[[BatchBucket, bool], int]) -> dict[str, int]:
    return {name: sum(count(lane, bool(bulk)) for lane in lanes) for bulk, name in enumerate(PRIORITY_CLASSES)}


def _waiting_images(lane: BatchBucket, bulk: bool) -> Iterable[PendingImage]:
    return chain(lane.waiting[bulk], lane.ready[bulk])


def _oldest_s(lanes: list[BatchBucket]) -> dict[str, float]:
    now = time.monotonic()
    return {
        name: max((now - ticket.began for lane in lanes for ticket in _waiting_images(lane, bool(bulk))), default=0.0)
        for bulk, name in enumerate(PRIORITY_CLASSES)
    }
