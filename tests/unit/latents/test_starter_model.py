"""The packaged starter: what unpacking gives, and what a damaged installation says."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from emoji_ldm.config import build
from emoji_ldm.errors import ModelError
from emoji_ldm.latents import starter_model
from emoji_ldm.latents.pipeline_source import resolve_checkpoint_pipeline
from emoji_ldm.latents.starter_model import STARTER, starter_folder, unpack_weights
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import load_vae
from tests.tiny_starter import tiny_unet, tiny_vae


def test_weights_come_back_to_half_a_step_of_int8_per_output_channel(tiny_starter):
    unpacked = load_file(tiny_starter / "unet" / starter_model.WEIGHTS_FILE)
    weights = tiny_unet().state_dict()
    assert unpacked.keys() == weights.keys()
    for name, weight in weights.items():
        assert unpacked[name].dtype == torch.float32
        # 127 steps up to the largest of a channel, rounded: an error of half a step; float16 is finer than that.
        bound = weight.flatten(1).abs().amax(1) / 254 if weight.ndim > 1 else weight.abs() / 1024
        error = (unpacked[name] - weight).abs()
        error = error.flatten(1).amax(1) if weight.ndim > 1 else error
        assert (error <= bound * 1.001 + 1e-7).all(), name


def test_int8_without_its_scales_is_an_error_and_floats_need_none():
    assert (unpack_weights({"a": np.ones(2, np.float16)})["a"] == 1).all()
    with pytest.raises(KeyError):
        unpack_weights({"a": np.ones((2, 2), np.int8)})


def test_a_second_call_opens_the_same_folder_without_reading_the_package(tiny_starter, monkeypatch):
    monkeypatch.setattr(starter_model, "_unpack_into", None)
    assert starter_folder() == tiny_starter
    assert resolve_checkpoint_pipeline(STARTER) == str(tiny_starter)
    assert [path.name for path in tiny_starter.parent.iterdir()] == [tiny_starter.name]


def test_its_parts_are_found_by_its_name_wherever_a_pipeline_is(tiny_starter):
    vae = load_vae(STARTER, size_px=16, background="white", device="cpu")
    assert vae.latent_shape == (4, 4, 4)
    # Cached states of the packaged encoder serve fine-tuning: it is the same model under either name.
    named, packaged = (load_text_encoder(name, max_tokens=32, device="cpu") for name in (STARTER, "minilm"))
    assert named.key == packaged.key
    config = build(
        {"latents": {"vae": "init", "text_encoder": "init"}, "train": {"init": STARTER, "prediction_type": "flow"}},
        where="test",
    )
    assert (config.latents.vae, config.latents.text_encoder) == (STARTER, STARTER)


def test_the_folder_opens_in_diffusers(tiny_starter):
    pipeline = DiffusionPipeline.from_pretrained(tiny_starter, trust_remote_code=True)
    assert type(pipeline.unet) is UNet2DConditionModel and pipeline.vae_scale_factor == 4
    assert pipeline.tokenizer.model_max_length == 32


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "unet.safetensors").write_bytes((folder / "unet.safetensors").read_bytes()[:-100]),
    lambda folder: (folder / "vae.safetensors").unlink(),
    lambda folder: (folder / "unet.json").write_text("{}"),
    lambda folder: (folder / starter_model.MANIFEST).write_text("{"),
    lambda folder: (folder / starter_model.MANIFEST).write_text('{"files": []}'),
])  # fmt: skip
def test_a_damaged_package_is_refused_in_one_line_and_leaves_nothing(starter_package, tmp_path, monkeypatch, damage):
    folder = tmp_path / "package"
    shutil.copytree(starter_package, folder)
    damage(folder)
    monkeypatch.setattr(starter_model, "PACKAGED_FOLDER", folder)
    monkeypatch.setattr(starter_model, "CACHE_FOLDER", tmp_path / "cache")
    with pytest.raises(ModelError, match=r"(damaged|missing).*install emoji-ldm again") as error:
        starter_folder()
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert not list(tmp_path.glob("cache/*"))


def test_broken_weights_with_a_matching_hash_are_refused_too(starter_package, tmp_path, monkeypatch):
    folder = tmp_path / "package"
    shutil.copytree(starter_package, folder)
    (folder / "unet.safetensors").write_bytes(b"no tensors")
    manifest = json.loads((folder / starter_model.MANIFEST).read_text())
    del manifest["files"]["unet.safetensors"]
    (folder / starter_model.MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setattr(starter_model, "PACKAGED_FOLDER", folder)
    monkeypatch.setattr(starter_model, "CACHE_FOLDER", tmp_path / "cache")
    with pytest.raises(ModelError, match=r"unet\.safetensors is damaged"):
        starter_folder()
    assert not list(tmp_path.glob("cache/*"))


def test_an_installation_without_weights_says_so(no_starter):
    assert not starter_model.is_packaged()
    with pytest.raises(ModelError, match="this installation has no weights of the starter model; train"):
        resolve_checkpoint_pipeline(STARTER)


def test_a_cache_that_cannot_be_written_is_named(starter_package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(starter_model, "PACKAGED_FOLDER", starter_package)
    monkeypatch.setattr(starter_model, "CACHE_FOLDER", tmp_path / "file" / "cache")
    with pytest.raises(ModelError, match=r"cannot unpack the starter model into .*: Not a directory"):
        starter_folder()


def test_packed_weights_are_those_of_the_autoencoder_in_float16(tiny_starter):
    unpacked = load_file(tiny_starter / "vae" / starter_model.WEIGHTS_FILE)
    assert all((unpacked[name] == weight.half().float()).all() for name, weight in tiny_vae().state_dict().items())
