"""What a vacuum must not touch: names made meanwhile, files in use until lately, tables that are not ours."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emoji_ldm.config import Config
from emoji_ldm.dataset import branch, refs
from emoji_ldm.dataset import lease as leases
from emoji_ldm.dataset.compact import compact
from emoji_ldm.dataset.lease import lease
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.undo import restore
from emoji_ldm.dataset.vacuum import Policy, apply, as_text, plan
from emoji_ldm.errors import DatasetError
from emoji_ldm.records import TEXTS
from emoji_ldm.store import Store
from tests.unit.dataset.test_rewrite import filled

NOW = Policy(keep="1", older_than="0h")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def names_of_old_files(store):
    """All commands that give version 2 a new name."""
    return {
        "tag": lambda: refs.tag(store, "late", at="texts@2"),
        "branch": lambda: branch.create(store, "late", "texts@2"),
        "restore": lambda: restore(Config(store=store.uri), refs.resolve(store, "texts@2"), Table(store, TEXTS)),
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
    assert apply(Interrupted(store.uri), plan(store, NOW), NOW) > 0
    assert not refs.tags(store) and not refs.branches(store) and Table(store, TEXTS).keys() == set("abcd")
    for act in names_of_old_files(store).values():
        with pytest.raises(DatasetError, match="texts@2 cannot be read: 2 of its 2 files were deleted"):
            act()
    assert not refs.tags(store) and not refs.branches(store) and Table(store, TEXTS).version == 3
    assert refs.tag(store, "v1")["tables"] == {"texts": 3} and not store.exists(*leases.PATH)


@pytest.mark.parametrize("name", ["tag", "branch", "restore"])
def test_what_was_named_after_the_plan_is_kept(store, name):
    compact(Config(store=store.uri), filled(store, "ab", "cd"))
    what = plan(store, NOW)
    names_of_old_files(store)[name]()
    assert len(what.files) == 2 and apply(store, what, NOW) == 0
    assert Table(store, TEXTS, 2).keys() == set("abcd") == Table(store, TEXTS).keys()


def test_a_holder_that_died_is_in_the_way_for_five_minutes_at_most(store):
    filled(store, "ab")
    ended = {"who": "vacuum", "token": "x", "until": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    store.write(json.dumps(ended).encode(), *leases.PATH)
    with lease(store, "tag v1") as held:
        held.until -= leases.LEASE / 2
        held.keep()
        assert held.until > datetime.now(UTC) + leases.LEASE / 2, "renewed"
        held.until = datetime.now(UTC) - timedelta(seconds=1)
        with pytest.raises(DatasetError, match="tag v1 took too long and lost its turn"):
            held.keep()


def test_files_that_left_their_table_a_moment_ago_stay_however_old_they_are(store):
    table, old = filled(store, "ab", "cd"), time.time() - 48 * 3600
    for path in table.live():
        os.utime(table.resolve(path), (old, old))
    compact(Config(store=store.uri), table)  # a job may be about to read what it joined
    what = plan(store, Policy(keep="1"))
    assert (what.files, what.young) == ({}, 2) and "2 unreferenced files are too young or left" in as_text(what, None)
    assert len(plan(store, NOW).files) == 2


def test_a_table_of_somebody_else_is_left_alone(store):
    filled(store, "ab")
    branch.create(store, "try")
    for folder in ("tables", f"{refs.branches(store)['try']['folder']}/tables"):
        store.write(b"x", folder, "scores", "part-1.parquet")
    what = plan(store, NOW)
    assert not what.files and [Path(folder).name for folder in what.unknown] == ["scores", "scores"]
    assert "tables/scores is none of our tables: left alone" in as_text(what, None)
    branch.delete(store, "try")
    assert [path for path in plan(store, NOW).files if "scores" in path], "a deleted branch goes with all it had"
