"""A measured figure, its spread over the repeats and the bound that it has to keep."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BOUNDS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Load:
    """How much to ask for."""

    quick: bool

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of steps, in equal shares."""
        return (4, 8, 20) if self.quick else (10, 20, 50)

    @property
    def repeats(self) -> range:
        """Seeds of the repeats."""
        return range(1 if self.quick else 3)

    @property
    def many(self) -> range:
        """As `repeats`, for figures that the machine's own changes of speed blur."""
        return range(3 if self.quick else 7)

    def of(self, full: int, quick: int) -> int:
        """`full`, or `quick`."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median counts."""

    name: str
    values: Sequence[float]  # one per repeat
    bound: str = ""  # such as ">= 0.9"; empty for what is told only

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the bound is kept."""
        if not self.bound:
            return True
        kind, limit = self.bound.split()
        return BOUNDS[kind](self.median, float(limit))

    def __str__(self) -> str:
        spread = f" ({min(self.values):.3g}-{max(self.values):.3g})" if len(self.values) > 1 else ""
        verdict = f" {'pass' if self.holds else 'FAIL'}" if self.bound else ""
        return f"{self.median:.3g}{spread}{verdict}"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Repeat by repeat."""
    return [one / other for one, other in zip(above, below, strict=True)]
