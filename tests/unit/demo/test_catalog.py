"""The catalog: reproducible tiles, with every fault counted."""

import pytest

from emoji_ldm.demo.gallery import Gallery
from tests.unit.demo.site_client import get, pixels


@pytest.fixture(scope="module")
def site():
    with Gallery(num_openmoji=0, slow_s=2) as open_site:
        yield open_site


def test_the_ground_truth_counts_every_fault(site):
    faults = {"duplicate": 12, "dead": 5, "error": 1, "slow": 1, "not_image": 1, "truncated": 1, "private": 2}
    truth = site.ground_truth
    assert truth["counts"] == {"good": 323 - 4, **faults}
    assert {kind: len(set(urls)) for kind, urls in truth["urls"].items()} == truth["counts"]
    assert set(truth["titles"]) == {url for urls in truth["urls"].values() for url in urls}


@pytest.mark.slow
def test_the_same_settings_give_the_same_tiles_in_the_same_order():
    def shown(seed):
        with Gallery(num_openmoji=0, seed=seed) as site:
            return [(tile.path, tile.kind, tile.data) for tile in site._serving.tiles]

    assert shown(0) == shown(0) != shown(1)


def test_a_limit_bounds_the_good_tiles_of_each_tag_and_keeps_all_faults():
    with Gallery(num_openmoji=0, limit_per_tag=20) as site:
        sizes = {tag: len(kinds["good"]) for tag, kinds in site.ground_truth["tags"].items()}
        assert max(sizes.values()) == sizes["Blobs"] == 20
        assert site.ground_truth["counts"]["duplicate"] == 12


def test_a_duplicate_has_the_pixels_of_its_source_but_other_bytes(site):
    for url, source in site.ground_truth["duplicates"].items():
        copy, original = get(url)[2], get(source)[2]
        assert copy != original
        assert pixels(copy) == pixels(original)
