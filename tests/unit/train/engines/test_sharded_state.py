"""State files: readable by any other split of the parameters."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.train.engines.sharded_state import CorruptStateError, ShardSlice, Snapshot, load_slices, split_replicated


def test_any_split_reads_what_any_other_wrote():
    torch.manual_seed(0)
    whole = {"a": torch.randn(7, 3), "b": torch.randn(5)}
    wide = torch.cat([tensor.flatten() for tensor in whole.values()])
    flat = [ShardSlice("a", (7, 3), 0, 21, 0, 0), ShardSlice("b", (5,), 0, 5, 0, 21)]
    files = []
    for rank in range(3):
        snapshot = Snapshot(dict.fromkeys(("weight", "ema"), split_replicated(flat, rank, 3)), pinned=False)
        snapshot.copy_from({"weight": [wide], "ema": [-wide]})
        files.append((snapshot.build_index(f"rank-{rank}", 5), snapshot.read))
    ours = [torch.zeros(4), torch.zeros(8, 1).expand(8, 1)]
    pieces = [ShardSlice("b", (5,), 1, 4, 0, 0), ShardSlice("a", (7, 3), 10, 6, 1, 2)]
    load_slices({"ema": (pieces, ours)}, files)
    assert torch.equal(ours[0], -whole["b"][1:])
    assert torch.equal(ours[1].flatten(), torch.cat([torch.zeros(2), -whole["a"].flatten()[10:16]]))
    with pytest.raises(CorruptStateError, match="elements are missing"):
        load_slices({"ema": (pieces, ours)}, files[:-1])


def test_weights_in_another_memory_order_are_filled_by_their_logical_one():
    target = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    source = torch.randn(2, 3, 4, 4)
    piece = ShardSlice("w", (2, 3, 4, 4), 0, 96, 0, 0)
    snapshot = Snapshot({"weight": [piece]}, pinned=False)
    snapshot.copy_from({"weight": [source.to(memory_format=torch.channels_last)]})
    load_slices({"weight": ([piece], [target])}, [(snapshot.build_index("rank-0", 0), snapshot.read)])
    assert torch.equal(target, source)
