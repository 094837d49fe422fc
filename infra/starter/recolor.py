"""Recolouring: the leading colour of an emoji becomes another one, and its caption says which."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# name -> (hue in degrees, factor of saturation, factor of value)
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (358, 1.1, 0.95), "orange": (28, 1.15, 1.05), "yellow": (48, 1.1, 1.15), "green": (125, 0.95, 0.8),
    "blue": (212, 1.05, 0.95), "purple": (275, 0.85, 0.85), "pink": (335, 0.6, 1.1), "brown": (22, 0.75, 0.55),
    "black": (0, 0.05, 0.28), "gray": (210, 0.08, 0.75),
}  # fmt: skip
COLOR_WORDS = re.compile(r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|white|gray|grey)\b")
BAND_DEG, SOFT_DEG = 22.0, 14.0  # hues within the band change, those beyond band + soft stay
LEAST_SHARE = 0.3  # of the visible surface that must be of the leading hue


def leading_hue(picture: NDArray[np.uint8]) -> tuple[float, float]:
    """(hue in degrees, share of the visible surface within the band) of a premultiplied `(h, w, 4)` picture."""
    hsv, alpha = _hsv(picture)
    weight = alpha * (hsv[..., 1] > 0.2) * (hsv[..., 2] > 0.15)
    if weight.sum() < 1e-6:
        return 0.0, 0.0
    counts, _ = np.histogram(hsv[..., 0] * 360, bins=72, range=(0, 360), weights=weight)
    smooth = sum(np.roll(counts, shift) for shift in range(-4, 5))
    hue = float((np.argmax(smooth) + 0.5) * 5)
    return hue, float((weight * (_distance(hsv[..., 0] * 360, hue) < BAND_DEG)).sum() / alpha.sum())


def recolor(picture: NDArray[np.uint8], hue: float, color: str) -> NDArray[np.uint8]:
    """The picture with its surfaces of about `hue` (degrees) in `color`; white, black and other hues stay."""
    hsv, alpha = _hsv(picture)
    target, saturation, value = COLORS[color]
    mask = np.clip((BAND_DEG + SOFT_DEG - _distance(hsv[..., 0] * 360, hue)) / SOFT_DEG, 0, 1)
    mask *= np.clip((hsv[..., 1] - 0.08) / 0.15, 0, 1)
    offset = (hsv[..., 0] * 360 - hue + 180) % 360 - 180
    changed = hsv.copy()
    changed[..., 0] = ((target + 0.6 * offset) % 360) / 360
    changed[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    changed[..., 2] = np.clip(hsv[..., 2] * value, 0, 1)
    rgb = hsv_to_rgb(changed) * mask[..., None] + hsv_to_rgb(hsv) * (1 - mask[..., None])
    return np.round(np.concatenate([rgb * alpha[..., None], alpha[..., None]], -1) * 255).astype(np.uint8)


def name_color(picture: NDArray[np.uint8]) -> str | None:
    """The colour word for a picture most of which has one colour, else None."""
    hsv, alpha = _hsv(picture)
    names = np.full(alpha.shape, "", dtype="<U8")
    hue, saturation, value = hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2]
    for name, (low, high) in {
        "red": (345, 372), "orange": (12, 38), "yellow": (38, 68), "green": (75, 165), "blue": (180, 250),
        "purple": (252, 305), "pink": (305, 345),
    }.items():  # fmt: skip
        names[((hue - low) % 360) < (high - low)] = name
    names[(names == "orange") & (value < 0.72)] = "brown"
    names[(names == "red") & (value < 0.6)] = "brown"
    names[(names == "red") & (saturation < 0.5) & (value > 0.8)] = "pink"
    names[saturation < 0.15] = "gray"
    names[(saturation < 0.12) & (value > 0.88)] = "white"
    names[value < 0.28] = "black"
    shares = {name: float(alpha[names == name].sum() / max(alpha.sum(), 1e-6)) for name in np.unique(names) if name}
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best and shares[best] > 0.6 else None


def _hsv(picture: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pixels = picture.astype(np.float64) / 255
    alpha = pixels[..., 3]
    return rgb_to_hsv(np.clip(pixels[..., :3] / np.maximum(alpha, 1e-6)[..., None], 0, 1)), alpha


def _distance(hue: NDArray[np.float64], other: float) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = np.abs((hue - other + 180) % 360 - 180)
    return difference


def rgb_to_hsv(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hue, saturation and value, each in [0, 1], of `(..., 3)` colours."""
    top, low = rgb.max(-1), rgb.min(-1)
    spread = np.maximum(top - low, 1e-12)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.where(
        top == red,
        (green - blue) / spread,
        np.where(top == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    hue = np.where(top - low < 1e-9, 0, hue / 6 % 1)
    return np.stack([hue, (top - low) / np.maximum(top, 1e-12), top], -1)


def hsv_to_rgb(hsv: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `rgb_to_hsv`."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    parts = [(shift + hue * 6) % 6 for shift in (5, 3, 1)]
    return np.stack([value * (1 - saturation * np.clip(np.minimum(part, 4 - part), 0, 1)) for part in parts], -1)
