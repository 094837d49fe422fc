"""Guards over a real local Ray: what one rank alone meets ends the whole group with one line, and not by waiting."""

from __future__ import annotations

import time

import pytest
import ray

from emoji_ldm.errors import ConfigError, DatasetError, JobError
from emoji_ldm.store import Store
from emoji_ldm.train.tasks.diffusion_task import load_task
from ray_jobs import train
from ray_jobs.execution import trainer
from tests.latents_store import fill_latents, training_config
from tests.tiny_pipelines import write_pipeline

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def load_one_that_runs_out(place):
    """The task of a rank; that of rank 1 has no memory left at its third loss."""
    task = load_task(place)
    loss, calls = task.loss, []

    def short(forward, drawn):
        calls.append(1)
        if ray.train.get_context().get_world_rank() == 1 and len(calls) == 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return loss(forward, drawn)

    task.loss = short
    return task


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank_is_one_line_and_no_third_try(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path, "train.steps=6", "train.zero_stage=1")
    fill_latents(config)
    began = time.monotonic()
    with pytest.raises(
        JobError, match=r"out of memory; the last checkpoint stays\. To mend it, lower train.micro_batch"
    ):
        trainer.train(config, "train", load_one_that_runs_out)
    assert time.monotonic() - began < 120
    assert not [name for name in Store(config.store).list("runs", "tiny", "train") if name.startswith("verdict")]


@pytest.mark.slow
def test_nothing_is_started_for_a_training_that_cannot_be(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path / "store")
    fill_latents(config)
    ray.shutdown()
    with pytest.raises(DatasetError, match="have no latents of codec"):
        train.run(training_config(write_pipeline(tmp_path / "other", seed=1), tmp_path / "store"))
    with pytest.raises(ConfigError, match="cannot be shared by 3 workers"):
        train.run(training_config(tiny_pipeline, tmp_path / "store", "train.num_workers=3"))
    assert not ray.is_initialized()
