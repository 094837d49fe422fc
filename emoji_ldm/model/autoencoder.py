"""The project's RGBA autoencoder: a small diffusers `AutoencoderKL` or `VQModel`, its loss and its quality measure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import AutoencoderConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.vq_adapter import QuantizedAutoencoder
from emoji_ldm.model.identity_init import NUM_GROUPS, init_identity

# Weight of colour errors under full transparency. They cannot be seen, but with weight 0 nothing would bound them.
HIDDEN_WEIGHT = 0.1
# Weight of the distance to the codebook: at 1 the latents drift away from the vectors, and many of these go unused.
CODEBOOK_WEIGHT = 10.0
GRADIENT_WEIGHT = 0.5  # weight of the error of neighbour differences, relative to the error of values


def build_autoencoder(config: AutoencoderConfig) -> Any:
    """An autoencoder with 4 channels in and out that starts as block averages, see `identity_init`.

    It is an `AutoencoderKL`, or for `kind=vq` a `VQModel` (as `QuantizedAutoencoder`). Random
    weights are drawn from `config.seed`. There is no attention in the middle block: emoji have local structure, and a
    purely convolutional network works at every size.

    Raises:
        ConfigError: The image side cannot be halved once per resolution, a width is too small, or the latent has fewer
            channels than the image.
    """
    from diffusers import AutoencoderKL

    widths = config.block_out_channels
    _check_autoencoder_config(config)
    common = {
        "in_channels": 4, "out_channels": 4, "latent_channels": config.latent_channels, "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths), "norm_num_groups": NUM_GROUPS,
        "up_block_types": ("UpDecoderBlock2D",) * len(widths), "layers_per_block": config.layers_per_block,
        "sample_size": config.size_px, "mid_block_add_attention": False, "force_upcast": False,
    }  # fmt: skip
    # The CPU generator of the process is put back afterwards, so that building a model does not change what others
    # draw.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.kind == "vq":
            vae = QuantizedAutoencoder(**common, num_vq_embeddings=config.codebook_size)
        else:
            vae = AutoencoderKL(**common)
        init_identity(vae)
    if config.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    return vae


@torch.no_grad()
def fill_codebook(vae: Any, latents: Tensor, seed: int) -> None:
    """Initialise the codebook with latents `(n, C, h, w)` of real images, so that each vector is used from step 1.

    diffusers draws it from a tiny cube around zero, most of which no latent ever comes near.
    """
    vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)
    different = torch.unique((vectors * 64).round(), dim=0) / 64  # flat surfaces give many equal latents
    book, generator = vae.quantize.embedding.weight, torch.Generator().manual_seed(seed)
    # With fewer different latents than vectors each latent is taken about equally often, and the small noise below
    # tells its copies apart.
    rounds = -(-len(book) // len(different))
    chosen = torch.cat([torch.randperm(len(different), generator=generator) for _ in range(rounds)])[: len(book)]
    book.copy_(different[chosen] + torch.randn(book.shape, generator=generator) / 256)


class AutoencoderLoss(nn.Module):
    """The autoencoder with its training loss as output, since an engine calls one module per forward pass."""

    def __init__(self, vae: Any, kl_weight: float) -> None:
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight
        self.quantized = isinstance(vae, QuantizedAutoencoder)

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """L1 + gradient loss of `(n, 4, H, W)` pixels in [-1, 1], and the cost of their latents.

        The cost is the KL divergence, or the squared distance to the codebook: with full weight for the latents, and a
        quarter for the vectors. In VQ-VAE (arXiv 1711.00937, equation 3) the quarter is on the latents' term. The code
        of latent diffusion has it this way round, and so has `VQModel`; it keeps latents near the vectors.
        `noise` has the latent's shape; a quantised autoencoder ignores it.
        """
        if self.quantized:
            decoded, distance = self.vae.decode(self.vae.encode(pixels).latents, return_dict=False)
            return reconstruction_loss(decoded, pixels) + CODEBOOK_WEIGHT * torch.as_tensor(distance)
        # The noise comes from the caller, keyed by step and position. `latent_dist.sample()` would draw from the
        # process's generator, and a resumed run would not repeat the uninterrupted one.
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        # `kl()` is summed over a latent's elements. Per element, `kl_weight` means the same at every image size.
        kl = posterior.kl().mean() / noise[0].numel()
        loss: Tensor = reconstruction_loss(decoded, pixels) + self.kl_weight * kl
        return loss


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error of values and of neighbour differences, weighted by visibility.

    Alpha counts fully everywhere. Colour counts by alpha, but never less than `HIDDEN_WEIGHT`.

    Args:
        decoded: `(n, 4, H, W)`, about [-1, 1].
        pixels: The target, same shape and range.
    """
    alpha = (pixels[:, 3:] + 1) / 2
    colour = HIDDEN_WEIGHT + (1 - HIDDEN_WEIGHT) * alpha
    # A wrong alpha shows everywhere, a wrong colour only as far as its pixel is opaque.
    weight = torch.cat([colour.expand(-1, 3, -1, -1), torch.ones_like(alpha)], dim=1)
    error = decoded - pixels
    loss = (weight * error.abs()).mean()
    # L1 on values alone tolerates blurred edges, where the errors of neighbour differences are largest.
    for dim in (2, 3):
        step = error.diff(dim=dim).abs()
        size = step.shape[dim]
        # A difference is visible as far as both of its pixels are.
        both = torch.minimum(weight.narrow(dim, 0, size), weight.narrow(dim, 1, size))
        loss = loss + GRADIENT_WEIGHT * (both * step).mean()
    return loss


def psnr_db(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Peak signal-to-noise ratio in dB of RGBA images on white, and of their alpha alone.

    Args:
        first: `(n, 4, H, W)` in [-1, 1], straight alpha.
        second: The same.
    """
    first, second = (first.clamp(-1, 1) + 1) / 2, (second.clamp(-1, 1) + 1) / 2
    return _psnr(_on_white(first), _on_white(second)), _psnr(first[:, 3:], second[:, 3:])


def _check_autoencoder_config(config: AutoencoderConfig) -> None:
    widths = config.block_out_channels
    if config.size_px % 2 ** (len(widths) - 1):
        raise ConfigError(
            f"autoencoder.block_out_channels={list(widths)} halves the image {len(widths) - 1} times, but "
            f"autoencoder.size_px={config.size_px} allows fewer; give fewer widths or another size"
        )
    # `identity_init` needs four channels for each of four lanes, and a latent channel for each colour and alpha.
    if min(widths) < 16 or config.latent_channels < 4:
        raise ConfigError(
            f"autoencoder.block_out_channels={list(widths)} and latent_channels={config.latent_channels}: "
            "widths from 16 and latents from 4 channels are needed"
        )


def _on_white(pixels: Tensor) -> Tensor:
    alpha = pixels[:, 3:]
    return pixels[:, :3] * alpha + (1 - alpha)


def _psnr(first: Tensor, second: Tensor) -> float:
    # Equal images would give an infinite ratio, which JSON cannot express: it ends at 120 dB.
    error = torch.mean((first - second) ** 2).clamp_min(1e-12)
    return float(-10 * torch.log10(error))
