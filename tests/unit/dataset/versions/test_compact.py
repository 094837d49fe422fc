"""Compact, vacuum and verify, on a folder."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.verify import verify
from emoji_ldm.dataset.versions import branch, refs
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.diff import diff
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, apply_vacuum, format_vacuum, plan_vacuum
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import CAPTIONS, IMAGES, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.emoji_images import blobs, image_rows
from tests.unit.dataset.delta.test_upsert import filled
from tests.unit.dataset.test_table import texts
from tests.unit.dataset.versions.test_refs import put

NOW = RetentionPolicy(older_than="0h")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def vacuumed(store, policy=NOW):
    """What went, after the dry run said the same."""
    what = plan_vacuum(store, policy)
    apply_vacuum(store, what, policy)
    return what


def test_compacting_joins_files_and_changes_no_row(store):
    table = filled(store, *([f"k{number}-{row}" for row in range(30)] for number in range(10)))
    before, rows = Table(store, TEXT_EMBEDDINGS, 10), table.read().sort_by("text_id")
    done = compact(Config(store=store.uri), table)
    assert (done.before, done.after, done.version) == (10, 1, 11)
    (file,) = table.live().values()
    groups = pq.ParquetFile(table.resolve(file.path)).metadata
    assert [groups.row_group(number).num_rows for number in range(3)] == [100, 100, 100]
    assert file.bounds("text_id") == ("k0-0", "k9-9") and not diff(before, table).keys
    assert table.read().sort_by("text_id").equals(rows)
    assert compact(Config(store=store.uri), table).version is None
    delta = DeltaTable(store.table_uri("texts"))
    assert delta.history(1)[0]["operation"] == "OPTIMIZE" and delta.to_pyarrow_table().num_rows == 300


def test_large_files_stay_and_each_new_one_is_large_enough(store):
    table = filled(store, *([f"k{number}-{row}" for row in range(20)] for number in range(7)))
    size = max(file.size for file in table.live().values())
    done = compact(Config(store=store.uri), table, file_bytes=size + 1)
    assert (done.before, done.after) == (7, 4), "groups of two, and one left over"
    assert done.after <= -(-done.size // (size + 1)) + 1


def test_compacting_leaves_alone_what_others_do_meanwhile(store):
    table, other = filled(store, "ab", "cd", "ef", "gh"), Table(store, TEXT_EMBEDDINGS)
    assert table.live()
    put(other, "append", "x")
    other.upsert([], ["a"], app_id="drop", metadata={})
    size = max(file.size for file in table.live().values())
    done = compact(Config(store=store.uri), table, file_bytes=size + 1)  # planned before the others' commits
    assert done.version == 7 and table.keys() == set("bcdefghx") and table.count() == 8
    assert len(table.live()) == 4, "b alone, x alone, cd alone, ef and gh joined"


def test_a_full_vacuum_keeps_tags_branches_and_the_newest_rows(store):
    table = filled(store, "ab", "cd")
    tagged = table.read()
    refs.create_tag(store, "v1")
    put(table, "change", "a", caption="new", replace=True)
    branch.create_branch(store, "try")
    put(Table(Store(store.uri, "try"), TEXT_EMBEDDINGS), "own", "q")
    put(table, "again", "a", "c", caption="newer", replace=True)
    table.write_file(texts("orphan"))
    assert len(vacuumed(store).files) == 1, "by default all history is kept, and only the orphan goes"
    what = vacuumed(store, RetentionPolicy(keep="1", older_than="0h"))
    assert what.kept == {"v1": ["texts@2"]} and "tag v1 keeps texts@2" in format_vacuum(what, None)
    assert what.lost == {} and not what.files, "tag and branch hold every file of the past"
    branch.delete_branch(store, "try")
    what = vacuumed(store, RetentionPolicy(keep="1", older_than="0h"))
    assert what.lost == {"texts": [3]} and "texts: 1 versions can no longer be read (3)" in format_vacuum(what, 10)
    assert not list(Path(store.path("branches")).rglob("*.parquet")), "a deleted branch's own files go too"
    assert refs.open_tables(Config(store=store.uri, as_of="v1"), TEXT_EMBEDDINGS)["texts"].read().equals(tagged)
    assert Table(store, TEXT_EMBEDDINGS).keys() == set("abcd")
    with pytest.raises(DatasetError, match=r"texts@3 cannot be read: .* deleted by a vacuum; choose a newer"):
        Table(store, TEXT_EMBEDDINGS, 3).read()
    with pytest.raises(DatasetError, match="deleted by a vacuum"):
        restore(Config(store=store.uri), refs.resolve(store, "texts@3"), Table(store, TEXT_EMBEDDINGS))
    assert not vacuumed(store, RetentionPolicy(keep="1", older_than="0h")).files


def test_young_files_stay_and_a_dry_run_deletes_nothing(store):
    table = filled(store, "ab")
    orphan = table.resolve(table.write_file(texts("orphan")).path)
    what = plan_vacuum(store, RetentionPolicy())
    assert (what.files, what.young) == ({}, 1) and "1 unreferenced files are too young" in format_vacuum(what, None)
    old = time.time() - 25 * 3600
    os.utime(orphan, (old, old))
    what = plan_vacuum(store, RetentionPolicy())
    assert (
        list(what.files) and Path(orphan).exists() and "nothing was deleted: add --apply" in format_vacuum(what, None)
    )
    apply_vacuum(store, what, RetentionPolicy())
    assert not Path(orphan).exists() and table.keys() == {"a", "b"}


def test_dropping_a_version_that_a_tag_holds_names_the_tag(store):
    filled(store, "ab", "cd")
    refs.create_tag(store, "v1", at="texts@1")
    with pytest.raises(ConfigError, match="texts@1 is held by tag v1"):
        plan_vacuum(store, replace(NOW, drop=["texts@1"]))
    with pytest.raises(ConfigError, match="texts@2 cannot be dropped: the newest version"):
        plan_vacuum(store, replace(NOW, drop=["texts@2"]))
    with pytest.raises(ConfigError, match="'soon' is no span of time"):
        plan_vacuum(store, RetentionPolicy(older_than="soon"))


def pictures(store):
    table, rows = Table(store, IMAGES), image_rows(blobs(4))
    table.commit([table.write_file(rows)], app_id="one", metadata={})
    return table, rows


def test_verify_finds_a_picture_that_is_not_its_id(store):
    table, rows = pictures(store)
    assert not verify({"images": table}).damages and verify({"images": table}).rows == {"images": 4}
    broken = rows.slice(0, 2).to_pylist()
    broken[0] |= {"image_id": "0" * 64}
    broken[1] |= {"image_id": "1" * 64, "image": {"bytes": b"\x89PNG no", "path": ""}}
    table.commit([table.write_file(pa.Table.from_pylist([*broken, rows.to_pylist()[3]], IMAGES.schema))],
                 app_id="two", metadata={})  # fmt: skip
    found = {damage.key[:2]: damage.reason for damage in verify({"images": table}).damages}
    assert found.pop("00") == "pixels have another hash" and "cannot be decoded" in found.pop("11")
    assert list(found.values()) == ["key is there twice"]


def test_verify_finds_flipped_bits_missing_files_and_orphans(store):
    table, rows = pictures(store)
    captions = Table(store, CAPTIONS)
    wanted = [{"caption_id": "c1", "image_id": rows["image_id"][0].as_py()}, {"caption_id": "c2", "image_id": "gone"}]
    filled_rows = [{name: row.get(name) for name in CAPTIONS.schema.names} for row in wanted]
    file = captions.write_file(pa.Table.from_pylist(filled_rows, CAPTIONS.schema))
    captions.commit([file], app_id="one", metadata={})
    found = verify({"captions": captions, "images": table})
    assert [(orphan.key, orphan.reason) for orphan in found.orphans] == [("c2", "there is no image gone")]
    assert not found.damages, "a refresh leaves captions of pictures that changed: readers pass them by"
    path = Path(table.resolve(next(iter(table.live()))))
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 8
    data[place] ^= 255
    path.write_bytes(data)
    reasons = [damage.reason for damage in verify({"images": table}).damages]
    assert "CRC" in reasons[0] and any("hash" in reason or "decoded" in reason for reason in reasons[1:])
    path.unlink()
    assert "is not there" in verify({"images": table}).damages[0].reason
