"""Contact sheets of premultiplied RGBA pictures on white and on dark ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GROUNDS = ((255, 255, 255), (32, 33, 36))


def sheet(
    rows: list[NDArray[np.uint8]], path: Path, grounds: tuple[tuple[int, int, int], ...] = GROUNDS, zoom: int = 1
) -> None:
    """Write rows of `(n, 64, 64, 4)` premultiplied pictures as a PNG, the whole once per ground, side by side."""
    gap, sides = 4, []
    columns, (height, width) = max(len(row) for row in rows), rows[0].shape[1:3]
    for ground in grounds:
        canvas = np.full((len(rows) * (height + gap), columns * (width + gap), 3), ground, np.float32)
        for top, row in enumerate(rows):
            for left, picture in enumerate(row):
                cell = canvas[top * (height + gap) :, left * (width + gap) :][:height, :width]
                cell *= 1 - picture[..., 3:].astype(np.float32) / 255
                cell += picture[..., :3]
        sides.append(canvas.clip(0, 255).astype(np.uint8))
    image = Image.fromarray(np.concatenate(sides, axis=1))
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    temporary = path.with_suffix(".tmp.png")
    image.save(temporary)
    temporary.replace(path)
