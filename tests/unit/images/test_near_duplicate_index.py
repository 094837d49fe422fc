"""The index of near duplicates: the same results in any order, and its precision on real emoji."""

import pytest

from emoji_ldm.demo.sample_images import fixture_images
from emoji_ldm.images.near_duplicate_index import NearDuplicateIndex
from emoji_ldm.images.normalize import normalize_image
from tests.bench.dedup import emoji, figures, labelled


@pytest.fixture(scope="module")
def pictures():
    return [normalize_image(picture.data, size_px=128, max_px=4096) for picture in fixture_images()[:60]]


def test_the_order_in_which_images_are_added_does_not_matter(pictures):
    singly, at_once = NearDuplicateIndex(), NearDuplicateIndex()
    ids, fingerprints = [picture.image_id for picture in pictures], [picture.fingerprint for picture in pictures]
    for image_id, fingerprint in zip(ids, fingerprints, strict=True):
        singly.add([image_id], [fingerprint])
    at_once.add(ids, fingerprints)
    found = at_once.find(fingerprints)
    assert singly.find(fingerprints) == found == [at_once.find([fingerprint])[0] for fingerprint in fingerprints]
    assert [matches[0].image_id for matches in found] == ids
    assert NearDuplicateIndex().find(fingerprints[:2]) == [[], []]


@pytest.mark.slow
def test_near_duplicates_of_real_emoji_are_found_and_variants_are_not():
    found = figures(labelled(emoji(every=32), 12))
    assert found["near precision, all"] >= 0.98
    assert found["near recall, all"] >= 0.95
    assert found["exact precision"] == found["exact recall"] == 1.0
