"""A vacuum deletes what nothing references, and leaves alone what is in use, recent, named meanwhile or not ours."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import branch, lock, refs
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, apply_vacuum, format_vacuum, plan_vacuum
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.tables import RUN, commit_rows, embedding_rows, table_with_commits

ALL_HISTORY = RetentionPolicy(older_than="0h")
NOW = RetentionPolicy(keep_history="1", older_than="0h")


def vacuumed(store, policy=ALL_HISTORY):
    """What went, after the dry run said the same."""
    plan = plan_vacuum(store, policy)
    apply_vacuum(store, plan, policy)
    return plan


def test_a_full_vacuum_keeps_tags_branches_and_the_newest_rows(store):
    table = table_with_commits(store, "ab", "cd")
    tagged = table.read()
    refs.create_tag(store, "v1")
    commit_rows(table, "change", "a", caption="new", replace=True)
    branch.create_branch(store, "try")
    commit_rows(Table(Store(store.uri, "try"), TEXT_EMBEDDINGS), "own", "q")
    commit_rows(table, "again", "a", "c", caption="newer", replace=True)
    table.write_file(embedding_rows("orphan"))
    assert len(vacuumed(store).files) == 1, "by default all history is kept, and only the orphan goes"
    plan = vacuumed(store, RetentionPolicy(keep_history="1", older_than="0h"))
    assert plan.kept_by_tag == {"v1": ["text_embeddings@2"]} and "tag v1 keeps text_embeddings@2" in format_vacuum(
        plan, None
    )
    assert plan.lost_versions == {} and not plan.files, "tag and branch hold every file of the past"
    branch.delete_branch(store, "try")
    plan = vacuumed(store, RetentionPolicy(keep_history="1", older_than="0h"))
    assert plan.lost_versions == {
        "text_embeddings": [3]
    } and "text_embeddings: 1 versions can no longer be read (3)" in format_vacuum(plan, 10)
    assert not list(Path(store.path("branches")).rglob("*.parquet")), "a deleted branch's own files go too"
    assert refs.open_tables(store, "v1", TEXT_EMBEDDINGS)["text_embeddings"].read().equals(tagged)
    assert Table(store, TEXT_EMBEDDINGS).keys() == set("abcd")
    with pytest.raises(DatasetError, match=r"text_embeddings@3 cannot be read: .* deleted by a vacuum; choose a newer"):
        Table(store, TEXT_EMBEDDINGS, 3).read()
    with pytest.raises(DatasetError, match="deleted by a vacuum"):
        restore(refs.resolve(store, "text_embeddings@3"), Table(store, TEXT_EMBEDDINGS), RUN)
    assert not vacuumed(store, RetentionPolicy(keep_history="1", older_than="0h")).files


def test_young_files_stay_and_a_dry_run_deletes_nothing(store):
    table = table_with_commits(store, "ab")
    orphan = table.resolve(table.write_file(embedding_rows("orphan")).path)
    plan = plan_vacuum(store, RetentionPolicy())
    assert (plan.files, plan.num_recent) == ({}, 1) and "1 unreferenced files are too young" in format_vacuum(
        plan, None
    )
    old = time.time() - 25 * 3600
    os.utime(orphan, (old, old))
    plan = plan_vacuum(store, RetentionPolicy())
    assert (
        list(plan.files) and Path(orphan).exists() and "nothing was deleted: add --apply" in format_vacuum(plan, None)
    )
    apply_vacuum(store, plan, RetentionPolicy())
    assert not Path(orphan).exists() and table.keys() == {"a", "b"}


def test_dropping_a_version_that_a_tag_holds_names_the_tag(store):
    table_with_commits(store, "ab", "cd")
    refs.create_tag(store, "v1", at="text_embeddings@1")
    with pytest.raises(ConfigError, match="text_embeddings@1 is pinned by tag v1"):
        plan_vacuum(store, replace(ALL_HISTORY, drop=["text_embeddings@1"]))
    with pytest.raises(ConfigError, match="text_embeddings@2 cannot be dropped: the newest version"):
        plan_vacuum(store, replace(ALL_HISTORY, drop=["text_embeddings@2"]))
    with pytest.raises(ConfigError, match="'soon' is no duration"):
        plan_vacuum(store, RetentionPolicy(older_than="soon"))


def names_of_old_files(store):
    """All commands that give version 2 a new name."""
    return {
        "tag": lambda: refs.create_tag(store, "late", at="text_embeddings@2"),
        "branch": lambda: branch.create_branch(store, "late", "text_embeddings@2"),
        "restore": lambda: restore(refs.resolve(store, "text_embeddings@2"), Table(store, TEXT_EMBEDDINGS), RUN),
    }


class Interrupted(Store):
    """A store on which somebody names old files just when the first of them is deleted."""

    def remove(self, *parts):
        for name, act in names_of_old_files(Store(self.uri)).items():
            with pytest.raises(DatasetError, match=f"{name}.* has to wait for vacuum, which is running"):
                act()
        super().remove(*parts)


def test_no_tag_branch_or_restore_comes_into_being_while_a_vacuum_deletes(store, monkeypatch):
    table = table_with_commits(store, "ab", "cd")
    compact(table, RUN)
    monkeypatch.setattr(lock, "MAX_WAIT_S", 0)
    assert apply_vacuum(Interrupted(store.uri), plan_vacuum(store, NOW), NOW) > 0
    assert not refs.tags(store) and not refs.branches(store) and Table(store, TEXT_EMBEDDINGS).keys() == set("abcd")
    for act in names_of_old_files(store).values():
        with pytest.raises(DatasetError, match="text_embeddings@2 cannot be read: 2 of its 2 files were deleted"):
            act()
    assert not refs.tags(store) and not refs.branches(store) and Table(store, TEXT_EMBEDDINGS).version == 3
    assert refs.create_tag(store, "v1")["tables"] == {"text_embeddings": 3} and not store.exists(*lock.LOCK_PATH)


@pytest.mark.parametrize("name", ["tag", "branch", "restore"])
def test_what_was_named_after_the_plan_is_kept(store, name):
    compact(table_with_commits(store, "ab", "cd"), RUN)
    plan = plan_vacuum(store, NOW)
    names_of_old_files(store)[name]()
    assert len(plan.files) == 2 and apply_vacuum(store, plan, NOW) == 0
    assert Table(store, TEXT_EMBEDDINGS, 2).keys() == set("abcd") == Table(store, TEXT_EMBEDDINGS).keys()


def test_files_that_left_their_table_a_moment_ago_stay_however_old_they_are(store):
    table, old = table_with_commits(store, "ab", "cd"), time.time() - 48 * 3600
    for path in table.live_files():
        os.utime(table.resolve(path), (old, old))
    compact(table, RUN)  # a job may be about to read what it joined
    plan = plan_vacuum(store, RetentionPolicy(keep_history="1"))
    assert (plan.files, plan.num_recent) == ({}, 2) and "2 unreferenced files are too young or left" in format_vacuum(
        plan, None
    )
    assert len(plan_vacuum(store, NOW).files) == 2


def test_a_table_of_somebody_else_is_left_alone(store):
    table_with_commits(store, "ab")
    branch.create_branch(store, "try")
    for folder in ("tables", f"{refs.branches(store)['try']['folder']}/tables"):
        store.write(b"x", folder, "scores", "part-1.parquet")
    plan = plan_vacuum(store, NOW)
    assert not plan.files and [Path(folder).name for folder in plan.foreign_folders] == ["scores", "scores"]
    assert "tables/scores is no table of this library: left alone" in format_vacuum(plan, None)
    branch.delete_branch(store, "try")
    assert [path for path in plan_vacuum(store, NOW).files if "scores" in path], "a deleted branch goes with all it had"
