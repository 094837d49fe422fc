"""An error on one rank ends all of them: told on every one where they meet, else left for the group that follows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from emoji_ldm import errors
from emoji_ldm.errors import ConfigError, ModelError, StoreError
from emoji_ldm.store import Store
from emoji_ldm.train import async_checkpoint, loop, run_fencing
from emoji_ldm.train.async_checkpoint import AsyncCheckpointer
from emoji_ldm.train.engines import device, distributed
from emoji_ldm.train.run_fencing import read_fatal_error
from emoji_ldm.train.training_args import build_training_args
from ray_jobs.execution import trainer
from tests.unit.train import tiny


class Beside(distributed.DistributedContext):
    """A rank whose peer meets `errors`."""

    def all(self, value):
        return [None, value]


@pytest.fixture
def second(monkeypatch):
    """Rank 1 of two workers on one machine."""
    monkeypatch.setattr(distributed, "current", lambda _=None: Beside(1, 2, torch.device("cpu")))
    context = SimpleNamespace(get_local_world_size=lambda: 2)
    monkeypatch.setattr(trainer.ray.train, "get_context", lambda: context)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def work(folder, load):
    loaded = {"config": tiny.config("train.num_workers=2"), "store": Store(str(folder)), "section": "train",
              "load": load, "token": "t0"}  # fmt: skip
    return trainer._work(loaded)


def test_what_one_rank_cannot_load_is_told_on_all(second, tmp_path):
    def load(place):
        raise ModelError("latents.vae=/models/vae: there is no such folder on this node")

    kind, text = work(tmp_path, load)["error"]
    assert kind == "ModelError" and "on this node" in text


def test_an_error_of_one_rank_later_is_left_with_its_kind_and_ends_the_group(second, tmp_path, monkeypatch):
    def fail(*_):
        raise errors.DatasetError("an image went missing")

    monkeypatch.setattr(loop, "fit", fail)
    with pytest.raises(errors.DatasetError):
        work(tmp_path, lambda place: None)
    assert read_fatal_error(Store(str(tmp_path)), "tiny", "train", "t0") == ["DatasetError", "an image went missing"]
    assert work(tmp_path, lambda place: None) == {"error": ["DatasetError", "an image went missing"]}


def test_several_workers_without_deepspeed_are_refused_before_they_meet(monkeypatch):
    plan = build_training_args(tiny.config(), "train")
    device.check_options(plan, 2)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    device.check_options(plan, 1)
    with pytest.raises(ConfigError, match="train with 2 workers needs DeepSpeed"):
        device.check_options(plan, 2)


def test_a_store_that_is_away_fences_nobody_and_a_look_never_raises(tmp_path, monkeypatch):
    def away(*_):
        raise StoreError("no route to host")

    store = Store(str(tmp_path))
    token = run_fencing.claim_run(store, "tiny", "train")
    monkeypatch.setattr(Store, "read", away)
    assert run_fencing.owns_run(store, "tiny", "train", token)
    monkeypatch.setattr(Store, "exists", away)
    assert run_fencing.owns_run(store, "tiny", "train", token)
    monkeypatch.setattr(async_checkpoint.run_fencing, "owns", away)
    watcher = AsyncCheckpointer.__new__(AsyncCheckpointer)
    watcher._pending, watcher._looked, watcher.plan = None, -1e9, SimpleNamespace(section="train")
    watcher.world = distributed.DistributedContext(0, 1, torch.device("cpu"))
    watcher.place = SimpleNamespace(store=store, config=SimpleNamespace(run="tiny"), owner=token)
    assert isinstance(watcher._look(), StoreError)


def test_what_eight_bit_moments_do_not_keep_is_told():
    alone = distributed.DistributedContext(0, 1, torch.device("cpu"))
    for optimizer, told in (("adamw", 0), ("adamw8bit", 1)):
        plan = build_training_args(tiny.config("train.deterministic=true", f"train.optimizer={optimizer}"), "train")
        assert sum("a resume rounds" in line for line in device.ineffective_options(plan, alone)) == told
