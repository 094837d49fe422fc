"""How images and captions become shards, and how their rows are read back."""

import pyarrow as pa

from emoji_ldm.caption.planner import CaptionPlan
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from ray_jobs.execution import shards
from tests.emoji_images import blobs, fill_images


def images(tmp_path, count=7):
    store = Store(str(tmp_path))
    ids = fill_images(store, blobs(count))
    return store, Table(store, IMAGES), ids


def test_images_are_split_once_each_and_the_same_way_every_time(tmp_path):
    _, table, ids = images(tmp_path)
    first = shards.of_images(table, [*ids, "of no image"], rows_per_shard=3, key="k")
    again = shards.of_images(table, list(reversed(ids)), rows_per_shard=3, key="k")
    assert [shard.num_items for shard in first] == [3, 3, 1]
    assert [shard.name for shard in first] == [shard.name for shard in again]
    assert {shard.name for shard in shards.of_images(table, ids, rows_per_shard=3, key="other")}.isdisjoint(
        shard.name for shard in first
    )
    located = [image_id for shard in first for several in shard.payload["located"].values() for image_id in several]
    assert sorted(located) == sorted(ids)


def test_a_worker_reads_the_columns_of_its_shard(tmp_path):
    store, table, ids = images(tmp_path)
    (shard,) = shards.of_images(table, ids, rows_per_shard=9, key="k")
    rows = shards.image_reader(store, ("image_id", "image"))(shard.payload)
    assert rows.column_names == ["image_id", "image"] and sorted(rows["image_id"].to_pylist()) == sorted(ids)


def test_captions_of_similar_length_share_a_shard():
    found = shards.of_captions({"a cat", "a very long caption of a cat", "a dog"}, rows_per_shard=2, key="k")
    assert [shard.payload["captions"] for shard in found] == [["a cat", "a dog"], ["a very long caption of a cat"]]
    assert shards.read_captions(found[0].payload)["caption"].to_pylist() == ["a cat", "a dog"]


def test_local_images_travel_with_their_shards_and_keep_their_bytes():
    source = shards.local_images({"a": b"\x89PNG", "b": b"x"}, rows_per_shard=9)
    (shard,) = source.split({"a", "b"}, key="k")
    rows = source.read(shard.payload).to_pylist()
    assert [(row["image_id"], row["image"]["bytes"]) for row in rows] == [("a", b"\x89PNG"), ("b", b"x")]
    augmented = shards.augmentation_reader(source.read)({"augmentation": 3, "images": shard.payload})
    assert augmented["augmentation"].to_pylist() == [3, 3]


def test_the_name_of_a_planned_shard_says_what_is_planned_and_of_a_retry_also_when(tmp_path):
    _, table, ids = images(tmp_path, 1)
    (shard,) = shards.of_images(table, ids, rows_per_shard=9, key="k")

    def named(plan, version):
        planned = shards.planned(shard, {ids[0]: plan}, version)
        return planned.name, planned.num_items, planned.replaces

    first, retry = CaptionPlan({0: 0, 1: 0}), CaptionPlan({0: 2}, replaces=["old"])
    assert named(first, 1) == named(first, 2) and named(first, 1)[1:] == (2, ())
    assert named(retry, 1) != named(retry, 2) and named(retry, 1)[1:] == (1, ("old",))
    assert named(first, 1)[0] != named(CaptionPlan({0: 0}), 1)[0]


def test_a_worker_reads_the_plan_beside_each_image(tmp_path):
    store, table, ids = images(tmp_path, 1)
    (shard,) = shards.of_images(table, ids, rows_per_shard=9, key="k")
    planned = shards.planned(shard, {ids[0]: CaptionPlan({0: 1})}, 1)
    rows = shards.planned_reader(store, ("image_id",))(planned.payload)
    assert isinstance(rows, pa.Table) and rows.column_names == ["image_id", "plan"] and rows.num_rows == 1
