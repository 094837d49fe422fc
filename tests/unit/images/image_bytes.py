"""Files of images in memory, and what normalization makes of them."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.outcomes import Rejected


def normalized(data, size_px=128, max_px=4096):
    return normalize_image(data, size_px=size_px, max_px=max_px)


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)))


def noise(size=(32, 32), mode="RGB"):
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(), mode)


def rejection_of(data, **options):
    with pytest.raises(Rejected) as caught:
        normalized(data, **options)
    return caught.value


def many_scans(count):
    """A progressive JPEG whose last scan comes again and again: it decodes the whole image each time."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        stream, "JPEG", progressive=True
    )
    data = stream.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]
