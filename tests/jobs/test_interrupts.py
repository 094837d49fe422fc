"""Ctrl-C in the middle of a stage that runs as a user's command, with a Ray of its own."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images

NUM_IMAGES = 300


@pytest.mark.slow
def test_a_stage_ends_with_one_line_and_nothing_left_running(tmp_path):
    """Ray once reported the tasks of the workers that it ends as failed, on standard output."""
    store = Store(str(tmp_path / "store"))
    fill_images(store, blobs(NUM_IMAGES))
    words = ["caption", f"store={store.uri}", "caption.num_workers=1", "caption.rows_per_shard=2", "ray.num_cpus=4"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_DEDUP_LOGS_SKIP_REGEX")
    }
    command = subprocess.Popen([sys.executable, "-m", "ray_jobs", *words], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    while f"/{NUM_IMAGES} captions" not in (line := command.stderr.readline()):
        assert line.startswith("caption: "), f"not of the stage: {line}"
    children = psutil.Process(command.pid).children(recursive=True)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    printed, said = command.communicate(timeout=60)
    assert (command.returncode, printed) == (130, "")
    assert said.splitlines()[-1] == "stopped; what was committed is safe: run the same command again to go on"
    assert all(line.startswith("caption: ") for line in said.splitlines()[:-1] if line), said
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert 0 < Table(store, CAPTIONS).count() < NUM_IMAGES
