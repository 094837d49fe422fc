"""What is remembered of refusals, so that nobody need be asked only to refuse again.

A replica alone knows what waits in its queue. But to ask it costs remote calls, and under overload most calls would be
spent on refusals. Whoever stands before it knows how many calls are in flight, and at which number the last one was
refused: while that was a moment ago, what would exceed this number is refused at once. The number grows again with the
time that passes, so a few calls per second are still offered, and tell whether there is room by now.

Ray's proxy (`proxy_refusals`) remembers requests, and the ingress (`replica_router`) the images of all its requests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

# The limit doubles in this time: at 30 in flight one more is offered about every 0.2 s, and after half a minute without
# a refusal there is practically no limit left.
DOUBLING_S = 4.0
LONGEST_MEMORY_S = 30.0
MAX_MEMORIES = 256  # before idle ones are forgotten

KeyT = TypeVar("KeyT", bound=Hashable)
AnswerT = TypeVar("AnswerT")


class RefusalMemory(Generic[AnswerT]):
    """The calls of one kind that are in flight, and how the last refusal was put; not thread-safe."""

    def __init__(self) -> None:
        """Start without any refusal."""
        self.in_flight = 0
        self._limit, self._refused_at = math.inf, -math.inf
        self._refusal: AnswerT | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not self.in_flight and time.monotonic() - self._refused_at > LONGEST_MEMORY_S

    def known_refusal(self) -> AnswerT | None:
        """How one more call would be refused; None if it is worth asking."""
        elapsed_s = time.monotonic() - self._refused_at
        has_room = elapsed_s > LONGEST_MEMORY_S or self.in_flight < int(self._limit * 2 ** (elapsed_s / DOUBLING_S))
        return None if has_room else self._refusal

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a call while the block runs."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def note_refusal(self, refusal: AnswerT) -> None:
        """Remember that a call that is counted now was refused."""
        # One less than were in flight; one at least, as a lone image is always accepted.
        self._limit, self._refused_at, self._refusal = max(1, self.in_flight - 1), time.monotonic(), refusal


class RefusalMemories(Generic[KeyT, AnswerT]):
    """A memory for each kind of call."""

    def __init__(self) -> None:
        """Start without any."""
        self._memories: dict[KeyT, RefusalMemory[AnswerT]] = {}
        self._max_memories = MAX_MEMORIES

    def __len__(self) -> int:
        """Number of kinds that are remembered."""
        return len(self._memories)

    def of(self, key: KeyT) -> RefusalMemory[AnswerT]:
        """The memory of a kind of call."""
        if key not in self._memories and len(self._memories) >= self._max_memories:
            self._memories = {each: memory for each, memory in self._memories.items() if not memory.is_idle}
            # Looked through again only once there are twice as many, so that a caller of ever new kinds costs no time.
            self._max_memories = max(MAX_MEMORIES, 2 * len(self._memories))
        return self._memories.setdefault(key, RefusalMemory())
