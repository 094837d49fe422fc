"""Tiny random pipelines: the real classes and file layout in about 100 kB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel, VQModel
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 16


def write_pipeline(
    folder: Path, *, channels: int = 4, size_px: int = 32, seed: int = 0, linear: bool = False, **scheduler: object
) -> Path:
    """Write a StableDiffusionPipeline folder and return it.

    Args:
        folder: Where to write; it is created.
        channels: 4 for an RGBA autoencoder, 3 for RGB.
        size_px: Side of the images; latents have half of that.
        seed: Of the random weights.
        linear: Whether the U-Net is built like that of Stable Diffusion 2.1.
        scheduler: Fields of the DDIMScheduler, such as prediction_type.
    """
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=32, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    vae = AutoencoderKL(
        in_channels=channels, out_channels=channels, latent_channels=4, block_out_channels=(16, 16), norm_num_groups=8,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=size_px, scaling_factor=0.7,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=size_px // 2, in_channels=4, out_channels=4, block_out_channels=(16, 32), norm_num_groups=8,
        layers_per_block=1, cross_attention_dim=32, attention_head_dim=[2, 4] if linear else 8,
        use_linear_projection=linear,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    noise = DDIMScheduler(**{"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1, **scheduler})
    StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=noise,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of single bytes without merges: every letter is a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=TOKENS)


def write_clip(folder: Path) -> Path:
    """Write a CLIP with both towers and its tokenizer, as on the hub; token states have 32 channels."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": TOKENS, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_vae(folder: Path) -> Path:
    """Write an RGB AutoencoderKL of four resolutions, like that of Stable Diffusion."""
    torch.manual_seed(0)
    AutoencoderKL(**_layers(4), latent_channels=4, scaling_factor=0.18215).save_pretrained(folder)
    return folder


def write_vqvae(folder: Path, **changes: Any) -> VQModel:
    """Write and return an RGB VQModel of three resolutions, like latent diffusion, with a well-spread codebook."""
    torch.manual_seed(0)
    vae = VQModel(**{**_layers(3), "latent_channels": 3, "num_vq_embeddings": 16, **changes})
    vae.quantize.embedding.weight.data.normal_()
    vae.eval().save_pretrained(folder)
    return vae


def _layers(resolutions: int) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * resolutions, "block_out_channels": (8,) * resolutions,
        "up_block_types": ("UpDecoderBlock2D",) * resolutions, "norm_num_groups": 4, "layers_per_block": 1,
        "sample_size": 32,
    }  # fmt: skip


def pixels_of(png: bytes) -> np.ndarray:
    """Pixels `(H, W, 4)` of a PNG."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
