"""A folder as a store, and a server that does not answer."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from ray_jobs.cli.main import main
from tests.tables import table_with_commits


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def test_a_file_written_once_may_be_read_by_all_who_may_read_others(store):
    store.write(b"1", "refs", "plain")
    assert store.write_if_absent(b"1", "refs", "once") and not store.write_if_absent(b"2", "refs", "once")
    modes = {name: Path(store.path("refs", name)).stat().st_mode for name in store.list("refs")}
    assert set(modes) == {"plain", "once"} and modes["once"] == modes["plain"]
    assert store.read("refs", "once") == b"1"


def test_a_file_is_stored_as_it_is_whatever_its_name_ends_in(store):
    """Arrow compresses and decompresses by the ending of a name unless it is told not to."""
    for name in ("trace.json.gz", "list.zst", "list.bz2"):
        store.write(b"plain", "runs", name)
        assert store.read("runs", name) == b"plain" == Path(store.path("runs", name)).read_bytes()
    store.write(gzip.compress(b"x"), "runs", "trace.json.gz")
    assert gzip.decompress(store.read("runs", "trace.json.gz")) == b"x"


def test_a_store_that_is_not_there_is_not_made_by_reading_it(store, capsys):
    for verb in ("log", "show", "stats", "diff v1", "verify", "tag", "vacuum", "compact", "tag v1", "export csv x"):
        assert main(["dataset", *verb.split(), f"store={store.uri}"]) == 1
        assert capsys.readouterr().err.startswith(f"error: there is no store {store.uri}; name another")
    assert not Path(store.uri).exists()


def test_a_store_below_a_file_is_neither_read_nor_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"is not writable .*choose another"):
        Store(str(tmp_path / "file" / "store")).check_writable()
    with pytest.raises(StoreError, match="cannot write a"):
        Store(str(tmp_path / "file")).write_if_absent(b"1", "a")


def test_reading_writes_nothing(store, capsys):
    table_with_commits(store, "ab")
    before = Path(store.uri).stat().st_mtime_ns
    for verb in ("log", "show", "diff main", "verify", "tag", "branch", "vacuum"):
        assert main(["dataset", *verb.split(), f"store={store.uri}"]) == 0
    assert Path(store.uri).stat().st_mtime_ns == before


def test_a_data_file_that_is_gone_is_one_line(store, capsys):
    table = table_with_commits(store, "ab")
    Path(table.resolve(next(iter(table.live_files())))).unlink()
    for reading in (table.read, table.keys, lambda: list(table.batches(["text_id"])), lambda: table.locate(["a"])):
        with pytest.raises(StoreError, match=f"cannot read table text_embeddings in {store.uri}"):
            reading()
    assert main(["dataset", "show", f"store={store.uri}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_first_use_of_a_store_records_its_format(store):
    store.check_writable()
    assert json.loads(store.read("store.json")) == {"format": 2}
    store.check_writable()
    store.check_readable()
    assert store.list() == ["store.json"], "nothing else is left behind"


def test_the_first_commit_records_the_format_too(store):
    table_with_commits(store, "ab")
    assert json.loads(store.read("store.json")) == {"format": 2}
    store.check_readable()


@pytest.mark.parametrize("name", ["images", "tiles", "texts"])
def test_a_store_of_the_earlier_version_is_refused_with_what_to_do(store, name):
    store.write(b"{}", "tables", name, "_delta_log", f"{0:020d}.json")
    for act in (store.check_readable, store.check_writable, lambda: table_with_commits(store, "ab")):
        with pytest.raises(
            StoreError, match=r"written by an earlier version .*dataset export hf DIR.*dataset import DIR"
        ):
            act()
    assert not store.exists("store.json") and not store.list("tables", "text_embeddings", "_delta_log")


def test_a_store_of_a_later_version_is_refused(store):
    store.write(b'{"format": 3}', "store.json")
    with pytest.raises(StoreError, match="has format 3, this version of emoji-ldm reads format 2"):
        store.check_writable()


def test_tables_of_other_programs_make_no_old_store(store):
    store.write(b"x", "tables", "scores", "part-1.parquet")
    store.check_writable()
    assert store.exists("store.json")


def test_processes_that_create_a_store_at_once_agree(store):
    """Another process may write store.json and the first table between any two steps of this one."""

    class Racing(Store):
        def exists(self, *parts):
            found = super().exists(*parts)
            if parts == ("store.json",) and not found:
                table_with_commits(Store(self.uri), "ab")
            return found

    Racing(store.uri).mark_format()
    store.check_readable()
    assert Table(store, TEXT_EMBEDDINGS).count() == 2


def test_the_branch_of_the_main_line_may_be_written_as_empty_text():
    assert Store("/a", "") == Store("/a") == Store("/a", None)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_a_store_error(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = Store("s3://bucket/store")
    with pytest.raises(StoreError, match="cannot find refs/x in s3://bucket/store"):
        store.exists("refs", "x")
    with pytest.raises(StoreError, match=r"http://127.0.0.1:1 cannot be reached.*AWS_ENDPOINT_URL"):
        store.check_readable()


@pytest.mark.slow
def test_readers_of_a_file_that_is_written_again_never_see_a_part(tmp_path):
    store, seen = Store(str(tmp_path)), set()
    texts = [letter * 200_000 for letter in (b"a", b"b")]
    store.write(texts[0], "file")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [store.write(texts[number % 2], "file") for number in range(200)])
        while not writing.done():
            seen.add(store.read("file"))
    assert seen <= set(texts)
    assert store.list() == ["file"]
