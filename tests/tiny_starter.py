"""A random starter of the shipped classes in about 200 kB, packed as the real one is."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from emoji_ldm.latents.premultiplied_adapter import PremultipliedAutoencoder
from infra.starter.export import write_package

TRAINING = {"step": 1, "images": 2, "parameters": {"unet": 1, "vae": 1}, "optimizer": "muon", "lr": 0.1, "decay": 0.3,
            "batch": 2, "widths": [8, 16], "depth": 1, "time_mean": 0.0, "time_std": 1.0}  # fmt: skip


def tiny_vae() -> PremultipliedAutoencoder:
    """16 px to 4 x 4 x 4, with statistics that are not those of a unit Gaussian."""
    torch.manual_seed(1)
    vae = PremultipliedAutoencoder(
        block_out_channels=(4, 16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1), latent_channels=4,
        latents_mean=(0.1, -0.2, 0.3, 0.0), latents_std=(0.5, 1.5, 1.0, 0.8), sample_size=16,
    )  # fmt: skip
    return vae.eval()


def tiny_unet() -> UNet2DConditionModel:
    """The network that `infra.starter.networks` builds, with other widths."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        attention_head_dim=4, cross_attention_dim=384, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text", addition_embed_type_num_heads=8,
    )  # fmt: skip
    return unet.eval()


def write_tiny_starter(folder: Path) -> Path:
    """Pack the two networks into a folder, which `starter_model.PACKAGED_FOLDER` may name."""
    write_package(folder, tiny_unet(), tiny_vae(), TRAINING, min_int8_numbers=64)
    return folder
