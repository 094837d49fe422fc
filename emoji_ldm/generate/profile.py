"""How long a tick takes by the number of network rows it computes: measured at the start, kept up to date after."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import median

FLAT = 1.05  # a row may cost this much more than one of the fullest tick before a larger batch is worth its wait
RATE = 0.1  # weight of a new measurement


class Profile:
    """Seconds of a tick t(n)."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Begin with measurements, at least one."""
        self._seconds = dict(sorted(seconds.items()))

    def observe(self, rows: int, seconds: float) -> None:
        """Take a measurement in; outliers, such as a pause of the machine, count a little only."""
        before = self._seconds.get(rows)
        if before is None:
            self._seconds = dict(sorted({**self._seconds, rows: seconds}.items()))
        else:
            self._seconds[rows] += RATE * (min(seconds, 3 * before) - before)

    def seconds(self, rows: int) -> float:
        """Predicted seconds of a tick of so many network rows: on the line between the nearest measured sizes."""
        sizes = list(self._seconds)
        place = bisect_left(sizes, rows)
        if place == len(sizes):
            return self._seconds[sizes[-1]] * rows / sizes[-1]
        if sizes[place] == rows or place == 0:
            return self._seconds[sizes[place]]
        low, high = sizes[place - 1], sizes[place]
        share = (rows - low) / (high - low)
        return (1 - share) * self._seconds[low] + share * self._seconds[high]

    def copy(self) -> Profile:
        """As it is now, to go its own way."""
        return self.scaled(1)

    def scaled(self, factor: float) -> Profile:
        """A first guess for larger or smaller pictures."""
        return Profile({rows: factor * seconds for rows, seconds in self._seconds.items()})


def row_cap(rounds: Sequence[Mapping[int, float]]) -> int:
    """The smallest number of pictures per tick at which one costs about as little as in the fullest tick.

    Args:
        rounds: Seconds of a tick by pictures in it, each round measured at once: only its own times are compared.
    """
    fullest = max(rounds[0])
    costs = {size: median((times[size] / size) / (times[fullest] / fullest) for times in rounds) for size in rounds[0]}
    return min(size for size, cost in costs.items() if cost <= FLAT)
