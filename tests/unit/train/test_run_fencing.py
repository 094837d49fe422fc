"""An error on one rank ends all of them: at once where they meet, else when the group restarts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from emoji_ldm import errors
from emoji_ldm.errors import ModelError, StoreError
from emoji_ldm.store import Store
from emoji_ldm.train import async_checkpoint, loop, run_fencing
from emoji_ldm.train.async_checkpoint import AsyncCheckpointer
from emoji_ldm.train.engines import distributed
from emoji_ldm.train.run_fencing import TrainingOutOfMemory, clear_fatal_error, read_fatal_error, record_fatal_error
from ray_jobs.execution import trainer
from tests.unit.train import tiny


class Beside(distributed.DistributedContext):
    """A rank whose peer meets `errors`."""

    def all_gather_objects(self, value):
        return [None, value]


@pytest.fixture
def second(monkeypatch):
    """Rank 1 of two workers on one machine."""
    monkeypatch.setattr(distributed, "current_context", lambda _=None: Beside(1, 2, torch.device("cpu")))
    context = SimpleNamespace(get_local_world_size=lambda: 2)
    monkeypatch.setattr(trainer.ray.train, "get_context", lambda: context)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def work(folder, load):
    loaded = {"config": tiny.config("train.num_workers=2"), "store": Store(str(folder)), "section": "train",
              "load": load, "token": "t0"}  # fmt: skip
    return trainer._work(loaded)


def test_a_load_error_of_one_rank_is_raised_on_all(second, tmp_path):
    def load(run_context):
        raise ModelError("latents.vae=/models/vae: there is no such folder on this node")

    kind, text = work(tmp_path, load)["error"]
    assert kind == "ModelError" and "on this node" in text


def test_an_error_of_one_rank_later_is_left_with_its_kind_and_ends_the_group(second, tmp_path, monkeypatch):
    def fail(*_):
        raise errors.DatasetError("an image went missing")

    monkeypatch.setattr(loop, "fit", fail)
    with pytest.raises(errors.DatasetError):
        work(tmp_path, lambda run_context: None)
    assert read_fatal_error(Store(str(tmp_path)), "tiny", "train", "t0") == ["DatasetError", "an image went missing"]
    assert work(tmp_path, lambda run_context: None) == {"error": ["DatasetError", "an image went missing"]}


def test_an_unreachable_store_fences_nobody_and_polling_never_raises(tmp_path, monkeypatch):
    def away(*_):
        raise StoreError("no route to host")

    store = Store(str(tmp_path))
    token = run_fencing.claim_run(store, "tiny", "train")
    monkeypatch.setattr(Store, "read", away)
    assert run_fencing.owns_run(store, "tiny", "train", token)
    monkeypatch.setattr(Store, "exists", away)
    assert run_fencing.owns_run(store, "tiny", "train", token)
    monkeypatch.setattr(async_checkpoint.run_fencing, "owns_run", away)
    watcher = AsyncCheckpointer.__new__(AsyncCheckpointer)
    watcher._pending, watcher._polled_owner, watcher.args = None, -1e9, SimpleNamespace(section="train")
    watcher.ranks = distributed.DistributedContext(0, 1, torch.device("cpu"))
    watcher.context = SimpleNamespace(store=store, config=SimpleNamespace(run="tiny"), owner_token=token)
    assert isinstance(watcher._local_error(), StoreError)


def test_a_fatal_error_of_one_rank_is_found_by_the_restarted_group(tmp_path):
    run = (Store(str(tmp_path)), "tiny", "train", "token")
    assert read_fatal_error(*run) is None
    record_fatal_error(*run, TrainingOutOfMemory("too large"))
    assert read_fatal_error(*run) == ["JobError", "too large"]
    clear_fatal_error(*run)
    assert read_fatal_error(*run) is None
