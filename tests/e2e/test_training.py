"""Training on a real cluster through kills of every part: bit for bit the weights of an undisturbed one."""

import re
import subprocess
import sys
import time

import pytest
import torch
from pyarrow import fs
from safetensors.torch import load_file

from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from emoji_ldm.train.metrics import training_metrics
from tests.e2e import helper_pods
from tests.e2e.conftest import forwarded_store, kubectl, pods_of, until
from tests.e2e.test_crawl import operator_pods
from tests.e2e.test_pipeline import URI  # has the latents
from tests.manifests.render import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS, EVERY = 2000, 40  # steps in all, and between two checkpoints
VICTIMS = {
    200: lambda: pods_of("emoji-ldm/stage=train", "emoji-ldm/role=worker"),
    600: lambda: pods_of("app.kubernetes.io/name=store"),
    1000: operator_pods,
    1400: lambda: pods_of("emoji-ldm/stage=train", "emoji-ldm/role=head"),
}  # by the step after which they are killed


def words_of(run):
    return (f"store={URI}", f"run={run}", f"train.steps={STEPS}", f"train.checkpoint_every={EVERY}",
            "train.log_every=5")  # fmt: skip


def test_a_training_whose_parts_are_killed_ends_with_the_same_weights(submit, record, monkeypatch, tmp_path):
    whole, killed = (f"e2e-{name}-{int(time.time())}" for name in ("whole", "killed"))  # a run trains once
    with forwarded_store(monkeypatch):
        for run in (whole, killed):
            copy_autoencoder(Store(URI), run)
    status, said, seconds = submit("train", whole, *words_of(whole))
    assert status == 0, said[-4000:]
    record("training that nothing disturbed, s", seconds)
    kubectl("delete", "rayjob", whole)  # its cluster would stay for minutes, and the next needs the memory
    submit("train", killed, *words_of(killed), "--detach")
    log = tmp_path / "follower.log"
    command = [sys.executable, "-m", "ray_jobs", "cluster", "logs", killed, "--follow"]
    with log.open("w") as told:
        follower = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT)

    def trained():
        steps = re.findall(r"train: (\S+)/\S+ steps", log.read_text())
        return max((int(step.replace(",", "")) for step in steps), default=0)

    try:
        for step, find in VICTIMS.items():
            until(lambda step=step: follower.poll() is not None or trained() >= step, 900)
            assert follower.poll() is None, f"it ended before step {step}:\n{log.read_text()[-4000:]}"
            victim = until(find, 120)[-1]["metadata"]
            helper_pods.call("delete", "pod", victim["name"], "--force", "--grace-period=0", "--wait=false",
                             namespace=victim["namespace"])  # fmt: skip
        follower.wait(1500)
    finally:
        follower.kill()
    said = log.read_text()
    assert follower.returncode == 0, said[-4000:]
    assert "Traceback" not in said, said
    record("times that it went on from a checkpoint", said.count("goes on from step"))
    with forwarded_store(monkeypatch):
        store = Store(URI)
        for run in (whole, killed):
            assert [line["step"] for line in training_metrics.read_log(store, run)] == list(range(5, STEPS + 1, 5))
        first, second = (tensors(store, run, tmp_path / run) for run in (whole, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def copy_autoencoder(store, run):
    """Give a run the autoencoder of the pipeline's run, by which the latents were made."""
    source, target = (store.path("checkpoints", name, "autoencoder") for name in ("dev", run))
    fs.copy_files(source, target, source_filesystem=store.filesystem, destination_filesystem=store.filesystem)


def tensors(store, run, folder):
    """All tensors of a run's newest checkpoint, by file and name."""
    state = checkpoints.newest_checkpoint(store, run, "unet").fetch(folder) / "state"
    found = {(path.name, name): tensor for path in state.glob("*.safetensors")
             for name, tensor in load_file(path).items()}  # fmt: skip
    assert found
    return found
