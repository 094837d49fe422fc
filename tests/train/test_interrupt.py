"""Ctrl-C during `emoji-ldm train` on a real Ray: one line, no processes left, and the next run resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.store import Store
from emoji_ldm.train.metrics import training_metrics
from tests.latents_store import fill_latents, training_config

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

EVERY = 5


@pytest.mark.slow
def test_ctrl_c_ends_a_training_in_one_line_and_the_same_command_resumes_it(tiny_pipeline, tmp_path):
    config = training_config(tiny_pipeline, tmp_path / "store", f"train.checkpoint_every={EVERY}", "train.zero_stage=1")
    store = Store(config.store)
    fill_latents(config)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    with Command(tmp_path, "train.steps=20000") as first:
        while len(saved(store)) < 2:
            assert first.process.poll() is None, first.said()
            time.sleep(0.1)
        os.killpg(first.process.pid, signal.SIGINT)  # as a terminal does: to every process of the foreground
        assert first.process.wait(60) == 130, first.said()
        assert first.left() == []
    *progress, last = first.said().splitlines()
    assert last == "stopped; what was committed is safe: run the same command again to go on"
    assert all(not line or line.startswith("train: ") for line in progress)
    reached, attempts = saved(store)[-1], attempts_of(store)
    with Command(tmp_path, f"train.steps={reached + EVERY}") as again:
        assert again.process.wait(300) == 0, again.said()
        assert again.left() == []
    assert saved(store) == [reached, reached + EVERY]
    assert len(attempts_of(store) | attempts) == 2
    assert [line["step"] for line in training_metrics.read_log(store, config.run)] == list(
        range(1, reached + EVERY + 1)
    )


class Command:
    """`emoji-ldm train` in a process group of its own, whose processes can be told by their environment."""

    def __init__(self, folder, *overrides):
        self.tag, self.log = f"EMOJI_LDM_TEST={uuid.uuid4().hex}", folder / f"log-{len(list(folder.glob('log-*')))}"
        name, value = self.tag.split("=")
        command = [sys.executable, "-m", "ray_jobs", "train", "--config", str(folder / "config.yaml"), *overrides]
        environment = {key: text for key, text in os.environ.items() if key != "RAY_ADDRESS"} | {name: value}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._alive():
            process.kill()
        self.process.wait()

    def said(self):
        return self.log.read_text()

    def left(self):
        """What still runs a while after the command ended."""
        deadline = time.monotonic() + 20
        while (alive := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return [" ".join(process.cmdline()) for process in alive]

    def _alive(self):
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process):
        try:
            own = process.environ().get("EMOJI_LDM_TEST") == self.tag.split("=")[1]
            return own and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def saved(store):
    """Steps of the complete checkpoints."""
    return [checkpoint.step for checkpoint in checkpoints.complete_checkpoints(store, "tiny", "unet")]


def attempts_of(store):
    return {checkpoint.path[-8:] for checkpoint in checkpoints.complete_checkpoints(store, "tiny", "unet")}
