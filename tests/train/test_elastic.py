"""Elastic training on a real Ray of two nodes, one of which is lost: without warning, or after a notice."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.tasks.diffusion_task import load_task
from emoji_ldm.train.training_args import RunContext, build_training_args
from tests.latents_store import fill_latents, training_config
from tests.ray_cluster import RayCluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

STEPS, EVERY = 240, 40  # two ranks take a minute for them (see driver.py), one alone some seconds
QUICK = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
RUN = (f"train.steps={STEPS}", f"train.checkpoint_every={EVERY}", "train.keep_last=20", "train.zero_stage=2")


@pytest.fixture(scope="module")
def prepared(tiny_pipeline, tmp_path_factory):
    """A store with latents, and what one process without Ray makes of them."""
    store = tmp_path_factory.mktemp("store")
    fill_latents(training_config(tiny_pipeline, store))
    plain = training_config(tiny_pipeline, store, "run=plain", *RUN, "train.zero_stage=0", "train.num_workers=1")
    run_context = RunContext(plain, Store(plain.store), tmp_path_factory.mktemp("scratch"))
    fit(load_task(run_context), build_training_args(plain, "train"), run_context, torch.device("cpu"))
    return tiny_pipeline, store, losses(store, "plain")


def losses(store, run):
    return {line["step"]: line["loss"] for line in training_metrics.read_log(Store(str(store)), run)}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["dies", "is announced to go"])
def test_when_a_node_is_lost_the_other_continues_with_the_same_samples(way, prepared, tmp_path):
    pipeline, store, plain = prepared
    run = way.split()[0]
    config = training_config(pipeline, store, f"run={run}", *RUN, "train.min_workers=1")
    (tmp_path / "config.yaml").write_text(config.model_dump_json())
    with (
        RayCluster(QUICK, num_cpus=1) as cluster,
        (tmp_path / "log").open("w") as log,
    ):
        cluster.add_node()
        while len(cluster.ids()) < 2:
            time.sleep(1)
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
        command = [sys.executable, "-m", "tests.train.driver", str(tmp_path / "config.yaml")]
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: saved(store, run), driver, tmp_path / "log")
            if way == "is announced to go":
                cluster.drain_node(120)
                wait_for(lambda: announced(store, run), driver, tmp_path / "log")
            cluster.kill_node()
            assert driver.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            driver.kill()
            driver.wait()
    assert sorted(losses(store, run)) == list(range(1, STEPS + 1))
    assert losses(store, run) == pytest.approx(plain, rel=1e-2)
    found = checkpoints.complete_checkpoints(Store(str(store)), run, "unet")
    assert [checkpoint.manifest()["num_workers"] for checkpoint in (found[0], found[-1])] == [2, 1]
    assert bool(announced(store, run)) == (way == "is announced to go")  # a notice saves at once, and only that


def saved(store, run):
    """Steps of the complete checkpoints."""
    return [checkpoint.step for checkpoint in checkpoints.complete_checkpoints(Store(str(store)), run, "unet")]


def announced(store, run):
    """Those that no interval asked for."""
    return [step for step in saved(store, run) if step % EVERY]


def wait_for(done, driver, log):
    while not done():
        assert driver.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
