"""Arrays in files stand where lists and numpy arrays could stand."""

import numpy as np
import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.latents.local_arrays import (
    BLOCK_ROWS,
    FLOAT16,
    INT32,
    BytesFile,
    IndexLists,
    RowFile,
    StateFile,
    TextFile,
    write_values,
)


def test_rows_are_copies_of_what_was_written(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(FLOAT16)
    (tmp_path / "rows").write_bytes(values.tobytes())
    rows = RowFile(tmp_path / "rows", (2, 3))
    assert (rows.shape, len(rows), rows.dtype) == ((7, 2, 3), 7, FLOAT16)
    for chosen in ([6, 0, 6], np.array([3, 1]), range(7), []):
        assert (rows[chosen] == values[list(chosen)]).all() and rows[chosen].shape[1:] == (2, 3)
    assert (rows[np.int64(5)] == values[5]).all() and (rows.block(2, 4) == values[2:6]).all()
    with pytest.raises(IndexError):
        rows[[7]]


def test_a_file_that_was_cut_off_is_an_error(tmp_path):
    (tmp_path / "rows").write_bytes(bytes(60))
    rows = RowFile(tmp_path / "rows", (2, 3))
    with (tmp_path / "rows").open("r+b") as stream:
        stream.truncate(30)
    with pytest.raises(StoreError, match=r"the local copy of the latents .* is damaged; delete it and run again"):
        rows[4]


def test_values_of_any_length(tmp_path):
    texts = ["", "ä cat", "x" * 300] * BLOCK_ROWS
    write_values(tmp_path, "texts", (text.encode() for text in texts))
    found = TextFile(tmp_path, "texts")
    assert (len(found), found[1], found[-1], found[3:5]) == (len(texts), "ä cat", "x" * 300, texts[3:5])
    assert list(found) == texts and found.index("ä cat") == 1
    assert list(BytesFile(tmp_path, "texts"))[:2] == [b"", "ä cat".encode()]


def test_lists_and_states(tmp_path):
    write_values(tmp_path, "lists", (np.array(one, INT32).tobytes() for one in ([1, 2], [], [3])))
    assert list(IndexLists(tmp_path, "lists")) == [[1, 2], [], [3]]
    states = [np.full((tokens, 4), tokens, FLOAT16) for tokens in (3, 1)]
    write_values(tmp_path, "states", (one.tobytes() for one in states))
    assert [one.shape for one in StateFile(tmp_path, "states", 4)] == [(3, 4), (1, 4)]
    assert (StateFile(tmp_path, "states", 4)[0] == 3).all()
