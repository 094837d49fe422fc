"""Tags, branches, times, diff, restore and revert, on a folder."""

import json
import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import branch, refs
from emoji_ldm.dataset.versions.diff import diff, format_diff
from emoji_ldm.dataset.versions.restore import restore, revert
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import CAPTIONS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.unit.dataset.delta.test_upsert import captions_of, filled, renamed
from tests.unit.dataset.test_table import texts


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "my store"))


def put(table, shard, *keys, caption=None, replace=False):
    """Commit rows as a shard would."""
    rows = renamed(texts(*keys), caption) if caption else texts(*keys)
    return table.upsert([table.write_file(rows)], keys if replace else (), app_id=shard, metadata={"run": "r"})


def restored(store, at, table=None):
    table = table or Table(store, TEXT_EMBEDDINGS)
    return restore(Config(store=store.uri), refs.resolve(store, at, [TEXT_EMBEDDINGS]), table)


def test_a_tag_pins_versions_and_never_changes(store):
    table = filled(store, "ab")
    assert refs.create_tag(store, "v1", "first")["tables"] == {"texts": 1}
    put(table, "two", "c")
    with pytest.raises(ConfigError, match="tag 'v1' exists"):
        refs.create_tag(store, "v1")
    config = Config(store=store.uri, as_of="v1")
    assert refs.open_tables(config, TEXT_EMBEDDINGS)["texts"].keys() == {"a", "b"}
    assert refs.create_tag(store, "old", at="texts@1")["tables"] == {"texts": 1}
    assert list(refs.tags(store)) == ["v1", "old"]
    refs.delete_tag(store, "v1")
    with pytest.raises(ConfigError, match=r"no tag or branch 'v1' \(there are old\)"):
        refs.open_tables(config, TEXT_EMBEDDINGS)


def test_a_tag_or_branch_of_one_tables_version_holds_the_others_at_their_newest(store):
    table, captions = filled(store, "ab", "cd"), Table(store, CAPTIONS)
    refs.create_tag(store, "early")
    row = dict.fromkeys(CAPTIONS.schema.names) | {"caption_id": "c", "image_id": "i"}
    captions.commit([captions.write_file(pa.Table.from_pylist([row], CAPTIONS.schema))], app_id="c", metadata={})
    assert refs.create_tag(store, "one", at="texts@1")["tables"] == {"texts": 1, "captions": 1}
    assert branch.create_branch(store, "try", "texts@1")["tables"] == {"texts": 1, "captions": 1}
    config, point = Config(store=store.uri), refs.resolve(store, "one")
    assert [restore(config, point, one).version for one in (table, captions)] == [3, None]
    assert captions.count() == 1 and table.keys() == {"a", "b"}
    assert restore(config, refs.resolve(store, "early"), captions).version is None, "a tag that does not name it"
    assert captions.count() == 1 and restored(store, "early").version == 4


def test_points_are_tags_times_and_versions(store):
    table = filled(store, "ab", "cd")
    times = [refs.commit_time(entry) for entry in reversed(table.history())]
    assert [entry["version"] for entry in Table(store, TEXT_EMBEDDINGS, 1).history()] == [1, 0]

    def keys(at):
        return refs.resolve(store, at, [TEXT_EMBEDDINGS]).table(TEXT_EMBEDDINGS).keys()

    assert keys(times[1].isoformat()) == {"a", "b"} == keys("1") == keys("texts@1")
    assert keys("") == keys(datetime.now(UTC).isoformat()) == set("abcd")
    tables = refs.open_tables(Config(store=store.uri, as_of="texts@1"), TEXT_EMBEDDINGS, CAPTIONS)
    assert (tables["texts"].version, tables["captions"].pinned) == (1, None)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("1999-01-01", "no commit at or before 1999-01-01 .*the first is of 20"),
        ("2026-13-99", "time '2026-13-99' is refused"),
        ("texts@9", "texts has no version 9: its versions are 0 to 1"),
        ("tests@1", "tests in 'tests@1' is no table; did you mean 'texts'"),
        ("images@1", "images in 'images@1' is not read here"),
        ("v-11", "no tag or branch 'v-11'; did you mean 'v-1'"),
        ("1", "version 1 of which table"),
    ],
)
def test_a_point_that_is_not_there_is_named_with_the_nearest(store, at, text):
    filled(store, "ab")
    refs.create_tag(store, "v-1")
    with pytest.raises((ConfigError, DatasetError), match=text):
        refs.open_tables(Config(store=store.uri, as_of=at), TEXT_EMBEDDINGS, CAPTIONS)


def test_a_branch_starts_without_copies_and_goes_its_own_way(store, tmp_path):
    main = filled(store, "ab", "cd")
    refs.create_tag(store, "v1")
    assert branch.create_branch(store, "try", "v1")["tables"] == {"texts": 2}
    own = Table(Store(store.uri, "try"), TEXT_EMBEDDINGS)
    assert own.keys() == set("abcd") and not list(tmp_path.rglob("branches/**/*.parquet"))
    assert put(own, f"first:{'ab'}", "zz") is None, "what main has finished is finished here"
    assert put(own, "new", "a", "x", caption="branch", replace=True) == 1
    assert captions_of(own) == {"a": "branch", "b": "b", "c": "c", "d": "d", "x": "branch"}
    assert put(main, "main", "m") == 3 and main.keys() == set("abcdm")
    moved = tmp_path / "moved"
    shutil.move(store.uri, moved)
    again = Table(Store(str(moved), "try"), TEXT_EMBEDDINGS)
    assert captions_of(again)["a"] == "branch" and captions_of(again)["d"] == "d"
    again.delta().create_checkpoint()
    assert Table(again.store, TEXT_EMBEDDINGS).keys() == set("abcdx")
    branch.create_branch(again.store, "deeper", "try")
    assert Table(Store(str(moved), "deeper"), TEXT_EMBEDDINGS).keys() == set("abcdx")


def test_a_branch_that_is_not_there_or_is_tagged_is_named(store):
    filled(store, "ab")
    branch.create_branch(store, "try")
    with pytest.raises(DatasetError, match=r"no branch 'tri'.*did you mean 'try'"):
        Store(store.uri, "tri").check()
    refs.create_tag(Store(store.uri, "try"), "held")
    with pytest.raises(ConfigError, match="kept by tag held"):
        branch.delete_branch(store, "try")
    refs.delete_tag(store, "held")
    branch.delete_branch(store, "try")
    assert not refs.branches(store)
    for name in ("v1/../x", "main", "1", "try@1"):
        with pytest.raises(ConfigError, match="is refused"):
            refs.check_name(store, name)


def test_diff_names_added_removed_and_changed_rows_and_fields(store):
    table = filled(store, "abc", "de", "fg")
    put(table, "change", "b", "x", caption="new", replace=True)
    table.upsert([], ["d"], app_id="drop", metadata={})
    found = diff(Table(store, TEXT_EMBEDDINGS, 3), table)
    assert (found.added, found.removed, found.changed) == (["x"], ["d"], {"b": ("caption",)})
    assert (found.num_shared, found.fields()) == (1, {"caption": 1})
    text = format_diff(found, num_rows=5)
    assert "texts  @3 (7 rows) -> @5 (7 rows)" in text and "~ b  caption" in text and "+ x" in text
    assert json.dumps(found.to_dict(2)) and not diff(table, table).keys
    with pytest.raises(ConfigError, match="texts and captions are different tables"):
        diff(table, Table(store, CAPTIONS))


def test_a_shard_that_a_restore_undid_can_be_committed_again_once(store):
    table = Table(store, TEXT_EMBEDDINGS)
    put(table, "zero", "0")
    put(table, "A", "a")
    put(table, "B", "b")
    done = restored(store, "2")
    assert (done.before, done.version, done.counts) == (3, 4, {"added": 0, "removed": 1})
    table.refresh()
    assert put(table, "A", "a") is None, "its rows are still there"
    assert restored(store, "1").version == 5
    table.refresh()
    assert table.keys() == {"0"} and not table.committed("A")
    assert put(table, "A", "a") == 6 and put(table, "A", "a") is None
    assert put(table, "B", "b") == 7
    assert sorted(table.read()["text_id"].to_pylist()) == ["0", "a", "b"]
    assert restored(store, "3").version == 8, "back to before: A and B as they were"
    table.refresh()
    assert table.committed("A") and table.committed("B") and table.keys() == {"0", "a", "b"}
    assert restored(store, "8").version is None
    assert DeltaTable(store.table_uri("texts")).to_pyarrow_table().num_rows == 3


def test_a_revert_undoes_one_commit_and_keeps_later_ones(store):
    table = filled(store, "abc")
    put(table, "change", "b", "x", caption="new", replace=True)
    put(table, "later", "c", "y", caption="later", replace=True)
    config = Config(store=store.uri)
    done = revert(config, table, 2)
    assert (done.version, done.counts) == (4, {"added": 0, "removed": 1, "changed": 1})
    assert captions_of(table) == {"a": "a", "b": "b", "c": "later", "y": "later"}
    assert not table.committed("change") and table.committed("later")
    with pytest.raises(DatasetError, match=r"texts@2 cannot be reverted: 2 of its 2 rows were changed again"):
        revert(config, table, 2)
    revert(config, table, 4)
    assert captions_of(table)["b"] == "new" and table.committed("change")
    assert put(table, "change", "b", "x", caption="new", replace=True) is None
    with pytest.raises(ConfigError, match="texts@9 cannot be reverted"):
        revert(config, table, 9)
    assert json.loads(table.history(1)[0]["parents"]) == {"texts": 4}
