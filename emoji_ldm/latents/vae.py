"""Autoencoders: pixels <-> latents with a diffusers `AutoencoderKL` or `VQModel`, transparency included.

*Pixels* are uint8 `(N, H, W, 4)` arrays of straight (not premultiplied) RGBA. A model with four channels gets all of
them scaled to [-1, 1], with the colour of fully transparent pixels set to white. What it decodes is then straight RGBA
as well, and a stock diffusers pipeline, which merely maps [-1, 1] to [0, 255], saves correct PNG files. Premultiplied
channels would be smoother at edges, but such a pipeline would save them too dark. A model with three channels gets the
image flattened on a background colour.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emoji_ldm.config import Config, key_of
from emoji_ldm.config.latents import BucketOptions, parse_color
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.buckets import Shape
from emoji_ldm.latents.pipeline_source import resolve_checkpoint_pipeline
from emoji_ldm.latents.premultiplied_adapter import PremultipliedAutoencoder
from emoji_ldm.latents.vq_adapter import QuantizedAutoencoder
from emoji_ldm.latents.weights_hash import hash_weights
from emoji_ldm.store import Store

VAE_CLASSES = {
    "AutoencoderKL": AutoencoderKL,
    "VQModel": QuantizedAutoencoder,
    "QuantizedAutoencoder": QuantizedAutoencoder,
    "PremultipliedAutoencoder": PremultipliedAutoencoder,
}
VAE_SUBFOLDERS = ("vae", "vqvae")  # where a pipeline keeps its autoencoder
# The version is part of the key: raise it when the result of `to_square` or `to_tensor` changes, so that old latents
# are not mistaken for those of the new pixels.
PREPROCESSING_VERSION = 1

Pixels = NDArray[np.uint8]
FloatMoments = NDArray[np.float32]


def to_square(png_bytes: bytes, size_px: int) -> Pixels:
    """An image file as uint8 `(size_px, size_px, 4)`, scaled to fit and centred on transparent padding."""
    with Image.open(io.BytesIO(png_bytes)) as opened:
        image = opened.convert("RGBA")
    scale = size_px / max(image.size)
    # Rounding alone would leave a very thin image without a single column.
    width, height = (max(1, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        # Pillow premultiplies RGBA while it resizes, so colours under transparency do not bleed into edges.
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size_px, size_px))
    square.paste(image, ((size_px - width) // 2, (size_px - height) // 2))
    return np.asarray(square)


def image_size(png_bytes: bytes) -> Shape:
    """Height and width of an image file, from its header."""
    with Image.open(io.BytesIO(png_bytes)) as opened:
        return opened.height, opened.width


def to_shape(png_bytes: bytes, scaled: Shape, offset: Shape, shape: Shape) -> Pixels:
    """An image file as uint8 `(*shape, 4)`, scaled and then cut off or padded with transparency, see `buckets.place`.

    Args:
        png_bytes: The file.
        scaled: Height and width to scale to.
        offset: Rows at the top and columns at the left that are cut off, or, if negative, padded.
        shape: Height and width of the result.
    """
    with Image.open(io.BytesIO(png_bytes)) as opened:
        image = opened.convert("RGBA")
    if image.size != scaled[::-1]:
        image = image.resize(scaled[::-1], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", shape[::-1])
    canvas.paste(image, (-offset[1], -offset[0]))
    return np.asarray(canvas)


def to_tensor(pixels: Pixels, channels: int, background: str = "white") -> Tensor:
    """Model input: float32 `(N, channels, H, W)` in [-1, 1].

    Args:
        pixels: uint8 `(N, H, W, 4)` straight RGBA.
        channels: 4 keeps transparency (see the module's docstring), 3 flattens on `background`.
        background: A colour name or `#rrggbb`.

    Raises:
        ConfigError: The colour is unknown.
    """
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    colour, alpha = values[:, :3], values[:, 3:]
    if channels == 4:
        # Files hold arbitrary colours under full transparency. One colour for all of them gives the autoencoder nothing
        # to learn there.
        return torch.cat([colour.where(alpha > 0, torch.ones(())), alpha], dim=1) * 2 - 1
    backdrop = torch.tensor(parse_color(background), dtype=torch.float32).view(1, 3, 1, 1) / 255
    return (colour * alpha + backdrop * (1 - alpha)) * 2 - 1


def to_pixels(tensor: Tensor) -> Pixels:
    """uint8 `(N, H, W, 4)` straight RGBA of model output `(N, 3 or 4, H, W)`, clamped to [-1, 1]; alpha 255 for RGB."""
    # The arithmetic is in float32, as bf16 has 8 bits of mantissa, too few for 256 levels.
    values = (tensor.detach().float().clamp(-1, 1) + 1) * 127.5
    pixels = values.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    if pixels.shape[-1] == 3:
        pixels = np.concatenate([pixels, np.full((*pixels.shape[:3], 1), 255, np.uint8)], axis=-1)
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class VaeCodec:
    """A frozen autoencoder for images of one size."""

    vae: Any  # diffusers AutoencoderKL, or one of our classes with its interface; evaluation mode
    key: str  # hash of weights, their configuration and the preprocessing: equal key, equal latents
    num_channels: int  # 4: RGBA; 3: flattened on `background`
    size_px: int
    background: str
    device: torch.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of one latent."""
        side = self.size_px // downsampling_factor(self.vae)
        return latent_channels(self.vae.config), side, side

    @property
    def scaling_factor(self) -> float:
        """Latents times this factor have about unit variance, as the diffusion model needs them."""
        return float(self.vae.config.scaling_factor)

    @torch.inference_mode()
    def encode(self, pixels: Pixels) -> tuple[FloatMoments, FloatMoments]:
        """Mean and log-variance of the posterior, float32 `(N, C, h, w)` each, unscaled."""
        images = to_tensor(pixels, self.num_channels, self.background).to(self.device)
        # Both moments are kept and no sample is drawn, so that training sees a fresh sample at each step.
        posterior = self.vae.encode(images).latent_dist
        return (posterior.mean.float() - self._shift).cpu().numpy(), posterior.logvar.float().cpu().numpy()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Pixels:
        """Pixels uint8 `(N, H, W, 4)` of unscaled latents `(N, C, h, w)`."""
        return to_pixels(self.vae.decode(latents.to(self.device, self.vae.dtype) + self._shift).sample)

    @property
    def _shift(self) -> float:
        """The mean of raw latents, which newer autoencoders (Stable Diffusion 3, Flux) record; latents here have none.

        diffusers' pipelines subtract it before they scale, and add it before they decode.
        """
        return float(self.vae.config.get("shift_factor") or 0.0)


def latent_channels(settings: Mapping[str, Any]) -> int:
    """Channels of a latent, read from an autoencoder's configuration; codebook vectors may have another width."""
    return int(settings.get("vq_embed_dim") or settings["latent_channels"])


def downsampling_factor(vae: Any) -> int:
    """Pixels per latent cell along a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def load_vae(
    folder: Path | str, *, size_px: int, background: str, device: str, buckets: BucketOptions | None = None
) -> VaeCodec:
    """Load an `AutoencoderKL` or `VQModel` from its folder, from a pipeline with `vae/` or `vqvae/`, or from a hub id.

    `buckets` changes the key alone.

    Raises:
        ModelError: It is missing or of another kind, or has neither 3 nor 4 channels.
        ConfigError: `size_px` or the buckets do not fit the model, or the background is not a colour.
    """
    vae = _load_autoencoder(folder).eval().requires_grad_(False).to(device)
    channels = int(vae.config.in_channels)
    if channels not in (3, 4) or vae.config.out_channels != channels:
        raise ModelError(f"codec {folder} has {channels} input channels; RGB (3) or RGBA (4) in and out is needed")
    # With any other size the decoded image would be smaller than the encoded one, since each halving rounds down.
    if size_px % downsampling_factor(vae):
        raise ConfigError(
            f"latents.size_px={size_px} is no multiple of {downsampling_factor(vae)}, as codec {folder} needs"
        )
    # The background changes only what a model of three channels sees. With four it stays out of the key, so that
    # another background does not invalidate the latents.
    settings: list[Any] = [PREPROCESSING_VERSION, size_px, parse_color(background) if channels == 3 else ""]
    if buckets:
        if buckets.step_px % downsampling_factor(vae):
            raise ConfigError(
                f"latents.buckets.step_px={buckets.step_px} is no multiple of {downsampling_factor(vae)}, as codec "
                f"{folder} needs"
            )
        settings += [buckets.model_dump(mode="json")]
    # Releases before this one stored the latents of such autoencoders with their mean.
    settings += ["centred"] if vae.config.get("shift_factor") else []
    return VaeCodec(vae, key_of(hash_weights(vae), settings), channels, size_px, background, torch.device(device))


def resolve_vae(config: Config, store: Store, cache: Path) -> Path | str:
    """The source for `load_vae`: the run's newest autoencoder for `latents.vae=own`, else that folder or hub id.

    Args:
        config: Gives `run` and `latents.vae`.
        store: Where the run's checkpoints lie.
        cache: Local folder for the files of a checkpoint on S3.

    Raises:
        ModelError: The run has no autoencoder yet (train one first), or its files are damaged.
    """
    if config.latents.vae == "own":
        return checkpoints.newest_checkpoint(store, config.run, "autoencoder").fetch(cache, "vae")
    return config.latents.vae


def _load_autoencoder(folder: Path | str) -> Any:
    """The model in float32; ModelError with the first reason if none of the places holds one."""
    folder = resolve_checkpoint_pipeline(str(folder))
    nested = next((name for name in VAE_SUBFOLDERS if (Path(folder) / name / "config.json").is_file()), "")
    # A hub id may name a model or a pipeline: the model is tried first.
    hub = not Path(folder).is_dir()
    problem = ""
    for subfolder in ["", *VAE_SUBFOLDERS] if hub else [nested]:
        try:
            settings = AutoencoderKL.load_config(folder, subfolder=subfolder)
            kind = VAE_CLASSES.get(settings.get("_class_name"))
            if kind is None:
                raise ValueError(f"it is a {settings.get('_class_name')}, neither an AutoencoderKL nor a VQModel")
            # The VQModels of latent diffusion were published before there was a scaling factor, and use none.
            unscaled = (
                {"scaling_factor": 1.0} if kind is QuantizedAutoencoder and "scaling_factor" not in settings else {}
            )
            # The weights are float32 on every device: published autoencoders overflow in float16, and an equal key
            # promises equal latents.
            return kind.from_pretrained(
                folder, subfolder=subfolder, torch_dtype=torch.float32, use_safetensors=True, **unscaled
            )
        except (OSError, ValueError, RuntimeError) as error:
            # The first problem is the one that concerns the source as it was given; the later ones are about guessed
            # folders.
            problem = problem or " ".join(str(error).split())[:200]
    raise ModelError(
        f"cannot load codec {str(folder)!r}: {problem}; give latents.vae=own, the folder of an AutoencoderKL or "
        "VQModel, or a hub id that this machine can reach"
    )
