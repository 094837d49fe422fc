"""Small rows of `text_embeddings` and tables that hold them, for tests of commits and versions."""

import pyarrow as pa

from emoji_ldm.dataset.lineage import RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import TEXT_EMBEDDINGS

RUN = RunInfo("r", "{}")


def embedding_rows(*keys, caption=None):
    """One row per key, whose caption is the key or `caption`."""
    columns = {
        "text_id": keys,
        "caption": [caption or key for key in keys],
        "encoder_key": keys,
        "shape": [[1, 2]] * len(keys),
        "hidden_states": [b"x"] * len(keys),
    }
    return pa.table(columns, schema=TEXT_EMBEDDINGS.schema)


def commit_rows(table, shard, *keys, caption=None, replace=False):
    """Commit rows as a shard would; with `replace` they take the place of rows with these keys."""
    rows = embedding_rows(*keys, caption=caption)
    return table.upsert([table.write_file(rows)], keys if replace else (), app_id=shard, metadata={"run": "r"})


def table_with_commits(store, *groups):
    """A table with one commit per group of keys."""
    table = Table(store, TEXT_EMBEDDINGS)
    for group in groups:
        table.commit([table.write_file(embedding_rows(*group))], app_id=f"first:{group}", metadata={"run": "r"})
    return table


def captions_by_key(table):
    """{key: caption} of all rows."""
    return dict(zip(*table.read(["text_id", "caption"]).to_pydict().values(), strict=True))
