"""`emoji-ldm train plan`: a table and advice, without a worker."""

import pytest

from ray_jobs.cli.main import main
from tests.latents_store import fill_latents, training_config

SMALL = ["train.block_out_channels=[8,16]", "train.layers_per_block=1", "train.num_heads=2", "train.batch_size=8"]


@pytest.fixture
def store(tiny_pipeline, tmp_path):
    fill_latents(training_config(tiny_pipeline, tmp_path / "store"))
    return f"store={tmp_path / 'store'}"


def test_a_plan_names_what_is_needed_and_what_fits(store, capfd):
    assert main(["train", "plan", store, *SMALL]) == 0
    told = capfd.readouterr().err
    for words in ("parameters", "memory of a rank", "activations", "optimiser", "checkpoint", "local copy", ": fits"):
        assert words in told


def test_a_plan_for_gpus_goes_through_their_usual_sizes(store, capfd):
    options = ["train.gpus_per_worker=1", "train.num_workers=2", "train.precision=bf16", "train.zero_stage=1"]
    assert main(["train", "plan", store, *SMALL, *options]) == 0
    told = capfd.readouterr().err
    assert "a GPU of 16 GiB: fits\n" in told and "copy for saving" in told


def test_without_latents_the_command_that_makes_them_is_named(tmp_path, capfd):
    assert main(["train", "plan", f"store={tmp_path}"]) == 1
    assert "has no latents, whose size decides what fits; run: emoji-ldm latents" in capfd.readouterr().err
    assert main(["train", "plam"]) == 2
    assert "did you mean 'plan'?" in capfd.readouterr().err
