"""The layout of fingerprints: what is stored comes back, overviews, and fingerprints of older versions."""

import numpy as np
import pytest

from emoji_ldm.images.fingerprint_layout import (
    CELLS,
    GRID,
    HEADER,
    LENGTH,
    OVERVIEW_GRID,
    OVERVIEW_LENGTH,
    VIEWS,
    has_overview,
    is_current,
    overviews,
    overviews_of_cells,
    pack,
    unpack,
)

HEAD = (1, 20, 30, 40)


@pytest.fixture
def views():
    return np.random.default_rng(0).integers(0, 256, CELLS, dtype=np.uint8)


def test_what_was_packed_comes_back(views):
    flat = np.full(CELLS, 7, np.uint8)
    packed = [pack(HEAD, views.tobytes()), pack((0, 0, 0, 0), flat.tobytes())]
    values = unpack(packed)
    assert values.shape == (2, LENGTH)
    assert (values[0, HEADER:] == views).all() and (values[1, HEADER:] == flat).all()
    assert values[0, :4].tolist() == list(HEAD)
    assert len(packed[1]) < 100, "equal cells take next to nothing"
    assert unpack([]).shape == (0, LENGTH)


def test_an_overview_has_the_mean_of_each_four_cells_and_a_little_of_those_around():
    cells = np.zeros((1, VIEWS, GRID, GRID, 4), np.uint8)
    cells[0, 0, 10:12, 10:12] = 160
    cells[0, 1] = 90  # also at the edge
    values = np.concatenate([np.zeros((1, HEADER), np.uint8), cells.reshape(1, -1)], 1)
    seen = overviews_of_cells(values)[0, HEADER:].reshape(VIEWS, OVERVIEW_GRID, OVERVIEW_GRID, 4)
    assert (seen[1] == 90).all()
    assert seen[0, 5, 4:7, 0].tolist() == [15, 90, 15]  # 160 * 6/8 * (1/8, 6/8, 1/8)


def test_only_the_version_before_has_an_overview_too(views):
    current, third = pack(HEAD, views.tobytes()), bytes((*HEAD, 3, 0, 0, 0)).ljust(OVERVIEW_LENGTH, b"\5")
    first, second = b"\0" * 1160, bytes((*HEAD, 2, 0, 0, 0)).ljust(OVERVIEW_LENGTH, b"\5")
    assert [is_current(value) for value in (current, third, second, first, b"")] == [True, *[False] * 4]
    assert [has_overview(value) for value in (current, third, second, first, b"")] == [True, True, *[False] * 3]
    both = overviews([third, current, third])
    assert both.shape == (3, OVERVIEW_LENGTH)
    assert (both[[0, 2], HEADER:] == 5).all()
    assert (both[1] == overviews_of_cells(unpack([current]))[0]).all()
    assert overviews([]).shape == (0, OVERVIEW_LENGTH)
