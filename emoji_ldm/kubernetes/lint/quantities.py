"""Parses Kubernetes quantities and Go durations; quantities are exact fractions, so that sums can be compared."""

from __future__ import annotations

import re
from fractions import Fraction

# Suffixes with an i are powers of 1024, those without are powers of 1000. The order of the letters is that of the
# exponents.
SUFFIXES = {"": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}
SUFFIXES |= {mark: Fraction(1000 ** (index + 1)) for index, mark in enumerate("kMGTPE")}
SUFFIXES |= {f"{mark}i": Fraction(1024 ** (index + 1)) for index, mark in enumerate("KMGTPE")}
QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]([+-]?\d+)|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?)")
GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
GO_DURATION = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+|0")


def quantity(value: object) -> Fraction | None:
    """A quantity such as "500m", "8Gi" or 2 as a number; None if it is not a quantity."""
    # In Python a bool is an int, but `true` is no quantity.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = QUANTITY.fullmatch(str(value))
    if found is None:
        return None
    number, exponent, suffix = found.groups()
    return Fraction(number) * (Fraction(10) ** int(exponent) if exponent else SUFFIXES[suffix or ""])


def duration_s(value: object) -> float | None:
    """A Go duration such as "30m" or "1h30m" in seconds; None if it is not a duration."""
    if not isinstance(value, str) or not GO_DURATION.fullmatch(value):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", value)
    total = sum(float(number) * GO_UNITS[unit] for number, unit in parts)
    return -total if value.startswith("-") else total
