"""The turns at one host: how many requests at once, how long between two, how long a pause; and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, field

MIN_BACKOFF_S, MAX_BACKOFF_S = 0.25, 10.0  # of a host that is overloaded and names no time; doubles in between
SLOT_TENURE_S = 1.0  # how long a slot stays with its holder while more wait than there are slots


@dataclass
class HostSlots:
    """Slots of a host, held by direct visitors (holder "") and by workers that share them out among their own."""

    slots: int
    gap_s: float = 0.0
    held: dict[str, int] = field(default_factory=dict)  # holder -> slots; never more than `slots` in all
    wanted: dict[str, int] = field(default_factory=dict)  # holder -> slots it could use, who waits longest first
    since: dict[str, float] = field(default_factory=dict)  # holder -> when its turn began
    ready_at: float = 0.0  # no request may start before, in monotonic seconds
    paused_until: float = 0.0  # the part of it that the host itself asked for
    pauses: int = 0  # in a row

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self.slots - sum(self.held.values())

    def take(self, holder: str, number: int = 1) -> None:
        """Give free slots to a holder."""
        assert 0 < number <= self.free
        self.held[holder] = self.held.get(holder, 0) + number

    def give_back(self, holder: str, number: int = 1) -> None:
        """Slots of a holder are free again."""
        left = self.held.pop(holder, 0) - number
        if left > 0:
            self.held[holder] = left

    def answered(self, status: int | None, retry_after_s: float, now: float) -> None:
        """Learn from an answer: an overloaded host gets a pause, as long as it asks for, or longer each time."""
        if status in (429, 503) or retry_after_s:
            if now >= self.ready_at:  # else it answers requests that were under way when its pause began
                self.pauses += 1
            pause_s = retry_after_s or min(MIN_BACKOFF_S * 2 ** min(self.pauses - 1, 10), MAX_BACKOFF_S)
            self.paused_until = max(self.paused_until, now + pause_s)
        elif status is not None and status < 500 and now >= self.ready_at:
            self.pauses = 0
        self.ready_at = max(self.ready_at, self.paused_until, now + self.gap_s)

    def share(self, holder: str, held: int, wanted: int, now: float) -> int:
        """Slots that a worker may use from now on; with fewer than it holds, it lets the rest go as they come free.

        Args:
            holder: Who asks.
            held: Slots it still holds.
            wanted: Slots it has work for, those it holds included.
            now: Monotonic seconds.
        """
        self.give_back(holder, self.held.get(holder, 0) - held)
        if wanted or self.held.get(holder):
            self.wanted[holder] = wanted
            self.since.setdefault(holder, now)
        else:
            self.forget(holder)
        self._pass_on(now)
        had = self.held.get(holder, 0)
        may = min(self._fair().get(holder, 0), had + self.free) if not self.gap_s else 0
        if may > had:
            if not had:
                self.since[holder] = now
            self.take(holder, may - had)
        return may

    def expect(self, holder: str, wanted: int) -> None:
        """Count a holder's wish when slots are shared out."""
        if wanted:
            self.wanted[holder] = wanted
        else:
            self.wanted.pop(holder, None)

    def forget(self, holder: str) -> None:
        """A holder has gone, with all it held."""
        for known in (self.held, self.wanted, self.since):
            known.pop(holder, None)

    def _pass_on(self, now: float) -> None:
        """Send holders whose turn is over to the end of the queue, if more wait than there are slots."""
        if sum(wanted > 0 for wanted in self.wanted.values()) > self.slots:
            for holder in [h for h in self.since if self.held.get(h) and now - self.since[h] >= SLOT_TENURE_S]:
                self.wanted[holder] = self.wanted.pop(holder)
                self.since[holder] = now

    def _fair(self) -> dict[str, int]:
        """Even shares, {holder: slots}; what one does not want goes to the others, first come first."""
        shares, left = dict.fromkeys(self.wanted, 0), self.slots
        while left and (hungry := [h for h, wanted in self.wanted.items() if shares[h] < wanted]):
            for holder in hungry[:left]:
                shares[holder] += 1
            left -= len(hungry[:left])
        return shares
