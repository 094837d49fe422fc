"""Duplicates: equal pixels always, near duplicates with few mistakes, over any division into shards."""

import random

import pyarrow as pa
import pytest

from emoji_ldm.config import build
from emoji_ldm.crawl.crawl_state import CrawlState
from emoji_ldm.crawl.dedup import KnownImages, renew_fingerprints, resolve_duplicates
from emoji_ldm.dataset.table import Table
from emoji_ldm.demo.sample_images import encode_as, fixture_images
from emoji_ldm.images.fingerprint_layout import GRID, HEADER, VIEWS, pack, unpack
from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.outcomes import Outcome, outcome_row
from emoji_ldm.schemas import IMAGES, OUTCOMES
from emoji_ldm.store import Store
from tests.bench.dedup import copies
from tests.emoji_images import blobs, fill_images

SHARD_SCHEMA = OUTCOMES.schema.append(IMAGES.schema.field("fingerprint"))


def shard_outcomes(*rows):
    """Return outcomes as a worker gives them: (url, image_id, fingerprint)."""
    return pa.Table.from_pylist(
        [{**outcome_row(url, "image", Outcome.KEPT if image_id else Outcome.DEAD, "", image_id=image_id),
          "fingerprint": fingerprint}
         for url, image_id, fingerprint in rows], schema=SHARD_SCHEMA)  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    return [normalize_image(picture.data, size_px=128, max_px=4096) for picture in fixture_images()[:60]]


def resized(picture, data):
    """Return the same picture from a smaller file."""
    return next(
        normalize_image(copy, size_px=128, max_px=4096) for kind, copy in copies(data, random.Random(0)) if "96" in kind
    )


def resolve(known, *rows, near=True):
    final, new = resolve_duplicates(shard_outcomes(*rows), known, near=near)
    assert final.schema == OUTCOMES.schema
    return {row["url"]: (row["outcome"], row["image_id"]) for row in final.to_pylist()}, new


@pytest.mark.slow
def test_equal_pixels_in_another_file_are_always_found_and_others_never():
    known, urls = KnownImages(), {}
    for number, picture in enumerate(fixture_images()[::4]):
        for kind in ("image/png", "image/webp"):
            image = normalize_image(encode_as(picture.data, kind), size_px=128, max_px=4096)
            ends, _ = resolve(known, (f"{number}.{kind}", image.image_id, image.fingerprint), near=False)
            urls.update(ends)
    kept = [url for url, (outcome, _) in urls.items() if outcome == "kept"]
    assert kept == [url for url in urls if url.endswith("png")]


def test_a_near_duplicate_names_the_known_url_and_the_distance(pictures):
    known, first = KnownImages(), pictures[0]
    copy = resized(first, fixture_images()[0].data)
    resolve(known, ("a", first.image_id, first.fingerprint))
    final, new = resolve_duplicates(shard_outcomes(("b", copy.image_id, copy.fingerprint)), known, near=True)
    (row,) = final.to_pylist()
    assert (row["outcome"], row["image_id"], new) == ("duplicate-of", first.image_id, set())
    assert row["reason"].startswith("looks like a (distance 0.0")


def test_near_duplicates_are_kept_if_configured(pictures):
    known, first = KnownImages(), pictures[0]
    copy = resized(first, fixture_images()[0].data)
    _, new = resolve(known, ("a", "1", first.fingerprint), ("b", "2", copy.fingerprint), near=False)
    assert new == {"a", "b"}


def test_near_duplicates_within_one_shard_give_one_image(pictures):
    ends, new = resolve(KnownImages(), ("a", "1", pictures[0].fingerprint), ("b", "2", pictures[0].fingerprint))
    assert (ends, new) == ({"a": ("kept", "1"), "b": ("duplicate-of", "1")}, {"a"})


def test_near_duplicates_are_not_chained(pictures):
    (values,) = unpack([pictures[0].fingerprint])

    def changed(levels):
        cells = values[HEADER:].reshape(VIEWS, GRID, GRID, 4).copy()
        cells[:, 12:14, 12:14, 0] -= levels  # four cells in the middle
        return pack(values[:4].tolist(), cells.tobytes())

    a, b, c = (changed(levels) for levels in (0, 2, 4))  # a step of 2 levels is noise, two are a difference
    ends, _ = resolve(KnownImages(), ("a", "1", a), ("b", "2", b), ("c", "3", c))
    assert [ends[url][0] for url in "abc"] == ["kept", "duplicate-of", "kept"]
    ends, _ = resolve(KnownImages(), ("b", "2", b), ("c", "3", c))
    assert ends["c"] == ("duplicate-of", "2")


def test_an_image_that_is_committed_with_its_url_is_not_added_again(pictures):
    known = KnownImages()
    resolve(known, ("a", "1", pictures[0].fingerprint))
    assert resolve(known, ("a", "1", pictures[0].fingerprint)) == ({"a": ("kept", "1")}, set())


def test_a_url_whose_image_changed_only_in_its_encoding_keeps_the_committed_one(pictures):
    known = KnownImages()
    resolve(known, ("a", "1", pictures[0].fingerprint))
    assert resolve(known, ("a", "2", pictures[0].fingerprint)) == ({"a": ("kept", "1")}, set())


def test_images_without_fingerprint_are_matched_by_pixels(pictures):
    images = pa.table({"image_id": ["1"], "source_url": ["a"], "fingerprint": pa.array([None], pa.binary())})
    ends, _ = resolve(
        KnownImages.load(images), ("b", "1", pictures[0].fingerprint), ("c", "2", pictures[0].fingerprint)
    )
    assert ends == {"b": ("duplicate-of", "1"), "c": ("kept", "2")}


@pytest.mark.parametrize("seed", range(12))
def test_any_shards_and_any_interruption_give_distinct_images_and_one_outcome_per_url(pictures, seed):
    rng = random.Random(seed)
    rows = [(f"u{n}", picture.image_id, picture.fingerprint) for n, picture in enumerate(rng.choices(pictures, k=80))]
    rows += [(f"d{n}", None, None) for n in range(5)]
    rng.shuffle(rows)
    images, outcomes, fingerprints, known = (
        {},
        {},
        {image_id: fingerprint for _, image_id, fingerprint in rows},
        KnownImages(),
    )
    shards = [rows[i : i + 9] for i in range(0, len(rows), 9)]
    while shards:
        shard = shards.pop(0)
        final, new = resolve_duplicates(shard_outcomes(*shard), known, near=True)
        for row in final.to_pylist():
            if row["url"] in new:
                assert row["image_id"] not in images
                images[row["image_id"]] = row["url"]
        if rng.random() < 0.4:  # killed between the two commits: all is read again, the shard is redone
            table = {"image_id": list(images), "source_url": list(images.values())}
            known = KnownImages.load(
                pa.table({**table, "fingerprint": [fingerprints[image_id] for image_id in images]})
            )
            shards.insert(0, shard)
            continue
        for row in final.to_pylist():
            assert row["url"] not in outcomes
            outcomes[row["url"]] = row
    assert outcomes.keys() == {url for url, _, _ in rows}
    assert {row["image_id"] for row in outcomes.values() if row["outcome"] == "kept"} == images.keys()
    assert images.keys() == {picture.image_id for picture in pictures} & {image_id for _, image_id, _ in rows}


@pytest.mark.parametrize("older", [b"\0" * 1160, b"\0\0\0\0\3".ljust(2312, b"\0")], ids=["first", "third"])
def test_fingerprints_of_an_older_version_are_measured_again_once(tmp_path, older):
    """Of stores from before: the first version had no number, the third one had 12 x 12 cells."""
    store, shown = Store(str(tmp_path)), blobs(6)
    ids, state = fill_images(store, shown), CrawlState(build({"store": str(tmp_path)}, where="test"))
    rows = state.images.read()
    old = pa.array([older] * len(rows), pa.binary())
    rows = rows.set_column(rows.schema.get_field_index("fingerprint"), "fingerprint", old)
    state.images.upsert([state.images.write_file(rows)], ids, app_id="old", metadata={})
    images = Table(store, IMAGES)
    assert renew_fingerprints(images, lambda *_: {}) == 6
    assert renew_fingerprints(images, lambda *_: {}) == 0
    again = {row["image_id"]: row for row in images.read().to_pylist()}
    assert sorted(again) == sorted(ids)
    for picture in shown:
        image = normalize_image(picture.data, size_px=128, max_px=4096)
        assert again[image.image_id]["fingerprint"] == image.fingerprint
    known = KnownImages.load(images.read(["image_id", "source_url", "fingerprint"]))
    assert [found[0].image_id for found in known.index.find([again[ids[0]]["fingerprint"]])] == [ids[0]]
