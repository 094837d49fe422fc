"""Pictures for the tests of packs."""

import io

import numpy as np
from PIL import Image, PngImagePlugin

YELLOW, INK = (255, 205, 40), (60, 40, 10)


def face(size_px=64, scale=8):
    """A face on transparency, averaged down from a larger drawing: uint8 `(size_px, size_px, 4)`."""
    side = size_px * scale
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    values = np.zeros((side, side, 4))
    values[np.hypot(x, y) < 0.4] = (*YELLOW, 255)
    for left in (-0.14, 0.14):
        values[np.hypot(x - left, y + 0.1) < 0.06] = (*INK, 255)
    values[(abs(np.hypot(x, y) - 0.22) < 0.03) & (y > 0.08)] = (*INK, 255)
    values[..., :3] *= values[..., 3:] / 255
    small = values.reshape(size_px, scale, size_px, scale, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1e-9) / 255
    return np.rint(small).clip(0, 255).astype(np.uint8)


def png(pixels, **text):
    """A PNG file with text chunks."""
    info = PngImagePlugin.PngInfo()
    for name, value in text.items():
        info.add_itxt(name, value)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def face_png(size_px=64, **text):
    return png(face(size_px), **text)
