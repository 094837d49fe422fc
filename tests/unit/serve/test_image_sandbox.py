"""What leaves the sandbox: PNG files of the canvas that give the same pixels as the upload itself."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import load_init_image, load_mask
from emoji_ldm.serve.image_sandbox import prepare

CANVAS = (64, 48)


def file_of(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (90, 130, 4), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_prepared_image_gives_the_same_pixels_as_the_upload(photo, kind):
    upload = file_of(photo[..., :3] if kind == "JPEG" else photo, kind)
    prepared, mask = prepare(upload, b"", *CANVAS)
    assert (load_init_image(prepared, *CANVAS) == load_init_image(upload, *CANVAS)).all() and not mask
    with Image.open(io.BytesIO(prepared)) as image:
        assert image.size == CANVAS and not image.info, "nothing of the stranger's file is left"


@pytest.mark.parametrize("form", ["transparent", "white"])
def test_a_prepared_mask_selects_the_same_region(photo, form):
    mask = np.full((90, 130, 4), 255, np.uint8)
    region = (slice(20, 60), slice(30, 90))
    if form == "transparent":
        mask[(*region, 3)] = 0
    else:
        mask[..., :3] = 0
        mask[region] = 255
    image, mask = file_of(photo), file_of(mask)
    prepared, small = prepare(image, mask, *CANVAS)
    assert (load_mask(small, prepared, *CANVAS) == load_mask(mask, image, *CANVAS)).all()
    assert load_mask(small, prepared, *CANVAS).any()


def test_a_region_that_vanishes_on_the_canvas_is_refused(photo):
    mask = np.full((90, 130, 4), 255, np.uint8)
    mask[5, 5, 3] = 0
    with pytest.raises(ConfigError, match="mask selects nothing at 16x16"):
        prepare(file_of(photo), file_of(mask), 16, 16)
