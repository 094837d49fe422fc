"""Branches: they share files with their base and go their own way."""

import shutil

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import branch, refs
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.tables import captions_by_key, commit_rows, table_with_commits


def test_a_branch_starts_without_copies_and_goes_its_own_way(store, tmp_path):
    main = table_with_commits(store, "ab", "cd")
    refs.create_tag(store, "v1")
    assert branch.create_branch(store, "try", "v1")["tables"] == {"text_embeddings": 2}
    own = Table(Store(store.uri, "try"), TEXT_EMBEDDINGS)
    assert own.keys() == set("abcd") and not list(tmp_path.rglob("branches/**/*.parquet"))
    assert commit_rows(own, f"first:{'ab'}", "zz") is None, "what main has finished is finished here"
    assert commit_rows(own, "new", "a", "x", caption="branch", replace=True) == 1
    assert captions_by_key(own) == {"a": "branch", "b": "b", "c": "c", "d": "d", "x": "branch"}
    assert commit_rows(main, "main", "m") == 3 and main.keys() == set("abcdm")
    moved = tmp_path / "moved"
    shutil.move(store.uri, moved)
    again = Table(Store(str(moved), "try"), TEXT_EMBEDDINGS)
    assert captions_by_key(again)["a"] == "branch" and captions_by_key(again)["d"] == "d"
    again.delta().create_checkpoint()
    assert Table(again.store, TEXT_EMBEDDINGS).keys() == set("abcdx")
    branch.create_branch(again.store, "deeper", "try")
    assert Table(Store(str(moved), "deeper"), TEXT_EMBEDDINGS).keys() == set("abcdx")


def test_a_branch_that_is_not_there_or_is_tagged_is_named(store):
    table_with_commits(store, "ab")
    branch.create_branch(store, "try")
    with pytest.raises(DatasetError, match=r"no branch 'tri'.*did you mean 'try'"):
        Store(store.uri, "tri").check_writable()
    refs.create_tag(Store(store.uri, "try"), "held")
    with pytest.raises(ConfigError, match="pinned by tag held"):
        branch.delete_branch(store, "try")
    refs.delete_tag(store, "held")
    branch.delete_branch(store, "try")
    assert not refs.branches(store)
    for name in ("v1/../x", "main", "1", "try@1"):
        with pytest.raises(ConfigError, match="is not allowed"):
            refs.check_name(store, name)


class LostResponses(Store):
    """Every conditional PUT succeeds, but its response is lost, so that the automatic retry is refused."""

    def write_if_absent(self, data, *parts):
        super().write_if_absent(data, *parts)
        return False


def test_a_branch_and_a_tag_are_made_although_the_response_to_their_ref_was_lost(store):
    table_with_commits(store, "ab")
    losing = LostResponses(store.uri)
    assert branch.create_branch(losing, "try")["name"] == "try"
    assert Table(Store(store.uri, "try"), TEXT_EMBEDDINGS).keys() == set("ab"), "its folder stays"
    assert refs.create_tag(losing, "v1")["tables"] == {"text_embeddings": 1}
