"""The engines on real gloo ranks: shards and their pieces."""

from __future__ import annotations

import pytest

from tests.ranks import Ranks
from tests.train import ranks_engine as ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with Ranks(2, tmp_path_factory.mktemp("meet")) as group:
        yield group


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_pieces_of_shards_put_together_are_the_weights_and_working_weights_follow_them(two, stage):
    assert two.run(ranks.pieces_against_deepspeed, stage, "fp32") == [(True, True)] * 2
