"""Tiny random pipelines with several text encoders: the real classes of SDXL, Stable Diffusion 3 and Flux."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from tests.tiny_pipelines import TOKENS, clip_tokenizer

SIDE = 16  # of a latent; images have twice that


def write_sdxl(folder: Path) -> Path:
    """Write a StableDiffusionXLPipeline."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE, in_channels=4, out_channels=4, block_out_channels=(16, 32), norm_num_groups=8,
        layers_per_block=1, cross_attention_dim=32 + 24, attention_head_dim=(2, 4), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=20 + 6 * 8,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                              steps_offset=1, timestep_spacing="leading")  # fmt: skip
    StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13), text_encoder=_clip(CLIPTextModel, 32, 32), tokenizer=clip_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection, 24, 20), tokenizer_2=clip_tokenizer(), unet=unet.eval(),
        scheduler=scheduler,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_sd3(folder: Path) -> Path:
    """Write a StableDiffusion3Pipeline, whose sampling is shifted by 3."""
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=8, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=32 + 20, out_channels=8,
        pos_embed_max_size=24, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=_awake(network).eval(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(8, scaling_factor=1.5, shift_factor=0.06), tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(),
        text_encoder=_clip(CLIPTextModelWithProjection, 32, 32),
        text_encoder_2=_clip(CLIPTextModelWithProjection, 24, 20), text_encoder_3=_t5(64), tokenizer_3=_t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_flux(folder: Path) -> Path:
    """Write a FluxPipeline like Flux.1-dev, with guidance as an input and a shift that depends on the size."""
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        patch_size=1, in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    FluxPipeline(
        transformer=_awake(network).eval(), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(8, scaling_factor=0.36, shift_factor=0.12), text_encoder=_clip(CLIPTextModel, 32, 32),
        tokenizer=clip_tokenizer(), text_encoder_2=_t5(64), tokenizer_2=_t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _vae(latent_channels: int, **settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latent_channels, block_out_channels=(16, 16), norm_num_groups=8,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=2 * SIDE, **settings,
    ).eval()  # fmt: skip


def _clip(kind: Any, width: int, projection: int) -> Any:
    tokenizer = clip_tokenizer()
    return kind(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=projection, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )).eval()  # fmt: skip


def _t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=300, d_model=width, d_kv=16, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0)
    ).eval()


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "</s>", "<unk>", *letters]
    tokenizer = Tokenizer(
        models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TOKENS
    )


def _awake(network: Any) -> Any:
    """Random values for the layers that begin at zero, so that the output depends on every input."""
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    return network
