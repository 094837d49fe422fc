"""A measured figure: its repeats, their spread and its bound."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BOUNDS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Load:
    """The size of a benchmark."""

    quick: bool

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of steps, which requests have in equal shares."""
        return (4, 8, 20) if self.quick else (10, 20, 50)

    @property
    def repeats(self) -> range:
        """Seeds of the repeats."""
        return range(1 if self.quick else 3)

    @property
    def many(self) -> range:
        """More repeats, for figures that changes of the machine's speed blur."""
        return range(3 if self.quick else 7)

    def of(self, full: int, quick: int) -> int:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median counts."""

    name: str
    values: Sequence[float]  # one per repeat
    bound: str = ""  # such as ">= 0.9"; empty for figures without a bound

    @property
    def median(self) -> float:
        """The median of the repeats, which counts."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median keeps the bound."""
        if not self.bound:
            return True
        kind, limit = self.bound.split()
        return BOUNDS[kind](self.median, float(limit))

    def __str__(self) -> str:
        spread = f" ({min(self.values):.3g}-{max(self.values):.3g})" if len(self.values) > 1 else ""
        verdict = f" {'pass' if self.holds else 'FAIL'}" if self.bound else ""
        return f"{self.median:.3g}{spread}{verdict}"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Ratios, repeat by repeat."""
    return [one / other for one, other in zip(above, below, strict=True)]
