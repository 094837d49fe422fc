"""Problems are reported in one line: before the training starts, or when memory or a disk is full."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from emoji_ldm.errors import ConfigError, DatasetError, JobError, StoreError
from emoji_ldm.store import Store
from emoji_ldm.train import preflight
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.preflight import check_training
from emoji_ldm.train.training_args import build_training_args
from tests.emoji_images import blobs, fill_images
from tests.latents_store import fill_latents, training_config
from tests.tiny_pipelines import write_pipeline
from tests.unit.train import tiny


def checked(config, section="train", num_workers=2):
    return check_training(config, build_training_args(config, section), Store(config.store), num_workers)


def test_a_store_without_images_captions_or_latents_names_the_command(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path)
    for section in ("train", "autoencoder"):
        with pytest.raises(DatasetError, match="has no images; run: emoji-ldm crawl"):
            checked(config, section)
    fill_images(Store(config.store), blobs(3))
    with pytest.raises(DatasetError, match="no captioned image; run: emoji-ldm caption"):
        checked(config)


@pytest.mark.slow
def test_missing_latents_name_both_autoencoders_and_the_command(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path / "store")
    fill_latents(config)
    assert checked(config) == []
    other = write_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(DatasetError) as caught:
        checked(training_config(other, tmp_path / "store"))
    text = str(caught.value)
    assert text.startswith(f"8 of 8 images have no latents of codec '{other}' (")
    assert f"run: emoji-ldm latents latents.vae={other}" in text and "the store has those of" in text


@pytest.mark.slow
def test_batches_that_do_not_divide_are_refused_and_too_large_ones_warned_of(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path)
    fill_latents(config)
    with pytest.raises(ConfigError, match=r"train.batch_size=4 cannot be shared by 3 workers"):
        checked(config, num_workers=3)
    with pytest.raises(ConfigError, match=r"train.micro_batch_size=3 does not divide"):
        checked(training_config(tiny_pipeline, tmp_path, "train.micro_batch_size=3"))
    (warning,) = checked(training_config(tiny_pipeline, tmp_path, "train.batch_size=16"))
    assert warning == "train.batch_size=16 exceeds the 8 images: a step contains some twice"


def test_a_disk_too_small_for_the_checkpoints_is_reported_before_the_first_step(tmp_path, monkeypatch):
    config = tiny.config()
    run_context, training_args = tiny.run_context(config, tmp_path), build_training_args(config, "train")
    world = DistributedContext(0, 1, torch.device("cpu"))
    facts = {"num_parameters": 10**9, "num_weights": 2 * 10**9}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=20 * 2**30))
    with pytest.raises(StoreError, match=r"store: 20.0 GiB free, the run's checkpoints need about 93.1 GiB; .*keep"):
        preflight.check_disk_space(run_context, training_args, world, facts)
    preflight.check_disk_space(run_context, training_args, world, {"num_parameters": 10**6})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
        MemoryError(),
    ],
)
def test_a_full_memory_names_what_to_lower(error):
    with (
        pytest.raises(
            JobError, match=r"micro_batch_size \(now null.*gradient_checkpointing=true.*zero_stage \(now 0\)"
        ),
        preflight.explain_exhaustion(build_training_args(tiny.config(), "train")),
    ):
        raise error


def test_a_full_disk_says_that_the_last_checkpoint_stays():
    with (
        pytest.raises(StoreError, match="no space is left on the disk of /scratch/x; the last checkpoint is kept"),
        preflight.explain_exhaustion(build_training_args(tiny.config(), "train")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/x")
    for error in (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        StoreError("cannot write x in y: [Errno 28] No space left on device"),
    ):
        with (
            pytest.raises(StoreError, match=r"of the store or of the scratch folder .*; the last checkpoint is kept"),
            preflight.explain_exhaustion(build_training_args(tiny.config(), "train")),
        ):
            raise error
    with (
        pytest.raises(StoreError, match="elsewhere"),
        preflight.explain_exhaustion(build_training_args(tiny.config(), "train")),
    ):
        raise StoreError("elsewhere")
    with (
        pytest.raises(RuntimeError, match="something else"),
        preflight.explain_exhaustion(build_training_args(tiny.config(), "train")),
    ):
        raise RuntimeError("something else")
