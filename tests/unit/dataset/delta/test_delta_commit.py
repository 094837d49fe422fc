"""The commit protocol: one winner per version, lost responses, guarded writers."""

import pytest

from emoji_ldm.dataset.delta import delta_commit
from emoji_ldm.dataset.delta.delta_commit import commit_entry
from emoji_ldm.dataset.delta.delta_log import LogEntry
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.tables import RUN, commit_rows, table_with_commits


def test_the_loser_of_a_race_plans_again_on_the_winners_version(store):
    winner, loser = table_with_commits(store, "ab"), Table(store, TEXT_EMBEDDINGS)
    assert loser.version == 1
    commit_rows(winner, "winner", "c")
    seen = []

    def plan():
        seen.append(loser.version)
        return LogEntry(metadata={"run": "loser"})

    assert commit_entry(loser, plan) == 3
    assert seen == [1, 2] and loser.history(1)[0]["run"] == "loser"


def test_a_plan_with_nothing_left_to_do_commits_nothing(store):
    table = table_with_commits(store, "ab")
    assert commit_entry(table, lambda: None) is None and table.version == 1


def test_a_write_whose_response_was_lost_counts_as_ours(store):
    class LosesResponse(Store):
        def write_if_absent(self, data, *parts):
            super().write_if_absent(data, *parts)
            return False  # what a refused automatic retry of a PUT looks like

    table_with_commits(store, "ab")
    assert commit_rows(Table(LosesResponse(store.uri), TEXT_EMBEDDINGS), "two", "c") == 2
    assert Table(store, TEXT_EMBEDDINGS).keys() == set("abc")


def test_endless_contention_ends_in_one_line(store, monkeypatch):
    class AlwaysSecond(Store):
        def write_if_absent(self, data, *parts):
            return False

    table_with_commits(store, "ab")
    monkeypatch.setattr(delta_commit, "MAX_CONTENTION_S", 0.1)
    with pytest.raises(DatasetError, match="other writers won every commit for 0 s; run the command again"):
        commit_rows(Table(AlwaysSecond(store.uri), TEXT_EMBEDDINGS), "two", "c")


def test_a_guarded_writer_stops_when_others_change_rows_but_not_when_they_compact(store):
    guarded, other = table_with_commits(store, "ab", "cd"), Table(store, TEXT_EMBEDDINGS)
    guarded.expected_version = guarded.version
    assert compact(other, RUN).version == 3
    assert commit_rows(guarded, "mine", "e") == 4 and guarded.expected_version == 4
    other.refresh()
    commit_rows(other, "theirs", "f")
    with pytest.raises(DatasetError, match=r"another job wrote to table text_embeddings .*\(version 5\)"):
        commit_rows(guarded, "mine too", "g")
    assert Table(store, TEXT_EMBEDDINGS).keys() == set("abcdef")


def test_every_hundredth_version_has_a_checkpoint_for_readers(store, monkeypatch):
    monkeypatch.setattr(delta_commit, "CHECKPOINT_EVERY", 2)
    table_with_commits(store, "ab", "cd", "ef")
    names = store.list("tables/text_embeddings/_delta_log")
    assert [name for name in names if "checkpoint" in name] == [f"{2:020d}.checkpoint.parquet", "_last_checkpoint"]
