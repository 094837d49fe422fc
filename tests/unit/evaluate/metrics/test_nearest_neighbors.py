"""The nearest crawled image of a generated one."""

import numpy as np
import pytest

from emoji_ldm.evaluate.metrics.nearest_neighbors import nearest_neighbors, thumbnail_vectors
from tests.generation_requests import image_file


def noise(seed, size=48):
    return image_file(np.random.default_rng(seed).integers(0, 256, (size, size, 4), dtype=np.uint8))


def test_a_copy_is_found_at_distance_zero():
    known = [noise(seed) for seed in range(5)]
    best, distance = nearest_neighbors(thumbnail_vectors([known[3]]), thumbnail_vectors(known))
    assert best.tolist() == [3] and distance[0] == pytest.approx(0, abs=1e-3)


def test_opposites_are_at_distance_one():
    transparent, white = (image_file(np.full((32, 32, 4), value, np.uint8)) for value in (0, 255))
    _, distance = nearest_neighbors(thumbnail_vectors([transparent]), thumbnail_vectors([white]))
    assert distance[0] == pytest.approx(1)


def test_the_colour_of_transparent_pixels_does_not_count():
    red, green = np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 4), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    vectors = thumbnail_vectors([image_file(red), image_file(green)])
    _, distance = nearest_neighbors(vectors[:1], vectors[1:])
    assert distance[0] == 0


def test_distances_equal_the_plain_formula():
    queries, known = thumbnail_vectors([noise(9)]), thumbnail_vectors([noise(seed) for seed in range(4)])
    expected = np.sqrt(((queries[:, None] - known[None]) ** 2).mean(-1))
    best, distance = nearest_neighbors(queries, known)
    assert best[0] == expected.argmin() and distance[0] == pytest.approx(expected.min(), rel=1e-3)
