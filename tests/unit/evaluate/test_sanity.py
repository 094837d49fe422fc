"""Sanity of the figures on real emoji: what spoils pictures makes the right figure worse, step by step."""

from __future__ import annotations

import io
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageFilter

from emoji_ldm.caption.image_stats import ANCHORS, measure_image
from emoji_ldm.demo.sample_images import fixture_images
from emoji_ldm.evaluate.metrics.alignment import colors_shown
from emoji_ldm.evaluate.metrics.features import FeatureExtractor
from emoji_ldm.evaluate.metrics.pixels import NUM_POOLED, resize_rgba
from emoji_ldm.evaluate.metrics.quality import alpha_quality
from emoji_ldm.evaluate.scoring import set_figures

NUM = 120
SIZE_PX = 64
CHROMATIC = set(ANCHORS) - {"black", "gray", "white"}


@cache
def halves():
    """Two random halves of real emoji in both styles of the fixture."""
    order = np.random.default_rng(0).permutation(len(images := fixture_images()))
    pictures = [resize_rgba(np.asarray(Image.open(io.BytesIO(images[row].data)).convert("RGBA")), SIZE_PX)
                for row in order[: 2 * NUM]]  # fmt: skip
    return pictures[:NUM], pictures[NUM:]


@cache
def extractor():
    return FeatureExtractor()


@cache
def reference():
    return extractor()(halves()[0])[:, :NUM_POOLED]


def figures(change=lambda picture: picture):
    pictures = [change(picture) for picture in halves()[1]]
    return set_figures(extractor()(pictures)[:, :NUM_POOLED], reference())


@cache
def real_figures():
    return figures()


def blur(radius):
    def change(picture):
        # Premultiplied, so that the colour of invisible pixels does not enter.
        blurred = Image.fromarray(picture).convert("RGBa").filter(ImageFilter.GaussianBlur(radius))
        return np.asarray(blurred.convert("RGBA"))

    return change


def noise(deviation):
    rng = np.random.default_rng(1)

    def change(picture):
        noisy = picture.astype(np.float32)
        noisy[..., :3] += rng.normal(0, deviation * 255, noisy[..., :3].shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)

    return change


def hue_shift(turns):
    def change(picture):
        if not turns:
            return picture  # the way to HSV and back would round colours
        hue, saturation, value = Image.fromarray(np.ascontiguousarray(picture[..., :3])).convert("HSV").split()
        moved = Image.fromarray(((np.asarray(hue).astype(int) + round(turns * 256)) % 256).astype(np.uint8))
        rgb = Image.merge("HSV", (moved, saturation, value)).convert("RGB")
        return np.concatenate([np.asarray(rgb), picture[..., 3:]], axis=-1)

    return change


def color_cast(share):
    """Blends all colours with magenta."""

    def change(picture):
        rgb = picture[..., :3] * (1 - share) + np.float64([200, 0, 200]) * share
        return np.concatenate([rgb.round().astype(np.uint8), picture[..., 3:]], axis=-1)

    return change


def get_worse(values, *, better):
    steps = [after - before for before, after in pairwise(values)]
    return all(step > 0 for step in steps) if better == "low" else all(step < 0 for step in steps)


@pytest.mark.slow
def test_two_halves_of_real_emoji_are_near_zero_and_cover_each_other():
    found = real_figures()
    assert found["kid_low"] <= 0 <= found["kid_high"] and abs(found["kid"]) < 0.02
    assert min(found["precision"], found["recall"], found["coverage"]) > 0.7 and 0.6 < found["density"] < 1.5


@pytest.mark.slow
def test_blur_worsens_distances_recall_and_coverage_step_by_step():
    levels = [real_figures(), *(figures(blur(radius)) for radius in (0.7, 1.5, 3))]
    for name in ("kid", "frechet_lite0"):
        assert get_worse([level[name] for level in levels], better="low"), name
    for name in ("recall", "coverage"):
        assert get_worse([level[name] for level in levels], better="high"), name


@pytest.mark.long
def test_noise_worsens_distances_fidelity_and_the_fringe_step_by_step():
    deviations = (0.03, 0.1, 0.3)
    levels = [real_figures(), *(figures(noise(deviation)) for deviation in deviations)]
    for name in ("kid", "frechet_lite0"):
        assert get_worse([level[name] for level in levels], better="low"), name
    for name in ("density", "coverage"):
        assert get_worse([level[name] for level in levels], better="high"), name
    pictures = halves()[1][:40]
    fringes = [np.mean([alpha_quality(noise(deviation)(picture)).fringe for picture in pictures])
               for deviation in (0, *deviations)]  # fmt: skip
    assert get_worse(fringes, better="low")


@pytest.mark.long
def test_a_colour_cast_worsens_distances_and_coverage_step_by_step():
    levels = [real_figures(), *(figures(color_cast(share)) for share in (0.15, 0.3, 0.6))]
    for name in ("kid", "frechet_lite0"):
        assert get_worse([level[name] for level in levels], better="low"), name
    assert get_worse([level["coverage"] for level in levels], better="high")


@pytest.mark.long
def test_a_shift_of_hue_worsens_the_distance_and_step_by_step_the_named_colours():
    """The distance need not grow with the angle: half a turn makes yellow faces blue, a third makes them green."""
    turns = (0.08, 0.2, 0.5)
    assert min(figures(hue_shift(turn))["kid"] for turn in turns) > real_figures()["kid_high"]
    shown = []
    for turn in (0, *turns):
        rates = [
            colors_shown(
                [color for color in measure_image(Image.fromarray(picture)).colors if color in CHROMATIC],
                measure_image(Image.fromarray(hue_shift(turn)(picture))).colors,
            )
            for picture in halves()[1]
        ]
        shown.append(np.mean([rate for rate in rates if rate is not None]))
    assert shown[0] == 1 and shown[1] < 0.8 and shown[-1] < 0.3 and shown == sorted(shown, reverse=True)


@pytest.mark.slow
def test_a_collapse_to_few_pictures_worsens_distances_recall_and_coverage():
    pooled = extractor()(halves()[1])[:, :NUM_POOLED]
    levels = [set_figures(pooled[np.arange(NUM) % kept], reference()) for kept in (NUM, 40, 10, 3)]
    assert get_worse([level["frechet_lite0"] for level in levels], better="low")
    assert get_worse([level["coverage"] for level in levels], better="high")
    assert levels[-1]["recall"] < 0.1 and levels[-1]["kid"] > 10 * abs(levels[0]["kid"])
