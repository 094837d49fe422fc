"""What the commands of `emoji-ldm dataset` do and print, on a store with two commits."""

import json

import pyarrow as pa
import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS, IMAGES, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from ray_jobs.cli.main import main
from tests.tables import table_with_commits


@pytest.fixture
def dataset(tmp_path, capsys):
    """Runs `emoji-ldm dataset ...` on a store with two commits; gives status and what was printed."""
    store = Store(str(tmp_path / "store"))
    table_with_commits(store, "ab", "cd")

    def run(*words):
        status = main(["dataset", *words, f"store={store.uri}"])
        return status, "".join(capsys.readouterr())

    return run, store


def test_a_tag_restore_and_diff_from_the_command_line(dataset):
    run, store = dataset
    assert run("tag", "v1", "-m", "two shards")[0] == 0
    assert "text_embeddings@2" in run("tag")[1] and "[tag v1]" in run("log", "text_embeddings")[1]
    status, text = run("restore", "text_embeddings@1")
    assert status == 0 and "undo: emoji-ldm dataset restore text_embeddings@2" in text
    status, text = run("diff", "v1", "--json")
    assert status == 0 and json.loads(text)[0]["removed"] == 2
    assert (
        "version 2, 4 rows" in run("show", "--as-of", "v1")[1]
        and "version 3, 2 rows" in run("show", "text_embeddings")[1]
    )
    assert "undo: emoji-ldm dataset tag v1 --as-of text_embeddings@2" in run("tag", "v1", "--delete")[1]
    assert run("revert", "text_embeddings@3")[0] == 0 and Table(store, TEXT_EMBEDDINGS).count() == 4


def test_upkeep_from_the_command_line(dataset):
    run, store = dataset
    assert "use it: emoji-ldm <any command> branch=try" in run("branch", "try")[1]
    assert (
        "text_embeddings: 2 files -> 1" in run("compact")[1]
        and "text_embeddings: 2 files" in run("compact", "branch=try")[1]
    )
    assert "nothing was deleted" in run("vacuum", "--keep=1", "--older-than=0h", "branch=try")[1]
    assert "cannot be undone" in run("vacuum", "--keep=1", "--older-than=0h", "--apply")[1]
    assert "4 of text_embeddings; no damages" in run("verify")[1]
    assert Table(Store(store.uri, "try"), TEXT_EMBEDDINGS).count() == 4


def test_restoring_a_tag_leaves_tables_that_it_does_not_name(dataset):
    run, store = dataset
    run("tag", "v1")
    other = Table(store, CAPTIONS)
    row = dict.fromkeys(CAPTIONS.schema.names) | {"caption_id": "c", "image_id": "gone"}
    other.commit([other.write_file(pa.Table.from_pylist([row], CAPTIONS.schema))], app_id="c", metadata={})
    images = Table(store, IMAGES)
    images.commit([], app_id="i", metadata={})
    status, text = run("restore", "v1")
    assert status == 0 and "captions: v1 does not name it; it stays as it is" in text and other.count() == 1
    status, text = run("verify")
    assert status == 0 and "captions  c  there is no image gone" in text and "no damages" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["diff"], "one or two points"),
        (["diff", "images@3", "captions@4"], "images@3 and captions@4 are different tables"),
        (["diff", "1", "2"], "version 1 of which table"),
        (["restore", "v9"], "there is no tag or branch 'v9' (there are none)"),
        (["log", "--as-of", "1999-01-01"], "no commit at or before 1999-01-01"),
        (["show", "as_of=1999-01-01"], "no commit at or before 1999-01-01"),
        (["tag", "1st"], "name '1st' is not allowed"),
        (["log", "branch=other"], "there is no branch 'other'"),
        (["revert", "text_embeddings"], "is not TABLE@VERSION"),
        (["export", "csv"], "export takes a format and a target"),
        (["vacuum", "text_embeddings@2"], "text_embeddings@2 cannot be dropped"),
        (["stats", "latent"], "unknown table 'latent'; did you mean 'latents'"),
    ],
)
def test_a_mistake_is_one_line(dataset, words, text):
    status, printed = dataset[0](*words)
    assert status in (1, 2) and text in printed and printed.count("\n") == 1 and printed.startswith("error: ")
