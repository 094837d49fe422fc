"""One picture to draw; light, so that planning needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SEED = 2**63 - 1  # what the table's int64 column holds


@dataclass(frozen=True)
class Draw:
    """One picture to draw."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 30
    guidance_scale: float = 3.0  # 1 leaves the negative prompt without effect
