"""Nearest training picture and loss charts: facts, not snapshots."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.evaluate.nearest_neighbors import nearest_neighbors, thumbnail_vectors
from emoji_ldm.evaluate.svg_chart import line_chart, moving_average


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed, size=48):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 4), dtype=np.uint8)


def test_a_copy_is_found_at_distance_zero():
    known = [png(noise(seed)) for seed in range(5)]
    best, distance = nearest_neighbors(thumbnail_vectors([known[3]]), thumbnail_vectors(known))
    assert best.tolist() == [3] and distance[0] == pytest.approx(0, abs=1e-3)


def test_opposites_are_at_distance_one():
    clear, white = np.zeros((32, 32, 4), np.uint8), np.full((32, 32, 4), 255, np.uint8)
    _, distance = nearest_neighbors(thumbnail_vectors([png(clear)]), thumbnail_vectors([png(white)]))
    assert distance[0] == pytest.approx(1)


def test_the_colour_of_transparent_pixels_does_not_count():
    red, green = np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 4), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    _, distance = nearest_neighbors(thumbnail_vectors([png(red)]), thumbnail_vectors([png(green)]))
    assert distance[0] == 0


def test_distances_equal_the_plain_formula():
    queries, known = thumbnail_vectors([png(noise(9))]), thumbnail_vectors([png(noise(seed)) for seed in range(4)])
    expected = np.sqrt(((queries[:, None] - known[None]) ** 2).mean(-1))
    best, distance = nearest_neighbors(queries, known)
    assert best[0] == expected.argmin() and distance[0] == pytest.approx(expected.min(), rel=1e-3)


def test_smoothing_is_the_moving_average():
    assert moving_average([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(2, 3.0), (3, 6.5)]


@pytest.mark.parametrize("points", [[], [(1, 0.5)]])
def test_too_few_points_draw_nothing(points):
    assert line_chart(points, x_label="step", y_label="loss") == ""


def test_a_flat_loss_is_drawn_without_dividing_by_zero():
    svg = line_chart([(step, 0.5) for step in range(10)], x_label="step", y_label="loss")
    assert svg.startswith("<svg") and "nan" not in svg and "inf" not in svg
