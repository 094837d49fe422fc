"""The figures of an evaluation: what each is called, which way is better; and gates, which fail a command by them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from emoji_ldm.errors import ConfigError

Figures = dict[str, float | None]  # None: it could not be measured


@dataclass(frozen=True)
class FigureKind:
    """One figure, as tables show it."""

    group: str
    label: str
    meaning: str
    better: Literal["low", "high", ""]  # "": neither, it is read beside that of real pictures
    digits: int = 3
    percent: bool = False

    def text(self, value: float | None) -> str:
        """The figure as text; a dash where it could not be measured."""
        if value is None:
            return "–"
        return f"{value:.1%}" if self.percent else f"{value:,.{self.digits}f}"


SET, TEXT, TRUTH, PICTURE, COPY, COST = (
    "Likeness to real emoji", "What the prompt names", "Held-out truth", "Single pictures", "Memorisation", "Cost",
)  # fmt: skip

FIGURES: dict[str, FigureKind] = {
    "kid": FigureKind(
        SET, "KID (EfficientNet-Lite0)", "kernel distance to the reference; real emoji are near 0", "low", 4),
    "kid_low": FigureKind(SET, "KID, 2.5 %", "lower end of the bootstrap interval", "low", 4),
    "kid_high": FigureKind(SET, "KID, 97.5 %", "upper end of the bootstrap interval", "low", 4),
    "frechet_lite0": FigureKind(
        SET, "Fréchet distance (EfficientNet-Lite0)", "falls with more pictures: compare equal numbers", "low", 1),
    "precision": FigureKind(SET, "precision", "pictures that lie among real ones", "high", percent=True),
    "recall": FigureKind(SET, "recall", "real pictures that lie among these", "high", percent=True),
    "density": FigureKind(SET, "density", "how deep among real ones; real emoji are near 1", "high"),
    "coverage": FigureKind(SET, "coverage", "real pictures with one of these nearby", "high", percent=True),
    "concept_top1": FigureKind(TEXT, "concept first", "the probe names the concept first", "high", percent=True),
    "concept_top5": FigureKind(
        TEXT, "concept in 5", "the concept is among the probe's first five", "high", percent=True),
    "color_shown": FigureKind(
        TEXT, "colours", "named colours that cover a good part of the picture", "high", percent=True),
    "style_right": FigureKind(TEXT, "style", "the probe finds the named style", "high", percent=True),
    "clip_score": FigureKind(TEXT, "CLIP score", "cosine of picture and prompt times 100", "high", 1),
    "truth_top5": FigureKind(
        TRUTH, "truth in 5", "its true picture is among the five nearest held-out ones", "high", percent=True),
    "pair_truth_top5": FigureKind(
        TRUTH, "truth in 5, new style", "the same, for concepts trained on in other styles only", "high", percent=True),
    "pair_nearer_truth": FigureKind(
        TRUTH, "nearer to the truth", "than to any trained picture of the concept, for the same", "high", percent=True),
    "diversity": FigureKind(
        PICTURE, "diversity", "distance between pictures of a prompt; two real emoji are 1 apart", "high"),
    "fringe": FigureKind(PICTURE, "fringe", "colour difference along the soft outline", ""),
    "veil": FigureKind(PICTURE, "veil", "translucent away from the outline", "", percent=True),
    "holes": FigureKind(PICTURE, "holes", "small openings per picture", "", 2),
    "opaque": FigureKind(PICTURE, "no transparency", "pictures without any", "", percent=True),
    "legible_32px": FigureKind(
        PICTURE, "legible at 32 px", "the concept is among the first five at 32 px", "high", percent=True),
    "copy_rate": FigureKind(COPY, "copies", "nearer to a training picture than 0.05", "low", percent=True),
    "copy_distance": FigureKind(COPY, "nearest training picture", "median distance; 0 equal, 1 opposite", ""),
    "seconds_per_image": FigureKind(COST, "seconds per image", "of a full batch, without loading", "low", 2),
    "peak_memory_mb": FigureKind(COST, "peak memory, MB", "of the process, or of the GPU if it has one", "low", 0),
}  # fmt: skip
"""In the order of tables."""

GATE = re.compile(r"^\s*(?P<name>\w+)\s*(?P<sign>[<>]=?)\s*(?P<limit>[-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*$", re.IGNORECASE)
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class QualityGate:
    """A condition under which the command fails, such as `kid > 0.05`."""

    name: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> QualityGate:
        """Read a gate; ConfigError names what is wrong with it."""
        found = GATE.match(text)
        if not found:
            raise ConfigError(f"gate {text!r} is not FIGURE > NUMBER or FIGURE < NUMBER, such as 'kid > 0.05'")
        if found["name"] not in FIGURES:
            raise ConfigError(
                f"gate {text!r}: there is no figure {found['name']!r}; the figures are: {' '.join(FIGURES)}"
            )
        return cls(found["name"], found["sign"], float(found["limit"]))

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.limit:g}"

    def failure(self, figures: Mapping[str, float | None]) -> str:
        """Why these figures fail the gate; "" if they do not."""
        value = figures.get(self.name)
        # A figure that is missing must not pass for one that is good.
        if value is None:
            return f"{self.name} could not be measured"
        return f"{self.name} is {value:.4g}" if SIGNS[self.sign](value, self.limit) else ""


def failed_gates(gates: Sequence[QualityGate], systems: Mapping[str, Figures]) -> list[str]:
    """One line per model and gate that fails."""
    return [
        f"{name}: {reason} (gate {gate})"
        for gate in gates
        for name, figures in systems.items()
        if (reason := gate.failure(figures))
    ]
