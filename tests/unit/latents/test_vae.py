"""Autoencoders: pixels to latents and back, and refusal of other models."""

import io

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.vae import load_vae, resolve_vae, to_pixels, to_square, to_tensor
from emoji_ldm.store import Store
from tests.emoji_images import blobs
from tests.tiny_pipelines import write_pipeline


def codec(folder, **changes):
    return load_vae(folder, **{"size_px": 32, "background": "white", "device": "cpu", **changes})


def png(size, colour):
    out = io.BytesIO()
    Image.new("RGBA", size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def pixels():
    return np.stack([to_square(picture.data, 32) for picture in blobs(4)])


@pytest.fixture(scope="module")
def rgb_folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("rgb") / "pipeline", channels=3) / "vae"


def test_images_are_centred_in_a_transparent_square():
    square = to_square(png((40, 20), (10, 20, 30, 255)), 32)
    assert (square.shape, square.dtype) == ((32, 32, 4), np.uint8)
    assert (square[8:24, :] == (10, 20, 30, 255)).all()
    assert not square[:8].any() and not square[24:].any()


def test_hidden_colours_do_not_bleed_into_edges():
    image = Image.new("RGBA", (64, 64), (0, 255, 0, 0))  # green that nobody sees
    image.paste((255, 0, 0, 255), (16, 16, 49, 49))
    out = io.BytesIO()
    image.save(out, "PNG")
    square = to_square(out.getvalue(), 32)
    edge = square[(square[..., 3] > 0) & (square[..., 3] < 255)]
    assert len(edge) and edge[:, 1].max() <= 2


def test_visible_rgba_survives_the_round_trip_bit_for_bit(pixels):
    tensor = to_tensor(pixels, 4)
    assert (tensor.shape, tensor.dtype) == ((4, 4, 32, 32), torch.float32)
    assert tensor.min() == -1 and tensor.max() == 1
    back, seen = to_pixels(tensor), pixels[..., 3] > 0
    assert (back[..., 3] == pixels[..., 3]).all()
    assert (back[seen] == pixels[seen]).all()
    assert (back[~seen] == (255, 255, 255, 0)).all()


def test_rgb_models_get_the_image_on_its_background(pixels):
    flat = to_pixels(to_tensor(pixels, 3, "#0080ff"))
    expected = Image.new("RGBA", (32, 32), "#0080ff")
    expected.alpha_composite(Image.fromarray(pixels[0], "RGBA"))
    assert np.abs(flat[0].astype(int) - np.asarray(expected)).max() <= 1
    assert (flat[..., 3] == 255).all()


def test_decoded_pixels_are_those_of_the_plain_pipeline(tiny_pipeline):
    own, vae = codec(tiny_pipeline), DiffusionPipeline.from_pretrained(tiny_pipeline).vae
    latents = torch.randn(2, *own.latent_shape)
    with torch.no_grad():
        images = VaeImageProcessor().postprocess(vae.decode(latents).sample, output_type="pil")
    assert [image.mode for image in images] == ["RGBA", "RGBA"]
    assert (own.decode(latents) == np.stack([np.asarray(image) for image in images])).all()


def test_encoding_gives_the_raw_posterior(tiny_pipeline, pixels):
    own = codec(tiny_pipeline)
    mean, logvar = own.encode(pixels)
    with torch.no_grad():
        posterior = own.vae.encode(to_tensor(pixels, 4)).latent_dist
    assert (mean == posterior.mean.numpy()).all() and (logvar == posterior.logvar.numpy()).all()
    assert (mean.shape, mean.dtype) == ((4, 4, 16, 16), np.float32)
    assert (own.latent_shape, own.num_channels, own.scaling_factor) == ((4, 16, 16), 4, 0.7)


def test_three_channels_are_flattened_and_opaque(rgb_folder, pixels):
    flat = codec(rgb_folder)
    assert flat.num_channels == 3
    assert (flat.decode(torch.from_numpy(flat.encode(pixels)[0]))[..., 3] == 255).all()


def test_what_is_not_an_autoencoder_is_refused_with_a_remedy(tiny_pipeline, tmp_path):
    for folder in (tmp_path, tiny_pipeline / "unet", "no/such-model"):
        with pytest.raises(ModelError, match=r"latents\.vae=own"):
            codec(folder)
    with pytest.raises(ConfigError, match="size_px=33"):
        codec(tiny_pipeline, size_px=33)
    with pytest.raises(ConfigError, match="not a colour"):
        to_tensor(np.zeros((1, 8, 8, 4), np.uint8), 3, "octarine")


def test_vae_own_is_the_runs_newest_autoencoder(tmp_path, tiny_pipeline):
    store, config = Store(str(tmp_path / "store")), load(None, ["run=blob"])
    with pytest.raises(ModelError, match="emoji-ldm train autoencoder"):
        resolve_vae(config, store, tmp_path)
    path = f"checkpoints/blob/autoencoder/{checkpoints.folder_name(7)}"
    store.upload(tiny_pipeline / "vae", path, "vae")
    checkpoints.publish_checkpoint(store, path, {"step": 7})
    assert codec(resolve_vae(config, store, tmp_path)).key == codec(tiny_pipeline).key
    assert resolve_vae(load(None, ["latents.vae=some/vae"]), store, tmp_path) == "some/vae"
