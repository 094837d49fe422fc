"""The share of a step in which ranks exchange data: one step in a thousand is traced, its collectives added up."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from emoji_ldm.model.torch_compat import profiled_intervals
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.metrics.step_profiler import COMMUNICATION, union_s

# The first steps allocate memory and choose kernels. To trace a step costs up to a second, hence so seldom.
FIRST_SAMPLE, SAMPLE_EVERY = 3, 1000


class CommunicationSampler:
    """Measures on rank 0 of several; the time in which it waits for slower ranks counts."""

    def __init__(self, ranks: DistributedContext) -> None:
        self.share: float | None = None  # of the step that was traced last
        self._device, self._samples, self._step = ranks.device, ranks.is_main and ranks.world_size > 1, 0
        self._profile: Any = None
        self._began = 0.0

    def begin_step(self, *, busy: bool) -> None:
        """Begin to trace if the step is one of those; `busy` says that another trace is being made."""
        self._step += 1
        if not self._samples or busy or self._step % SAMPLE_EVERY != FIRST_SAMPLE:
            return
        # Of a GPU only the kernels are of interest, which are far fewer than what the host does.
        on_gpu = self._device.type == "cuda"
        self._profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
        self._profile.__enter__()
        self._began = self._now()

    def end_step(self) -> None:
        """End the trace of the step, if there is one."""
        if self._profile is None:
            return
        seconds, found = self._now() - self._began, self._profile
        self._profile = None
        found.__exit__(None, None, None)
        exchanged = union_s(
            (first, end) for name, first, end in profiled_intervals(found)
            if any(part in name.lower() for part in COMMUNICATION)
        )  # fmt: skip
        self.share = min(1.0, exchanged / max(seconds, 1e-9))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.monotonic()
