"""Tensors whose memory is a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emoji_ldm.errors import ConfigError
from emoji_ldm.train.engines.distributed import DistributedContext, configure_torch
from emoji_ldm.train.engines.file_backed import file_backed
from tests.train import ranks_engine as ranks


def test_a_copy_lies_in_a_file_that_has_no_name_and_can_be_written(tmp_path):
    values = torch.randn(3, 5)
    found = file_backed(values, str(tmp_path))
    assert torch.equal(found, values) and not list(tmp_path.iterdir())
    assert f"{tmp_path}/emoji-ldm-" in Path("/proc/self/maps").read_text()
    found.mul_(2)
    assert torch.equal(found, 2 * values)


def test_a_folder_that_is_missing_is_refused_before_work_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    args = ranks.training_args(offload="optimizer", offload_folder=str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="is no folder that can be written to on every worker"):
        configure_torch(args, DistributedContext(0, 1, torch.device("cpu")))


def test_offload_needs_a_process_group():
    with pytest.raises(ConfigError, match="offload needs a process group"):
        configure_torch(ranks.training_args(offload="optimizer"), DistributedContext(0, 1, torch.device("cpu")))
