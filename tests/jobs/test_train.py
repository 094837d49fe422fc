"""Training over a real local Ray: two CPU ranks, every ZeRO stage, a killed worker, two drivers."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, DatasetError, JobError
from emoji_ldm.store import Store
from emoji_ldm.train import run_fencing
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.tasks.diffusion_task import load_task
from emoji_ldm.train.training_args import RunContext, build_training_args
from ray_jobs import train
from tests.bucketed_store import PIPELINE_OBJECTIVE, bucketed_config, fill_bucketed
from tests.latents_store import fill_latents, training_config

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def prepared(tiny_pipeline, tmp_path_factory):
    """A configuration per run on one store with latents."""
    store = tmp_path_factory.mktemp("store")
    fill_latents(training_config(tiny_pipeline, store))
    return lambda *overrides: training_config(tiny_pipeline, store, *overrides)


def losses(config):
    return {line["step"]: line["loss"] for line in training_metrics.read_log(Store(config.store), config.run)}


@pytest.fixture(scope="module")
def plain(prepared, tmp_path_factory):
    """What one process without Ray and sharding gives."""
    config = prepared("run=plain", "train.steps=4", "train.zero_stage=0", "train.num_workers=1")
    place = RunContext(config, Store(config.store), tmp_path_factory.mktemp("scratch"))
    fit(load_task(place), build_training_args(config, "train"), place, torch.device("cpu"))
    return losses(config)


LONG = pytest.mark.long


@pytest.mark.slow
@LONG
@pytest.mark.parametrize(  # 1: the killed run; without Ray, tests/train has every stage
    ("sharding", "stage"), [("deepspeed", 0), ("deepspeed", 2), ("deepspeed", 3), ("fsdp2", 2), ("fsdp2", 3)]
)
def test_two_ranks_of_any_zero_stage_train_as_one_process_does(sharding, stage, prepared, plain):
    config = prepared(
        f"run={sharding}-{stage}", "train.steps=4", f"train.zero_stage={stage}", f"train.sharding={sharding}"
    )
    summary = train.run(config)
    assert losses(config) == pytest.approx(plain, rel=1e-4)
    manifest = checkpoints.newest_checkpoint(Store(config.store), config.run, "unet").manifest()
    assert (manifest["step"], manifest["num_workers"], manifest["zero_stage"]) == (4, 2, stage)
    assert manifest["versions"]["latents"] >= 0
    assert "pipeline/unet/diffusion_pytorch_model.safetensors" in manifest["files"]
    assert summary["checkpoint"].startswith(config.store)


@pytest.mark.slow
@pytest.mark.long
def test_a_finished_run_returns_at_once_and_more_steps_go_on_with_other_ranks_and_stage(prepared):
    first = prepared("run=longer", "train.steps=3", "train.zero_stage=2")
    train.run(first)
    began = time.monotonic()
    assert "already" in train.run(first)["steps"]
    assert time.monotonic() - began < 1
    more = prepared("run=longer", "train.steps=5", "train.zero_stage=0", "train.num_workers=1")
    train.run(more)
    assert sorted(losses(more)) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_killed_worker_costs_no_step_and_doubles_none(prepared):
    config = prepared("run=killed", "train.steps=60", "train.checkpoint_every=20", "train.zero_stage=1")
    before = worker_pids()
    killer = threading.Thread(target=kill_one_worker, args=(config, before, 22), daemon=True)
    killer.start()
    train.run(config)
    killer.join(timeout=1)
    assert not killer.is_alive()
    assert [line["step"] for line in training_metrics.read_log(Store(config.store), config.run)] == list(range(1, 61))
    kept = [checkpoint.step for checkpoint in checkpoints.complete_checkpoints(Store(config.store), config.run, "unet")]
    assert kept == [40, 60]


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_worker_changes_no_bit_of_adapters_trained_on_buckets(tiny_pipeline, tmp_path):
    config = bucketed_config(
        tiny_pipeline, tmp_path / "store", "train.steps=60", "train.checkpoint_every=20", "train.zero_stage=1",
        f"train.init={tiny_pipeline}", "train.lora={rank: 2}", *PIPELINE_OBJECTIVE,
        "train.block_out_channels=[128,256,256]", "train.layers_per_block=2", "train.num_heads=4",
    )  # fmt: skip
    fill_bucketed(config)
    whole, killed = (config.model_copy(update={"run": name}) for name in ("whole", "killed"))
    train.run(whole)
    killer = threading.Thread(target=kill_one_worker, args=(killed, worker_pids(), 22), daemon=True)
    killer.start()
    train.run(killed)
    killer.join(timeout=1)
    assert not killer.is_alive()
    first, second = (states(one, tmp_path / one.run) for one in (whole, killed))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def states(config, cache):
    """All tensors of a run's newest checkpoint, by file and name."""
    folder = checkpoints.newest_checkpoint(Store(config.store), config.run, "unet").fetch(cache) / "state"
    found = {(path.name, name): tensor for path in folder.glob("*.safetensors")
             for name, tensor in load_file(path).items()}  # fmt: skip
    assert found
    return found


@pytest.mark.slow
@pytest.mark.long
def test_a_driver_that_lost_the_run_stops_without_publishing(prepared):
    config = prepared("run=fenced", "train.steps=40", "train.checkpoint_every=20", "train.num_workers=1")
    store = Store(config.store)
    thief = threading.Thread(target=take_over, args=(store, config.run), daemon=True)
    thief.start()
    with pytest.raises(JobError, match="another driver took over"):
        train.run(config)
    assert len(checkpoints.complete_checkpoints(store, config.run, "unet")) < 2


@pytest.mark.slow
@pytest.mark.long
def test_errors_of_workers_reach_the_user_as_themselves(tiny_pipeline, prepared, tmp_path):
    with pytest.raises(DatasetError, match="no captioned image"):
        train.run(training_config(tiny_pipeline, tmp_path, "train.num_workers=1", "train.steps=2"))
    with pytest.raises(ConfigError, match="cannot be shared by 3 workers; give 3 or 6"):
        train.run(prepared("train.num_workers=3"))


def worker_pids():
    """Processes of this Ray that train, by what Ray calls them."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                found[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    return found


def kill_one_worker(config, before, step):
    """Wait until the run is past `step`, then kill -9 one worker of this process's Ray."""
    while not any(line["step"] >= step for line in training_metrics.read_log(Store(config.store), config.run)):
        time.sleep(0.05)
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    ours = [pid for pid, parent in worker_pids().items() if parent == raylet and pid not in before]
    assert len(ours) == 2
    os.kill(ours[1], signal.SIGKILL)


def take_over(store, run):
    while not store.exists("runs", run, "train", "owner"):
        time.sleep(0.05)
    run_fencing.claim_run(store, run, "train")
