"""Store and tables on a real S3 server: the same contract as on a folder."""

import threading

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.tables import embedding_rows


def test_files_are_written_listed_read_and_written_once(s3_uri):
    store = Store(s3_uri)
    store.check_writable()
    store.write(b"one", "a", "b.txt")
    assert store.read("a", "b.txt") == b"one" and store.exists("a", "b.txt") and not store.exists("a", "c")
    assert store.list("a") == ["b.txt"] and store.list("nothing") == []
    assert store.write_if_absent(b"1", "token") and not store.write_if_absent(b"2", "token")
    assert store.read("token") == b"1"
    store.delete("a")
    assert store.list("a") == []


def test_a_file_is_stored_as_it_is_whatever_its_name_ends_in(s3_uri):
    store = Store(s3_uri)
    store.write(b"plain", "runs", "trace.json.gz")
    assert store.read("runs", "trace.json.gz") == b"plain"
    assert store.filesystem.get_file_info(store.path("runs", "trace.json.gz")).size == 5


def test_the_format_is_recorded_once_and_an_earlier_one_refused(s3_uri):
    store = Store(s3_uri)
    store.check_writable()
    store.check_readable()
    assert store.list() == ["store.json"] and store.read("store.json") == b'{"format": 2}'
    old = Store(f"{s3_uri}-old")
    old.write(b"{}", "tables", "tiles", "_delta_log", f"{0:020d}.json")
    for check in (old.check_writable, old.check_readable):
        with pytest.raises(StoreError, match="written by an earlier version of emoji-ldm"):
            check()


def test_commits_are_exactly_once_with_racing_writers(s3_uri):
    results = []

    def work():
        table = Table(Store(s3_uri), TEXT_EMBEDDINGS)
        for number in range(5):
            file = table.write_file(embedding_rows(f"row-{number}"))
            results.append(table.commit([file], app_id=f"shard-{number}", metadata={"run": "r"}))

    threads = [threading.Thread(target=work) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    table = Table(Store(s3_uri), TEXT_EMBEDDINGS)
    assert table.count() == len(table.keys()) == 5
    assert len([version for version in results if version is not None]) == 5
    assert table.read_located(table.locate(["row-3"]), ["text_id"]).column(0).to_pylist() == ["row-3"]


def test_a_checkpoint_counts_only_once_complete(s3_uri, tmp_path):
    store = Store(s3_uri)
    (tmp_path / "made" / "vae").mkdir(parents=True)
    (tmp_path / "made" / "vae" / "w.bin").write_bytes(b"weights")
    for step in (1, 2, 3):
        path = f"checkpoints/r/unet/{checkpoints.folder_name(step)}"
        store.upload(tmp_path / "made", path)
        if step < 3:
            checkpoints.publish_checkpoint(store, path, {"step": step})
    found = checkpoints.newest_checkpoint(store, "r", "unet")
    assert found.step == 2, "step 3 was never declared complete"
    assert (found.fetch(tmp_path / "cache", "vae") / "w.bin").read_bytes() == b"weights"
    checkpoints.prune_checkpoints(store, "r", "unet", keep=1)
    assert [checkpoint.step for checkpoint in checkpoints.complete_checkpoints(store, "r", "unet")] == [2]


def test_a_wrong_secret_and_a_missing_bucket_are_named(s3_uri, s3_env, monkeypatch):
    with pytest.raises(StoreError, match="no bucket 'not-there-0815'"):
        Store("s3://not-there-0815/x").check_writable()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY"):
        Store(s3_uri).check_writable()
