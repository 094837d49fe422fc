"""Tags, times and versions as points in the history, on a folder."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import branch, refs
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import CAPTIONS, TEXT_EMBEDDINGS
from tests.tables import RUN, commit_rows, table_with_commits


def test_a_tag_pins_versions_and_never_changes(store):
    table = table_with_commits(store, "ab")
    assert refs.create_tag(store, "v1", "first")["tables"] == {"text_embeddings": 1}
    commit_rows(table, "two", "c")
    with pytest.raises(ConfigError, match="tag 'v1' exists"):
        refs.create_tag(store, "v1")
    assert refs.open_tables(store, "v1", TEXT_EMBEDDINGS)["text_embeddings"].keys() == {"a", "b"}
    assert refs.create_tag(store, "old", at="text_embeddings@1")["tables"] == {"text_embeddings": 1}
    assert list(refs.tags(store)) == ["v1", "old"]
    refs.delete_tag(store, "v1")
    with pytest.raises(ConfigError, match=r"no tag or branch 'v1' \(there are old\)"):
        refs.open_tables(store, "v1", TEXT_EMBEDDINGS)


def test_a_tag_or_branch_of_one_tables_version_holds_the_others_at_their_newest(store):
    table, captions = table_with_commits(store, "ab", "cd"), Table(store, CAPTIONS)
    refs.create_tag(store, "early")
    row = dict.fromkeys(CAPTIONS.schema.names) | {"caption_id": "c", "image_id": "i"}
    captions.commit([captions.write_file(pa.Table.from_pylist([row], CAPTIONS.schema))], app_id="c", metadata={})
    assert refs.create_tag(store, "one", at="text_embeddings@1")["tables"] == {"text_embeddings": 1, "captions": 1}
    assert branch.create_branch(store, "try", "text_embeddings@1")["tables"] == {"text_embeddings": 1, "captions": 1}
    point = refs.resolve(store, "one")
    assert [restore(point, one, RUN).version for one in (table, captions)] == [3, None]
    assert captions.count() == 1 and table.keys() == {"a", "b"}
    assert restore(refs.resolve(store, "early"), captions, RUN).version is None, "a tag that does not name it"
    assert captions.count() == 1 and restore(refs.resolve(store, "early"), table, RUN).version == 4


def test_points_are_tags_times_and_versions(store):
    table = table_with_commits(store, "ab", "cd")
    times = [refs.commit_time(entry) for entry in reversed(table.history())]
    assert [entry["version"] for entry in Table(store, TEXT_EMBEDDINGS, 1).history()] == [1, 0]

    def keys(at):
        return refs.resolve(store, at, [TEXT_EMBEDDINGS]).table(TEXT_EMBEDDINGS).keys()

    assert keys(times[1].isoformat()) == {"a", "b"} == keys("1") == keys("text_embeddings@1")
    assert keys("") == keys(datetime.now(UTC).isoformat()) == set("abcd")
    tables = refs.open_tables(store, "text_embeddings@1", TEXT_EMBEDDINGS, CAPTIONS)
    assert (tables["text_embeddings"].version, tables["captions"].pinned) == (1, None)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("1999-01-01", "no commit at or before 1999-01-01 .*the first is of 20"),
        ("2026-13-99", "time '2026-13-99' is invalid"),
        ("text_embeddings@9", "text_embeddings has no version 9: its versions are 0 to 1"),
        ("text_embedding@1", "text_embedding in 'text_embedding@1' is no table; did you mean 'text_embeddings'"),
        ("images@1", "images in 'images@1' is not read here"),
        ("v-11", "no tag or branch 'v-11'; did you mean 'v-1'"),
        ("1", "version 1 of which table"),
    ],
)
def test_a_point_that_is_not_there_is_named_with_the_nearest(store, at, text):
    table_with_commits(store, "ab")
    refs.create_tag(store, "v-1")
    with pytest.raises((ConfigError, DatasetError), match=text):
        refs.open_tables(store, at, TEXT_EMBEDDINGS, CAPTIONS)
