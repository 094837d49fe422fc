"""What the ingress remembers of refusals, so that it need not ask a replica only to be refused again.

A replica alone knows what waits in its queue. But to ask costs a remote call, and under overload most calls would be
spent on refusals. The ingress knows how many images it has in flight, and at which number the last one was refused:
while that was a moment ago, it refuses at once what would exceed this number. The number grows again with the time
that passes, so a few images per second are still offered to the replicas, and tell whether there is room by now.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from emoji_ldm.serve.backend import Overloaded

# The limit doubles in this time: at 30 images one more is offered about every 50 ms, and after some seconds without a
# refusal there is practically no limit left.
DOUBLING_S = 1.0
LONGEST_MEMORY_S = 30.0


class RefusalMemory:
    """The images of one size that one tenant has in flight at one model; not thread-safe."""

    def __init__(self) -> None:
        """Start without any refusal."""
        self.in_flight = 0
        self._limit, self._retry_after_s, self._refused_at = math.inf, 0.0, -math.inf

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not self.in_flight and time.monotonic() - self._refused_at > LONGEST_MEMORY_S

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count an image while the block runs; raises Overloaded at once if it would be refused.

        The block raises Overloaded if a replica refused the image.
        """
        elapsed_s = time.monotonic() - self._refused_at
        if elapsed_s < LONGEST_MEMORY_S and self.in_flight >= int(self._limit * 2 ** (elapsed_s / DOUBLING_S)):
            raise Overloaded(self._retry_after_s)
        self.in_flight += 1
        try:
            yield
        except Overloaded as refusal:
            # One less than were in flight; one at least, as a lone image is always accepted.
            self._limit, self._retry_after_s = max(1, self.in_flight - 1), refusal.retry_after_s
            self._refused_at = time.monotonic()
            raise
        finally:
            self.in_flight -= 1
