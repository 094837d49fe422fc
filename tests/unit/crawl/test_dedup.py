"""Duplicates: the same pixels always, the same look with few mistakes, over any cut of the work into shards."""

import random

import numpy as np
import pyarrow as pa
import pytest

from emoji_ldm.crawl.dedup import KnownImages, resolve_duplicates
from emoji_ldm.demo.sample_images import encode_as, fixture_images
from emoji_ldm.images.fingerprint import LENGTH
from emoji_ldm.images.near_duplicate_index import NearDuplicateIndex
from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, OUTCOMES
from tests.bench.dedup import copies, emoji, figures, labelled

pytestmark = pytest.mark.slow

SENT = OUTCOMES.schema.append(IMAGES.schema.field("fingerprint"))


def sent(*rows):
    """Outcomes as a worker gives them: (url, image_id, fingerprint)."""
    return pa.Table.from_pylist(
        [{**outcome_row(url, "image", Outcome.KEPT if image_id else Outcome.DEAD, "", image_id=image_id),
          "fingerprint": look}
         for url, image_id, look in rows], schema=SENT)  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    return [normalize_image(picture.data, size_px=128, max_px=4096) for picture in fixture_images()[:60]]


def resized(picture, data):
    """The same picture from a smaller file."""
    return next(
        normalize_image(copy, size_px=128, max_px=4096) for kind, copy in copies(data, random.Random(0)) if "96" in kind
    )


def settled(known, *rows, near=True):
    final, new = resolve_duplicates(sent(*rows), known, near=near)
    assert final.schema == OUTCOMES.schema
    return {row["url"]: (row["outcome"], row["image_id"]) for row in final.to_pylist()}, new


def test_the_same_pixels_in_another_file_are_always_found_and_others_never():
    known, urls = KnownImages(), {}
    for number, picture in enumerate(fixture_images()[::4]):
        for kind in ("image/png", "image/webp"):
            made = normalize_image(encode_as(picture.data, kind), size_px=128, max_px=4096)
            ends, _ = settled(known, (f"{number}.{kind}", made.image_id, made.fingerprint), near=False)
            urls.update(ends)
    kept = [url for url, (outcome, _) in urls.items() if outcome == "kept"]
    assert kept == [url for url in urls if url.endswith("png")]


def test_a_look_alike_names_whom_it_repeats_and_how_near_it_is(pictures):
    known, first = KnownImages(), pictures[0]
    copy = resized(first, fixture_images()[0].data)
    settled(known, ("a", first.image_id, first.fingerprint))
    final, new = resolve_duplicates(sent(("b", copy.image_id, copy.fingerprint)), known, near=True)
    (row,) = final.to_pylist()
    assert (row["outcome"], row["image_id"], new) == ("duplicate-of", first.image_id, set())
    assert row["reason"].startswith("looks like a (distance 0.0")


def test_look_alikes_are_kept_on_wish(pictures):
    known, first = KnownImages(), pictures[0]
    copy = resized(first, fixture_images()[0].data)
    _, new = settled(known, ("a", "1", first.fingerprint), ("b", "2", copy.fingerprint), near=False)
    assert new == {"a", "b"}


def test_look_alikes_within_one_shard_give_one_image(pictures):
    ends, new = settled(KnownImages(), ("a", "1", pictures[0].fingerprint), ("b", "2", pictures[0].fingerprint))
    assert (ends, new) == ({"a": ("kept", "1"), "b": ("duplicate-of", "1")}, {"a"})


def test_looks_do_not_drift_along_a_chain(pictures):
    a = np.frombuffer(pictures[0].fingerprint, np.uint8)
    b, c = a.copy(), a.copy()
    for view in (0, 144 * 4):  # one cell in the middle: a step of 3 levels is noise, two are a difference
        place = 8 + view + 4 * (6 * 12 + 6)
        b[place] = a[place] - 3
        c[place] = a[place] - 6
    ends, _ = settled(KnownImages(), ("a", "1", bytes(a)), ("b", "2", bytes(b)), ("c", "3", bytes(c)))
    assert [ends[url][0] for url in "abc"] == ["kept", "duplicate-of", "kept"]
    ends, _ = settled(KnownImages(), ("b", "2", bytes(b)), ("c", "3", bytes(c)))
    assert ends["c"] == ("duplicate-of", "2")


def test_an_image_that_is_committed_with_its_url_is_kept_but_not_added_again(pictures):
    known = KnownImages()
    settled(known, ("a", "1", pictures[0].fingerprint))
    assert settled(known, ("a", "1", pictures[0].fingerprint)) == ({"a": ("kept", "1")}, set())


def test_a_url_whose_image_changed_only_in_its_encoding_keeps_the_committed_one(pictures):
    known = KnownImages()
    settled(known, ("a", "1", pictures[0].fingerprint))
    assert settled(known, ("a", "2", pictures[0].fingerprint)) == ({"a": ("kept", "1")}, set())


def test_images_from_before_fingerprints_are_known_by_their_pixels(pictures):
    images = pa.table({"image_id": ["1"], "source_url": ["a"], "fingerprint": pa.array([None], pa.binary())})
    ends, _ = settled(
        KnownImages.load(images), ("b", "1", pictures[0].fingerprint), ("c", "2", pictures[0].fingerprint)
    )
    assert ends == {"b": ("duplicate-of", "1"), "c": ("kept", "2")}


@pytest.mark.parametrize("seed", range(12))
def test_any_cut_into_shards_and_any_interruption_gives_distinct_images_and_one_outcome_a_url(pictures, seed):
    chance = random.Random(seed)
    rows = [
        (f"u{n}", picture.image_id, picture.fingerprint) for n, picture in enumerate(chance.choices(pictures, k=80))
    ]
    rows += [(f"d{n}", None, None) for n in range(5)]
    chance.shuffle(rows)
    images, outcomes, looks, known = {}, {}, {image_id: look for _, image_id, look in rows}, KnownImages()
    shards = [rows[i : i + 9] for i in range(0, len(rows), 9)]
    while shards:
        shard = shards.pop(0)
        final, new = resolve_duplicates(sent(*shard), known, near=True)
        for row in final.to_pylist():
            if row["url"] in new:
                assert row["image_id"] not in images
                images[row["image_id"]] = row["url"]
        if chance.random() < 0.4:  # killed between the two commits: all is read again, the shard is redone
            table = {"image_id": list(images), "source_url": list(images.values())}
            known = KnownImages.load(pa.table({**table, "fingerprint": [looks[image_id] for image_id in images]}))
            shards.insert(0, shard)
            continue
        for row in final.to_pylist():
            assert row["url"] not in outcomes
            outcomes[row["url"]] = row
    assert outcomes.keys() == {url for url, _, _ in rows}
    assert {row["image_id"] for row in outcomes.values() if row["outcome"] == "kept"} == images.keys()
    assert images.keys() == {picture.image_id for picture in pictures} & {image_id for _, image_id, _ in rows}


def test_the_index_finds_the_same_whether_pictures_came_singly_or_at_once(pictures):
    singly, at_once = NearDuplicateIndex(), NearDuplicateIndex()
    ids, looks = [picture.image_id for picture in pictures], [picture.fingerprint for picture in pictures]
    for image_id, look in zip(ids, looks, strict=True):
        singly.add([image_id], [look])
    at_once.add(ids, looks)
    assert {len(look) for look in looks} == {LENGTH}
    found = at_once.find(looks)
    assert singly.find(looks) == found == [at_once.find([look])[0] for look in looks]
    assert [matches[0].image_id for matches in found] == ids
    assert NearDuplicateIndex().find(looks[:2]) == [[], []]


def test_near_duplicates_of_real_emoji_are_found_and_variants_are_not_merged():
    found = figures(labelled(emoji(every=32), 12))
    assert found["near precision"] >= 0.98
    assert found["near recall"] >= 0.95
    assert found["exact precision"] == found["exact recall"] == 1.0
