"""Aspect-ratio buckets: their shapes, where images go, and what is cut off."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.config import load
from emoji_ldm.config.latents import BucketOptions
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.buckets import bucket_shapes, place, size_inputs
from emoji_ldm.latents.vae import image_size, to_shape

OPTIONS = BucketOptions(step_px=8, max_ratio=2, sizes_px=(32,))
RANDOM = np.random.default_rng(0).integers(8, 400, (2000, 2)).astype(np.int32)


def placed(options=OPTIONS, sizes=RANDOM, size_px=64):
    return place(sizes[:, 0], sizes[:, 1], options, size_px), np.array(bucket_shapes(options, size_px))


def test_shapes_have_about_the_area_of_their_square_and_the_largest_sides_that_fit():
    for side, shapes in ((64, bucket_shapes(BucketOptions(step_px=8), 64)), (32, bucket_shapes(OPTIONS, 64)[-3:])):
        for height, width in shapes:
            assert height % 8 == width % 8 == 0 and max(height / width, width / height) <= 2
            assert height * width <= side**2 < (height + 8) * width
    assert (64, 64) in bucket_shapes(OPTIONS, 64) and (32, 32) in bucket_shapes(OPTIONS, 64)
    assert bucket_shapes(BucketOptions(step_px=64), 1024)[:1] != bucket_shapes(BucketOptions(step_px=64), 512)[:1]


def test_an_image_gets_the_largest_resolution_that_it_fills_and_the_nearest_ratio():
    placement, shapes = placed()
    chosen = shapes[placement.bucket]
    is_large = RANDOM.prod(axis=1) >= 64**2
    assert ((chosen.prod(axis=1) > 32**2) == is_large).all()
    square = placed(sizes=np.array([[64, 64], [40, 40], [9, 9], [300, 300]], np.int32))
    assert square[1][square[0].bucket].tolist() == [[64, 64], [32, 32], [32, 32], [64, 64]]


def test_never_more_than_the_stated_share_is_cut_off_and_nothing_where_an_image_is_padded():
    placement, shapes = placed()
    target = shapes[placement.bucket]
    assert placement.lost.max() <= OPTIONS.max_crop and (placement.lost > 0).any()
    is_padded = placement.lost == 0
    assert (placement.scaled[is_padded] <= target[is_padded]).all()
    assert (placement.scaled[~is_padded] >= target[~is_padded]).all()
    # What is cut off is split evenly between two opposite sides, and the share is that of the pixels.
    cut = 1 - target.prod(axis=1)[~is_padded] / placement.scaled.prod(axis=1)[~is_padded]
    assert (np.abs(cut - placement.lost[~is_padded]) < 0.05).all()
    # Padding keeps the aspect ratio but for rounding to whole pixels.
    ratio = placement.scaled[:, 0] / placement.scaled[:, 1] / (RANDOM[:, 0] / RANDOM[:, 1])
    assert (np.abs(np.log(ratio)) < 2 / placement.scaled.min(axis=1)).all()


def test_an_image_is_cut_and_padded_where_its_placement_says():
    def stored(pixels):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 4), np.uint8)
    data = stored(pixels)
    assert image_size(data) == (20, 30)
    np.testing.assert_array_equal(to_shape(data, (20, 30), (2, 3), (16, 24)), pixels[2:18, 3:27])
    padded = to_shape(data, (20, 30), (-2, -1), (24, 32))
    np.testing.assert_array_equal(padded[2:22, 1:31], pixels)
    assert not padded[:2].any() and not padded[22:].any() and not padded[:, :1].any()


def test_size_inputs_are_the_true_size_the_crop_and_the_bucket():
    sizes = np.array([[100, 108], [10, 400]], np.int32)
    placement, shapes = placed(sizes=sizes)
    cropped, padded = size_inputs(sizes, placement, [tuple(shape) for shape in shapes.tolist()]).tolist()
    assert cropped[:2] == [100, 108] and cropped[4:] == shapes[placement.bucket[0]].tolist()
    assert cropped[2:4] == placement.offset[0].tolist() and max(cropped[2:4]) > 0
    assert padded[:4] == [10, 400, 0, 0], "an image that is padded is not cropped"


@pytest.mark.parametrize(
    ("buckets", "message"),
    [("{step_px: 24}", "step_px=24 does not divide the resolution 64"), ("{step_px: 8, sizes_px: [64]}", "not below")],
)
def test_buckets_that_do_not_fit_are_refused(buckets, message):
    with pytest.raises(ConfigError, match=message):
        load(None, ["latents.size_px=64", f"latents.buckets={buckets}"])
