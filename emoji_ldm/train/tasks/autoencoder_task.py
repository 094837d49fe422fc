"""The task of autoencoder training: reconstruct images; exported as `vae/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emoji_ldm.config import AutoencoderConfig
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import MissingInputError
from emoji_ldm.latents.vae import to_square, to_tensor
from emoji_ldm.latents.vq_adapter import QuantizedAutoencoder
from emoji_ldm.model.autoencoder import AutoencoderLoss, build_autoencoder, fill_codebook, psnr_db
from emoji_ldm.model.unet import count_parameters
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from emoji_ldm.train.engines.distributed import device_of
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext

# Images, at most, on which quality and the latents' standard deviation are measured: each export waits for it.
NUM_MEASURED_IMAGES = 128
MEASURE_BATCH = 16

Pixels = NDArray[np.uint8]


class AutoencoderTask:
    """L1 + gradient + KL or codebook loss on images in memory."""

    def __init__(self, config: AutoencoderConfig, pixels: Pixels, versions: Mapping[str, int]) -> None:
        """Take images uint8 `(N, size_px, size_px, 4)`, straight RGBA, and the table versions they come from."""
        self.config, self.pixels = config, pixels
        self.vae = build_autoencoder(config)
        if config.kind == "vq":
            # The vectors are latents of real images. That is possible because the identity initialisation makes the
            # untrained encoder useful.
            fill_codebook(self.vae, torch.cat([mean for _, mean in _encode_batches(self.vae, pixels)]), config.seed)
        self.module: nn.Module = AutoencoderLoss(self.vae, config.kl_weight)
        factor = 2 ** (len(config.block_out_channels) - 1)
        self.latent_shape = (config.latent_channels, config.size_px // factor, config.size_px // factor)
        self.manifest_facts: Mapping[str, Any] = {
            "versions": dict(versions),
            "num_images": len(pixels),
            "num_parameters": count_parameters(self.module),
        }

    def prepare_batch(self, step: int, slots: range) -> tuple[Tensor, Tensor]:
        """Images `(n, 4, H, W)`, half of them mirrored, and the noise of their posteriors."""
        seed, batch_size = self.config.seed, self.config.batch_size
        rows = sampler.sample_indices(seed, step, slots, batch_size=batch_size, size=len(self.pixels))
        draws = sampler.draw_noise(seed, step, slots, shape=self.latent_shape, kind="autoencoder")
        # The stream's first uniform number, which diffusion training uses for caption dropout, decides on mirroring
        # here.
        mirrored = (draws.uniforms[:, 0] < 0.5)[:, None, None, None]
        chosen = self.pixels[rows]
        return to_tensor(np.where(mirrored, chosen[:, :, ::-1], chosen), 4), torch.from_numpy(draws.noise)

    def loss(self, forward: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> Tensor:
        """The reconstruction loss plus the cost of the latents, see `AutoencoderLoss`."""
        device = device_of(self.module)
        loss: Tensor = forward(*(tensor.to(device, non_blocking=True) for tensor in batch))
        return loss.float()

    def validation_batches(self, slots: range) -> list[Any]:
        """No batches: quality is measured at each export."""
        return []

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write `vae/` with a measured scaling factor: latents times it have unit standard deviation."""
        device = device_of(self.module)
        vae = build_autoencoder(self.config)
        # The export needs a second network: the one in `module` is being trained at this moment, and its parameters may
        # be sharded.
        vae.load_state_dict({name.removeprefix("vae."): tensor for name, tensor in weights.items()})
        quality = measure_reconstruction(vae.to(device).eval(), self.pixels)
        vae.register_to_config(scaling_factor=1 / quality["latent_std"])
        vae.to("cpu").save_pretrained(folder / "vae")
        return quality

    def preview(self, folder: Path) -> Mapping[str, bytes]:
        """No grids: the measured figures show the quality."""
        return {}


@torch.inference_mode()
def measure_reconstruction(vae: Any, pixels: Pixels) -> dict[str, float]:
    """Quality on up to 128 images spread over the set: `psnr_db` on white, `alpha_psnr_db`, `latent_std`.

    For a codebook also `codebook_used`, the share of its vectors that occur in these images.
    """
    truth, decoded, latents = [], [], []
    for batch, mean in _encode_batches(vae, pixels):
        truth.append(batch.cpu())
        # The means are decoded without noise, as in the use of the model: figures with noise would be lower.
        decoded.append(vae.decode(mean).sample.cpu())
        latents.append(mean.float().cpu())
    colour, alpha = psnr_db(torch.cat(decoded), torch.cat(truth))
    found, spread = {"psnr_db": colour, "alpha_psnr_db": alpha}, torch.cat(latents)
    if isinstance(vae, QuantizedAutoencoder):
        # The third result of the quantiser is a tuple whose third part holds the index of each latent's vector.
        used = vae.quantize(spread.to(vae.device))[2][2].unique()
        found["codebook_used"] = len(used) / vae.config.num_vq_embeddings
    return found | {"latent_std": float(spread.std().clamp_min(1e-6))}


@torch.no_grad()
def _encode_batches(vae: Any, pixels: Pixels) -> Iterator[tuple[Tensor, Tensor]]:
    """Up to 128 images spread over the set, in batches: the model input and the means of the latents."""
    # Images are sorted by hash, so evenly spaced ones are an arbitrary sample, and the same one each time. In a small
    # set some index occurs several times.
    chosen = pixels[np.unique(np.linspace(0, len(pixels) - 1, NUM_MEASURED_IMAGES).astype(int))]
    for start in range(0, len(chosen), MEASURE_BATCH):
        batch = to_tensor(chosen[start : start + MEASURE_BATCH], 4).to(vae.device)
        yield batch, vae.encode(batch).latent_dist.mean


def load_task(context: RunContext) -> AutoencoderTask:
    """The task of `config.autoencoder` on the store's images; DatasetError if there are none."""
    pixels, version = load_pixels(context.store, context.config.autoencoder.size_px, context.config.as_of)
    return AutoencoderTask(context.config.autoencoder, pixels, {"images": version})


def load_pixels(store: Store, size_px: int, as_of: str | None = None) -> tuple[Pixels, int]:
    """Every image of the store as uint8 `(N, size_px, size_px, 4)` in the order of image ids, and the version read.

    `as_of` names a tag, time or version of the table; null reads the newest rows.

    Raises:
        DatasetError: There are none.
    """
    table = open_tables(store, as_of, IMAGES)[IMAGES.name]
    rows = table.read(["image_id", "image"])
    if not rows.num_rows:
        raise MissingInputError(f"{store.uri} has no images to train an autoencoder on; run: emoji-ldm crawl")
    images, pixels = rows["image"], np.empty((rows.num_rows, size_px, size_px, 4), np.uint8)
    # The table's order depends on how it was written. Training draws row numbers, which must mean the same images
    # everywhere.
    for index, row in enumerate(pc.sort_indices(rows["image_id"]).to_pylist()):
        pixels[index] = to_square(images[row]["bytes"].as_py(), size_px)
    return pixels, table.version
