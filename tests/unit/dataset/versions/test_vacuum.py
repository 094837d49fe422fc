"""What a vacuum must not touch: names made meanwhile, files in use until lately, tables that are not ours."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import branch, refs
from emoji_ldm.dataset.versions import lock as leases
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, apply_vacuum, format_vacuum, plan_vacuum
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.unit.dataset.delta.test_upsert import filled

NOW = RetentionPolicy(keep="1", older_than="0h")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def names_of_old_files(store):
    """All commands that give version 2 a new name."""
    return {
        "tag": lambda: refs.create_tag(store, "late", at="texts@2"),
        "branch": lambda: branch.create_branch(store, "late", "texts@2"),
        "restore": lambda: restore(
            Config(store=store.uri), refs.resolve(store, "texts@2"), Table(store, TEXT_EMBEDDINGS)
        ),
    }


class Interrupted(Store):
    """A store on which somebody names old files just when the first of them is deleted."""

    def remove(self, *parts):
        for name, act in names_of_old_files(Store(self.uri)).items():
            with pytest.raises(DatasetError, match=f"{name}.* has to wait for vacuum, which is at work"):
                act()
        super().remove(*parts)


def test_no_tag_branch_or_restore_comes_into_being_while_a_vacuum_deletes(store, monkeypatch):
    table = filled(store, "ab", "cd")
    compact(Config(store=store.uri), table)
    monkeypatch.setattr(leases, "PATIENCE_S", 0)
    assert apply_vacuum(Interrupted(store.uri), plan_vacuum(store, NOW), NOW) > 0
    assert not refs.tags(store) and not refs.branches(store) and Table(store, TEXT_EMBEDDINGS).keys() == set("abcd")
    for act in names_of_old_files(store).values():
        with pytest.raises(DatasetError, match="texts@2 cannot be read: 2 of its 2 files were deleted"):
            act()
    assert not refs.tags(store) and not refs.branches(store) and Table(store, TEXT_EMBEDDINGS).version == 3
    assert refs.create_tag(store, "v1")["tables"] == {"texts": 3} and not store.exists(*leases.LOCK_PATH)


@pytest.mark.parametrize("name", ["tag", "branch", "restore"])
def test_what_was_named_after_the_plan_is_kept(store, name):
    compact(Config(store=store.uri), filled(store, "ab", "cd"))
    what = plan_vacuum(store, NOW)
    names_of_old_files(store)[name]()
    assert len(what.files) == 2 and apply_vacuum(store, what, NOW) == 0
    assert Table(store, TEXT_EMBEDDINGS, 2).keys() == set("abcd") == Table(store, TEXT_EMBEDDINGS).keys()


def test_a_holder_that_died_is_in_the_way_for_five_minutes_at_most(store):
    filled(store, "ab")
    ended = {"who": "vacuum", "token": "x", "until": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    store.write(json.dumps(ended).encode(), *leases.LOCK_PATH)
    with store_lock(store, "tag v1") as held:
        held.until -= leases.LOCK_DURATION / 2
        held.keep()
        assert held.until > datetime.now(UTC) + leases.LOCK_DURATION / 2, "renewed"
        held.until = datetime.now(UTC) - timedelta(seconds=1)
        with pytest.raises(DatasetError, match="tag v1 took too long and lost its turn"):
            held.keep()


def test_files_that_left_their_table_a_moment_ago_stay_however_old_they_are(store):
    table, old = filled(store, "ab", "cd"), time.time() - 48 * 3600
    for path in table.live():
        os.utime(table.resolve(path), (old, old))
    compact(Config(store=store.uri), table)  # a job may be about to read what it joined
    what = plan_vacuum(store, RetentionPolicy(keep="1"))
    assert (what.files, what.young) == ({}, 2) and "2 unreferenced files are too young or left" in format_vacuum(
        what, None
    )
    assert len(plan_vacuum(store, NOW).files) == 2


def test_a_table_of_somebody_else_is_left_alone(store):
    filled(store, "ab")
    branch.create_branch(store, "try")
    for folder in ("tables", f"{refs.branches(store)['try']['folder']}/tables"):
        store.write(b"x", folder, "scores", "part-1.parquet")
    what = plan_vacuum(store, NOW)
    assert not what.files and [Path(folder).name for folder in what.unknown] == ["scores", "scores"]
    assert "tables/scores is none of our tables: left alone" in format_vacuum(what, None)
    branch.delete_branch(store, "try")
    assert [path for path in plan_vacuum(store, NOW).files if "scores" in path], "a deleted branch goes with all it had"
