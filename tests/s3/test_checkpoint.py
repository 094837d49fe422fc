"""Checkpoints on a real S3 server: brought in parts, read by ranges."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from emoji_ldm import s3
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import StoreError
from emoji_ldm.store import Store
from emoji_ldm.train.engines import sharded_state
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny


def train(uri, folder):
    config = tiny.config("train.log_every=1")
    place = dataclasses.replace(tiny.run_context(config, folder), store=Store(uri))
    fit(tiny.task(config), build_training_args(config, "train"), place, torch.device("cpu"))
    return {line["step"]: line["loss"] for line in training_metrics.read_log(Store(uri), "tiny")}


@pytest.mark.slow
def test_a_training_goes_on_from_s3_bit_by_bit(s3_uri, tmp_path, monkeypatch):
    monkeypatch.setattr(sharded_state, "MAX_REQUEST_BYTES", 2**14)  # several requests for a file
    store, before = Store(s3_uri), train(s3_uri, tmp_path)
    whole = checkpoints.newest_checkpoint(store, "tiny", "unet")
    files = {name: store.read(whole.path, name) for name in whole.manifest()["files"] if name.endswith(".safetensors")}
    store.delete(whole.path)
    assert store.list(whole.path, recursive=True) == []
    assert train(s3_uri, tmp_path) == before
    again = checkpoints.newest_checkpoint(store, "tiny", "unet")
    assert again.path != whole.path and again.step == 8
    assert {name: store.read(again.path, name) for name in files} == files
    fetched = again.fetch(tmp_path / "cache")
    damaged = bytearray(files["state/rank-00000-of-00001.safetensors"])
    assert (fetched / "state" / "rank-00000-of-00001.safetensors").read_bytes() == damaged


@pytest.mark.slow
def test_large_objects_go_in_parts_and_whole_or_not_at_all(s3_uri, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    data = os.urandom(12 * 2**20 + 3)
    Store(s3_uri).write_large(data, "large")
    assert Store(s3_uri).read("large") == data
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(data)
    (tmp_path / "folder" / "empty").write_bytes(b"")
    Store(s3_uri).upload(tmp_path / "folder", "folder")
    assert Store(s3_uri).read("folder", "a") == data and Store(s3_uri).read("folder", "empty") == b""
    with pytest.raises(StoreError, match="cannot write no-such-bucket/large"):
        s3.put_parts(memoryview(data), "no-such-bucket/large")
