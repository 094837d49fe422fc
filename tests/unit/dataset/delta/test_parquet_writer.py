"""Data files: row groups of one size, bounds of keys, and nothing for no rows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emoji_ldm.dataset.delta.parquet_writer import DataFile, write_files
from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.tables import embedding_rows


def write(store, *portions, **options):
    return list(write_files(store, store.path("t"), TEXT_EMBEDDINGS, portions, **options))


def test_row_groups_have_one_size_however_the_rows_arrive(store):
    portions = [
        embedding_rows(*(f"{number}-{row}" for row in range(size))) for number, size in enumerate((30, 150, 70))
    ]
    (file,) = write(store, *portions)
    metadata = pq.read_metadata(store.path("t", file.path))
    assert [metadata.row_group(number).num_rows for number in range(3)] == [100, 100, 50] and file.num_rows == 250
    assert file.size == Path(store.path("t", file.path)).stat().st_size
    assert pq.read_table(store.path("t", file.path)).equals(pa.concat_tables(portions))


def test_no_rows_give_no_file_and_large_files_are_closed(store):
    assert write(store, embedding_rows()) == []
    rows = embedding_rows(*(f"{number:03}" for number in range(250)))
    files = write(store, rows, file_bytes=1)
    assert [file.num_rows for file in files] == [100, 100, 50] and len({file.path for file in files}) == 3


def test_bounds_of_the_key_are_known_and_of_other_columns_not(store):
    (file,) = write(store, embedding_rows("b", "a", "c"))
    assert (file.bounds("text_id"), file.bounds("caption")) == (("a", "c"), None)
    assert DataFile(**json.loads(file.to_json())) == file


def test_a_store_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write table text_embeddings in"):
        write(Store(str(tmp_path / "file")), embedding_rows("a"))
