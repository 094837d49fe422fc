"""What a commit says about its origin."""

import json

import pyarrow as pa
from deltalake import DeltaTable

from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from tests.tables import embedding_rows


def test_the_log_keeps_statistics_lineage_and_all_history(store):
    table, lineage = Table(store, TEXT_EMBEDDINGS), Lineage(RunInfo("r1", '{"seed": 3}'), "latents", {"captions": 7})
    file = table.write_file(embedding_rows("b", "a"))
    table.commit([file], app_id="one", metadata=lineage.metadata({"encoded": 2}, "one"))
    entry = table.history(1)[0]
    assert (entry["run"], entry["stage"], entry["shard"]) == ("r1", "latents", "one")
    assert (json.loads(entry["parents"]), json.loads(entry["counts"])) == ({"captions": 7}, {"encoded": 2})
    assert json.loads(entry["config"]) == {"seed": 3}
    delta = DeltaTable(store.table_uri("text_embeddings"))
    actions = pa.table(delta.get_add_actions(flatten=True))
    assert (actions["min.text_id"].to_pylist(), actions["max.text_id"].to_pylist()) == (["a"], ["b"])
    assert delta.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
