"""`train --export`: a folder that diffusers opens and that draws the pixels of our sampler."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.store import Store
from emoji_ldm.train.checkpoint_export import export_checkpoint
from emoji_ldm.train.export_description import ExportRequest
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import autoencoder_task, diffusion_task
from emoji_ldm.train.training_args import build_training_args
from ray_jobs.cli.main import main
from tests.emoji_images import blobs, fill_images
from tests.generation_requests import noise_for_seeds
from tests.latents_store import fill_latents, training_config
from tests.unit.train import tiny

PROMPT = "a happy blob"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_pipeline):
    """The configuration of a run with two checkpoints, whose average is not its weights."""
    folder = tmp_path_factory.mktemp("run")
    config = training_config(tiny_pipeline, folder / "store", "train.steps=4", "train.num_workers=1",
                             "train.zero_stage=0", "train.checkpoint_every=2", "train.lr=1e-2")  # fmt: skip
    fill_latents(config)
    run_context = tiny.run_context(config, folder)
    fit(diffusion_task.load_task(run_context), build_training_args(config, "train"), run_context, torch.device("cpu"))
    return config


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    bare = trained.model_copy(update={"train": type(trained.train)()})  # as an operator types it: run and store
    for weights in ("ema", "raw"):
        export_checkpoint(bare, ExportRequest("train", weights), folder / weights, folder / "cache")
    return folder


def pixels_of_ours(folder):
    return OfflineSampler(load_model(folder), 1)([GenerationRequest(PROMPT, seed=7, steps=5, guidance_scale=3.0)])[0]


def pixels_of_diffusers(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    latents = noise_for_seeds([7], load_model(folder).latent_shape)
    image = pipeline(PROMPT, num_inference_steps=5, guidance_scale=3.0, latents=latents, output_type="np").images[0]
    return np.round(image * 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_diffusers_opens_the_export_and_draws_the_same_pixels(weights, exported):
    ours, theirs = pixels_of_ours(exported / weights), pixels_of_diffusers(exported / weights)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert ours.std() > 5


@pytest.mark.slow
def test_raw_weights_are_those_of_the_training_state(trained, exported):
    ema, raw = (load_file(exported / kind / "unet" / "diffusion_pytorch_model.safetensors") for kind in ("ema", "raw"))
    assert ema.keys() == raw.keys()
    assert not all(torch.equal(ema[name], raw[name]) for name in ema)
    assert (pixels_of_ours(exported / "ema") != pixels_of_ours(exported / "raw")).any()
    facts = json.loads((exported / "raw" / "emoji_ldm.json").read_text())
    assert (facts["step"], facts["weights"], facts["config"]["run"]) == (4, "raw", "tiny")


@pytest.mark.slow
def test_an_earlier_export_is_replaced_and_other_files_are_refused(trained, exported, tmp_path):
    folder = tmp_path / "model"
    export_checkpoint(trained, ExportRequest("train"), folder, tmp_path)
    export_checkpoint(trained, ExportRequest("train"), folder, tmp_path)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'notes.txt', which no export wrote"):
        export_checkpoint(trained, ExportRequest("train"), folder, tmp_path)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_it_goes_into_the_folder_that_one_stands_in_or_that_a_link_names(trained, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        export_checkpoint(trained, ExportRequest("train"), Path(), tmp_path / "cache")
    assert Path("model_index.json").is_file()  # the folder is the same one, not another in its place
    export_checkpoint(trained, ExportRequest("train"), tmp_path / "link", tmp_path / "cache")
    assert (tmp_path / "link").is_symlink() and Path("model_index.json").is_file()


def test_an_unwritable_folder_is_reported_in_one_line(trained, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--export .*/file/model cannot be written: "):
        export_checkpoint(trained, ExportRequest("train"), tmp_path / "file" / "model", tmp_path / "cache")


def test_a_checkpoint_of_other_code_is_one_line(trained, tmp_path, monkeypatch):
    manifest = checkpoints.newest_checkpoint(Store(trained.store), "tiny", "unet").manifest()
    manifest["config"]["train"]["unheard_of"] = 1
    monkeypatch.setattr(checkpoints.Checkpoint, "check", lambda self: manifest)
    with pytest.raises(ConfigError, match=r"unheard_of"):
        export_checkpoint(trained, ExportRequest("train", "raw"), tmp_path / "model", tmp_path / "cache")


def test_a_checkpoint_is_chosen_by_its_path_or_uri(trained, tmp_path):
    older, newer = checkpoints.complete_checkpoints(Store(trained.store), "tiny", "unet")
    for name in (older.path, older.uri):
        assert (
            export_checkpoint(trained, ExportRequest("train", checkpoint=name), tmp_path / "old", tmp_path)["step"] == 2
        )
    with pytest.raises(ModelError, match=f"'nowhere' is no complete checkpoint .* has {older.path}, {newer.path}"):
        export_checkpoint(trained, ExportRequest("train", checkpoint="nowhere"), tmp_path / "none", tmp_path)
    with pytest.raises(ModelError, match="holds no such weights; it has: ema, raw"):
        export_checkpoint(trained, ExportRequest("train", "ema2"), tmp_path / "none", tmp_path)
    assert not (tmp_path / "none").exists()


def test_the_command_says_what_it_wrote_and_what_to_type_next(trained, tmp_path, capfd, monkeypatch):
    words = ["train", f"store={trained.store}", "run=tiny"]
    assert main([*words, "--export", str(tmp_path / "model")]) == 0
    told = capfd.readouterr().err
    assert "step" in told and f"generate.checkpoint={tmp_path / 'model'}" in told
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main([*words, "--export", str(tmp_path / "model"), "--push", "me/emoji"]) == 2
    assert "HF_TOKEN" in capfd.readouterr().err
    assert main([*words, "--push", "me/emoji"]) == 2
    assert "--push goes with --export DIR" in capfd.readouterr().err


def test_an_autoencoder_is_exported_as_diffusers_own(tmp_path, tiny_pipeline):
    config = training_config(
        tiny_pipeline, tmp_path / "store", "autoencoder.size_px=16", "autoencoder.batch_size=2",
        "autoencoder.block_out_channels=[16,16]", "autoencoder.steps=2", "autoencoder.lr=1e-2",
    )  # fmt: skip
    fill_images(Store(config.store), blobs(3))
    run_context = tiny.run_context(config, tmp_path)
    fit(
        autoencoder_task.load_task(run_context),
        build_training_args(config, "autoencoder"),
        run_context,
        torch.device("cpu"),
    )
    for weights in ("ema", "raw"):
        export_checkpoint(config, ExportRequest("autoencoder", weights), tmp_path / weights, tmp_path / "cache")
    ema, raw = (AutoencoderKL.from_pretrained(tmp_path / weights) for weights in ("ema", "raw"))
    assert ema.config.scaling_factor == raw.config.scaling_factor != AutoencoderKL().config.scaling_factor
    assert not torch.equal(ema.decoder.conv_in.weight, raw.decoder.conv_in.weight)


@pytest.fixture(autouse=True, scope="module")
def quiet():
    logging.getLogger("diffusers").setLevel(logging.ERROR)
