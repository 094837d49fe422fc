"""Mixes of LoRA adapters: `pixel:0.8+outline` names two adapters and their weights, of which 1 may be left out.

Adapters add up: a model with a mix has the weights `W + sum of weight_i * scale_i * B_i A_i`. The order of a sum of
floats changes its last bits, so a mix has one name, in alphabetical order, and equal names give equal pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from emoji_ldm.errors import ConfigError

MAX_ADAPTERS = 4
MAX_WEIGHT = 4.0
# Names come from the configuration or the registry; what a request may write is checked against those later.
PART = re.compile(r"([^+:\s]{1,100})(?::(-?\d{1,2}(?:\.\d{1,3})?))?")


@dataclass(frozen=True)
class AdapterWeight:
    """One adapter of a mix."""

    name: str
    weight: float = 1.0

    def __str__(self) -> str:
        return self.name if self.weight == 1 else f"{self.name}:{self.weight:g}"


def parse_mix(text: str) -> tuple[AdapterWeight, ...]:
    """Return the adapters of a mix in alphabetical order; none for an empty text.

    Raises:
        ConfigError: The text is no mix, names an adapter twice, or a weight is 0 or beyond `MAX_WEIGHT`.
    """
    parts = sorted(map(_parse_part, text.split("+") if text else ()), key=lambda part: part.name)
    if len(parts) > MAX_ADAPTERS:
        raise ConfigError(f"lora={text[:200]!r} is refused: at most {MAX_ADAPTERS} adapters")
    for one, other in pairwise(parts):
        if one.name == other.name:
            raise ConfigError(f"lora={text[:200]!r} is refused: {one.name!r} appears twice")
    return tuple(parts)


def mix_name(parts: Iterable[AdapterWeight]) -> str:
    """Return the one name of a mix."""
    return "+".join(map(str, parts))


def _parse_part(text: str) -> AdapterWeight:
    match = PART.fullmatch(text)
    weight = float(match[2] or 1) if match else 0.0
    if match is None or not 0 < abs(weight) <= MAX_WEIGHT:
        raise ConfigError(f"lora={text[:100]!r} is refused: write NAME or NAME:WEIGHT, joined by +, with weights of "
                          f"-{MAX_WEIGHT:g} to {MAX_WEIGHT:g} that are not 0")  # fmt: skip
    return AdapterWeight(match[1], weight)
