"""Slots of one host: how many requests at once, the interval between two, pauses, and who holds which slots.

A slot is the right to one request in flight. Requests that the rate limiter admits one by one hold slots under the
holder "". Workers hold several slots at a time and use them for their own requests without asking again. Slots are
shared by max-min fairness: every holder gets an even share, and what one does not need goes to the others. While more
holders wait than there are slots, each keeps its slots for `SLOT_TENURE_S` and then moves to the end of the queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emoji_ldm.crawl.politeness.request_permits import NO_ANSWER

# Pause of a host that is overloaded and sends no Retry-After; it doubles from the first value to the second.
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.25, 10.0
MAX_HOST_PAUSE_S = 60.0  # a host that asks for a longer pause, or for pauses of this length in all, is given up for now
GIVE_UP_S = 300.0  # so long is a host left alone that answered only overload, or not at all, for `MAX_HOST_PAUSE_S`
SLOT_TENURE_S = 1.0
# A request reaches its server some time after its permit (a connection is opened first). So much of its duration is
# taken for the way there, so that the server never sees a shorter interval than the one that was asked for.
MAX_LATENCY_S = 0.1


@dataclass
class HostSlots:
    """The slots of a host and their holders."""

    slots: int
    min_interval_s: float = 0.0  # between the starts of two requests: a rate
    delay_s: float = 0.0  # between the end of a request and the start of the next one: a Crawl-delay, read strictly
    held: dict[str, int] = field(default_factory=dict)  # {holder: slots}; never more than `slots` in all
    wanted: dict[str, int] = field(default_factory=dict)  # {holder: slots it could use}, longest waiting first
    since: dict[str, float] = field(default_factory=dict)  # {holder: when its tenure began}
    ready_at: float = 0.0  # monotonic seconds before which no request may start
    paused_until: float = 0.0  # the part of it that the host itself asked for
    num_backoffs: int = 0  # in a row
    overloaded_since: float | None = None  # the first of these
    silent_since: float | None = None  # the first of the requests in a row without any answer
    silent_at: float = 0.0  # the last of them

    @property
    def is_spaced(self) -> bool:
        """Whether time must pass between two requests, which are then made one at a time."""
        return self.min_interval_s > 0 or self.delay_s > 0

    @property
    def free(self) -> int:
        """Slots without a holder."""
        return self.slots - sum(self.held.values())

    def acquire(self, holder: str, number: int = 1) -> None:
        """Give free slots to a holder."""
        assert 0 < number <= self.free
        self.held[holder] = self.held.get(holder, 0) + number

    def release(self, holder: str, number: int = 1) -> None:
        """Take slots back from a holder."""
        left = self.held.pop(holder, 0) - number
        if left > 0:
            self.held[holder] = left

    def record_response(self, status: int | None, retry_after_s: float, now: float) -> None:
        """Adapt to a response: an overloaded host gets the pause that it asks for, or one that doubles each time.

        A host that does nothing else for `MAX_HOST_PAUSE_S` is paused for `GIVE_UP_S`: requests do not wait for it.
        Neither do they for one that does not answer at all, since each would wait until its own timeout.
        """
        if status == NO_ANSWER:
            # After a long time without any request, a series begins anew.
            if self.silent_since is None or now - self.silent_at > GIVE_UP_S:
                self.silent_since = now
            self.silent_at = now
            if now - self.silent_since > MAX_HOST_PAUSE_S:
                self.paused_until, self.silent_since = max(self.paused_until, now + GIVE_UP_S), None
        elif status is not None:
            self.silent_since = None
        if status in (429, 503) or retry_after_s:
            # Responses to requests that were in flight when the pause began say nothing new.
            if now >= self.ready_at:
                self.num_backoffs += 1
            if self.overloaded_since is None or now - self.paused_until > GIVE_UP_S:
                self.overloaded_since = now
            pause_s = retry_after_s or min(MIN_BACKOFF_S * 2 ** min(self.num_backoffs - 1, 10), MAX_BACKOFF_S)
            self.paused_until = max(self.paused_until, now + pause_s)
            if self.paused_until - self.overloaded_since > MAX_HOST_PAUSE_S:
                self.paused_until, self.overloaded_since = max(self.paused_until, now + GIVE_UP_S), None
        elif status and status < 500 and now >= self.ready_at:
            self.record_recovery()
        self.ready_at = max(self.ready_at, self.paused_until)

    def record_recovery(self) -> None:
        """Forget earlier overloads: a request that began after the last pause got a good response."""
        self.num_backoffs, self.overloaded_since, self.silent_since = 0, None, None

    def finish_request(self, began: float, now: float) -> None:
        """Set when the next request may start, after one that was admitted at `began`."""
        reached_at = min(began + MAX_LATENCY_S, now)
        self.ready_at = max(self.ready_at, reached_at + self.min_interval_s, now + self.delay_s)

    def request_slots(self, holder: str, held: int, wanted: int, now: float) -> int:
        """Return how many slots a worker may use from now on.

        A worker that gets fewer than it holds returns the others as their requests finish.

        Args:
            holder: The worker.
            held: Slots that it still holds.
            wanted: Slots that it has work for, including those it holds.
            now: Monotonic seconds.
        """
        # The worker knows best what it holds: slots that it returned since the last call are free now.
        self.release(holder, self.held.get(holder, 0) - held)
        if wanted or self.held.get(holder):
            self.wanted[holder] = wanted
            self.since.setdefault(holder, now)
        else:
            self.drop_worker(holder)
        self._rotate_tenures(now)
        had = self.held.get(holder, 0)
        # With an interval between requests, one request at a time is admitted by the rate limiter itself.
        granted = min(self._fair_shares().get(holder, 0), had + self.free) if not self.is_spaced else 0
        if granted > had:
            if not had:
                self.since[holder] = now
            self.acquire(holder, granted - had)
        return granted

    def set_demand(self, holder: str, wanted: int) -> None:
        """Count a holder's demand when slots are shared."""
        if wanted:
            self.wanted[holder] = wanted
        else:
            self.wanted.pop(holder, None)

    def drop_worker(self, holder: str) -> None:
        """Forget a holder and free all its slots."""
        for by_holder in (self.held, self.wanted, self.since):
            by_holder.pop(holder, None)

    def _rotate_tenures(self, now: float) -> None:
        """Move holders whose tenure is over to the end of the queue, if more want slots than there are."""
        if sum(wanted > 0 for wanted in self.wanted.values()) > self.slots:
            for holder in [h for h in self.since if self.held.get(h) and now - self.since[h] >= SLOT_TENURE_S]:
                # Dictionaries keep the order of insertion: removed and added again, the holder is the last one.
                self.wanted[holder] = self.wanted.pop(holder)
                self.since[holder] = now

    def _fair_shares(self) -> dict[str, int]:
        """Compute max-min fair shares {holder: slots}; the longest waiting get what cannot be divided."""
        shares, left = dict.fromkeys(self.wanted, 0), self.slots
        # Each round gives one slot to every holder that wants more.
        while left and (unsatisfied := [h for h, wanted in self.wanted.items() if shares[h] < wanted]):
            for holder in unsatisfied[:left]:
                shares[holder] += 1
            left -= len(unsatisfied[:left])
        return shares


def left_alone_reason(pause_s: float) -> str:
    """Return why a URL was not requested: its host is paused for so many seconds more."""
    return f"its host is overloaded or does not answer, and is left alone for {pause_s:.0f} s more"
