"""Rows of the cached latents and text states, and what makes them."""

import numpy as np
import pyarrow as pa

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.cache import (
    FLOAT16,
    STATE_MANTISSA_BITS,
    text_state_bytes,
    to_bytes,
)
from emoji_ldm.schemas import CAPTIONS


def commit(store, spec, rows, name):
    table = Table(store, spec)
    table.commit(
        [table.write_file(rows)],
        app_id=name,
        metadata=Lineage(RunInfo("default", Config().to_json()), "test", {}).metadata({}, name),
    )


def caption_table(pairs):
    rows = [{"caption_id": f"{image_id}{caption}", "image_id": image_id, "caption": caption, "engine": "test",
             "status": "ok" if caption else "failed"} for image_id, caption in pairs]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CAPTIONS.schema)


def moments(count, seed=0):
    return np.random.default_rng(seed).normal(size=(2, count, 4, 8, 8)).astype(np.float32)


def states(*lengths):
    return [np.full((length, 6), length, np.float32) for length in lengths]


def test_states_are_rounded_each_to_a_part_of_itself():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32) * np.float32(10.0) ** np.arange(
        -2, 3, 5 / 10_000
    )
    found = np.frombuffer(text_state_bytes(values), FLOAT16).astype(np.float32)
    assert (abs(found - values) <= abs(values) / 2 ** (STATE_MANTISSA_BITS + 1) * 1.1 + 1e-6).all()
    assert len({*np.frombuffer(text_state_bytes(values), np.uint16) & 0xF}) == 1, "what does not compress is gone"
    assert (
        abs(np.frombuffer(text_state_bytes(np.float32([1e9, -1e9, 65500])), FLOAT16).astype(np.float32)).max() == 65024
    )
    assert np.frombuffer(text_state_bytes(np.float32([0, -1.5, 1024])), FLOAT16).tolist() == [0, -1.5, 1024]


def test_values_survive_as_half_precision():
    values = moments(1)[0]
    np.testing.assert_allclose(np.frombuffer(to_bytes(values), FLOAT16), values.ravel(), atol=2e-3)
    assert len(to_bytes(values)) == 2 * values.size
    assert np.frombuffer(to_bytes(np.float32([1e9, -30])), FLOAT16).tolist() == [65504, -30]
