"""How long each stage of a run takes and how much memory its processes hold, for the report."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from emoji_ldm.config import Config
from emoji_ldm.store import Store

# A peak that is shorter than this may be missed; sampling more often would cost a noticeable share of a core.
SAMPLE_EVERY_S = 1.0


@contextmanager
def measure_stage(config: Config, stage: str) -> Iterator[dict[str, Any]]:
    """Measure the block; the entries of the yielded dict are stored beside seconds and peak memory.

    Peak memory is the proportional set size (shared pages counted once) of this process and
    all its descendants: everything of a local Ray, on a cluster only the driver.
    """
    facts: dict[str, Any] = {}
    # A list of one number is what two threads share here: a float could not be changed in place.
    peak, stop = [0.0], threading.Event()
    sampler = threading.Thread(target=_sample, args=(peak, stop), daemon=True)
    sampler.start()
    began = time.time()
    try:
        yield facts
    finally:
        stop.set()
        sampler.join()
    # Reached only if the block raised nothing: the report shows stages that ended well.
    facts |= {"stage": stage, "seconds": time.time() - began, "peak_mb": peak[0], "began": began}
    # The time in the name keeps every run of a stage, and sorts them.
    name = f"{int(began * 1000)}-{stage}.json"
    Store(config.store).write(json.dumps(facts, default=str).encode(), "runs", config.run, "stages", name)


def _sample(peak: list[float], stop: threading.Event) -> None:
    """Sample until stopped.

    Exact sizes make the kernel walk over all pages of a process: they are taken only if the cheap resident size, which
    counts shared pages once per process, has grown.
    """
    highest = 0.0
    while True:
        own = psutil.Process()
        tree = [own, *own.children(recursive=True)]
        # 3 % keep noise from triggering the expensive measurement at every sample.
        if (resident := sum(map(_resident_mb, tree))) > highest * 1.03:
            highest = resident
            peak[0] = max(peak[0], sum(map(_pss_mb, tree)))
        if stop.wait(SAMPLE_EVERY_S):
            return


def _resident_mb(process: psutil.Process) -> float:
    """Return the resident size in MB; 0 for a process that has ended meanwhile."""
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


def _pss_mb(process: psutil.Process) -> float:
    """Return the proportional set size in MB; 0 for a process that has ended meanwhile."""
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0
