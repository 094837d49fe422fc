"""Tables that another Delta writer, delta-rs, has changed: rows, history and every command go on working."""

import json
from datetime import UTC, datetime

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from emoji_ldm.dataset.delta.delta_log import entry_path
from emoji_ldm.dataset.lineage import RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.verify import verify
from emoji_ldm.dataset.versions.branch import create_branch
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.diff import diff
from emoji_ldm.dataset.versions.history import format_log, format_tables
from emoji_ldm.dataset.versions.refs import resolve
from emoji_ldm.dataset.versions.restore import restore, revert
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, plan_vacuum
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images

RUN = RunInfo("r", "{}")


@pytest.fixture
def ids(store):
    """Nine images in three files, versions 1 to 3; they have a time stamp, texts, numbers, lists and bytes."""
    return sorted(fill_images(store, blobs(9), files=3))


def foreign(store):
    """The table as delta-rs, a writer that knows nothing of this library, opens it."""
    return DeltaTable(store.table_uri("images"))


def delete(store, key):
    foreign(store).delete(f"image_id = '{key}'")


def update(store, key):
    foreign(store).update(updates={"title": "'renamed'"}, predicate=f"image_id = '{key}'")


def upsert(store, key):
    rows = Table(store, IMAGES).read(filter=pc.field("image_id") == key)
    merge = foreign(store).merge(rows, "t.image_id = s.image_id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().execute()


@pytest.mark.parametrize("change", [
    delete, update, upsert,
    lambda store, _: foreign(store).optimize.compact(),
    lambda store, _: foreign(store).optimize.z_order(["image_id"]),
    lambda store, key: write_deltalake(foreign(store), Table(store, IMAGES).read(filter=pc.field("image_id") != key),
                                       mode="overwrite"),
])  # fmt: skip
def test_rows_and_history_survive_a_change_by_another_writer(store, ids, change):
    before = Table(store, IMAGES).read().sort_by("image_id")
    change(store, ids[4])
    table, old = Table(store, IMAGES), Table(store, IMAGES, version=3)
    kept = set(ids) - ({ids[4]} if table.count() == 8 else set())
    assert (table.version, table.keys()) == (4, kept)
    assert old.read().sort_by("image_id").equals(before), "an older version reads as before"
    columns = ["image_id", "image", "fetched_at", "tags"]
    expected = before.filter(pc.field("image_id").isin(sorted(kept))).select(columns)
    assert table.read_located(table.locate(ids), columns).sort_by("image_id").equals(expected)
    assert table.read(columns, filter=pc.field("image_id").isin(ids)).sort_by("image_id").equals(expected)
    assert sum(batch.num_rows for batch in table.batches(columns)) == table.count() == len(kept)
    assert all(isinstance(row["fetched_at"], datetime) for row in table.head(3).to_pylist())
    assert verify({"images": table}).problems == []
    assert "images  (version 4" in format_log(store, None) and "image_id" in format_tables(store, None)
    changed = diff(old, table)
    assert (changed.added, changed.removed) == ([], sorted(set(ids) - kept))
    assert plan_vacuum(store, RetentionPolicy()).files == {}


def test_our_own_commits_go_on_after_those_of_another_writer(store, ids):
    delete(store, ids[0])
    table = Table(store, IMAGES)
    row = table.read(filter=pc.field("image_id") == ids[1])
    table.upsert([table.write_file(row)], [ids[1]], app_id="again", metadata={})
    assert sorted(table.read(["image_id"])["image_id"].to_pylist()) == ids[1:]
    compact(table, RUN)
    assert (table.count(), len(table.live_files())) == (8, 1)


def test_a_deletion_by_another_writer_is_reverted_or_restored(store, ids):
    before = Table(store, IMAGES).read().sort_by("image_id")
    delete(store, ids[0])
    assert revert(Table(store, IMAGES), 4, RUN).version == 5
    assert Table(store, IMAGES).read().sort_by("image_id").equals(before)
    update(store, ids[3])
    update(store, ids[3])
    # The restored version names files of both writers, with the bounds that the other one stated for them.
    assert restore(resolve(store, "images@6"), Table(store, IMAGES), RUN).version == 8
    delete(store, ids[1])
    assert Table(store, IMAGES).keys() == set(ids) - {ids[1]}


def test_a_branch_takes_over_what_another_writer_did(store, ids):
    delete(store, ids[0])
    create_branch(store, "try")
    branch = Store(store.uri, "try")
    row = Table(branch, IMAGES).read(filter=pc.field("image_id") == ids[1])
    # delta-rs 1.6.6 refuses to rewrite files outside a table's folder, so that it can only append to a branch.
    write_deltalake(foreign(branch), row, mode="append")
    table = Table(branch, IMAGES)
    assert (table.count(), table.keys(), Table(store, IMAGES).count()) == (9, set(ids[1:]), 8)


def test_bounds_are_written_as_delta_has_them(store, ids):
    delete(store, ids[0])
    for file in Table(store, IMAGES).live_files().values():
        low, high = file.bounds("image_id")
        assert ids[0] < low <= high
        when = json.loads(file.stats)["minValues"].get("fetched_at")
        assert when is None or datetime.fromisoformat(when).tzinfo == UTC


def test_a_file_without_statistics_is_counted_from_its_footer(store, ids):
    table = Table(store, IMAGES)
    rows = table.read(filter=pc.field("image_id") == ids[0])
    file = table.write_file(rows)
    add = {"path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": 0, "dataChange": True}
    store.write_if_absent((json.dumps({"add": add}) + "\n").encode(), entry_path(table.path, 4))
    assert Table(store, IMAGES).count() == 10


def test_a_table_with_deletion_vectors_is_refused_rather_than_read_with_deleted_rows(store, ids):
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"]}  # fmt: skip
    line = json.dumps({"protocol": protocol}) + "\n"
    store.write_if_absent(line.encode(), entry_path(Table(store, IMAGES).path, 4))
    with pytest.raises(DatasetError, match=r"features that this program cannot read \(deletionVectors\)"):
        Table(store, IMAGES).count()
