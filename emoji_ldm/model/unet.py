"""The U-Net: built from the configuration, or loaded from a pretrained pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.pipeline_source import (
    local_folder,
    read_json,
    resolve_checkpoint_pipeline,
    short_error_text,
)
from emoji_ldm.model.pooled_transformer import PooledTransformer
from emoji_ldm.model.timed_unet import TimedUNet

SHAPE_FIELDS = ("block_out_channels", "attention", "layers_per_block", "num_heads", "time_embedding", "transformer")
TIME_FIELDS = ("time_input_dim", "time_embedding_dim")


def build_unet(config: TrainConfig, latent_shape: tuple[int, int, int], cross_attention_dim: int) -> Any:
    """A `UNet2DConditionModel` for latents `(C, h, w)` and token states of width `cross_attention_dim`.

    Unless `config.attention` says otherwise, the highest resolution has residual layers only: attention is most
    expensive there and, on 16 x 16 latents, least useful. Every lower resolution attends to the text.
    Weights are drawn from `config.seed`, so that every rank builds the same network.

    Raises:
        ConfigError: A latent side cannot be halved once per resolution, a width does not split into
            `num_heads` heads, or `attention` has another length than `block_out_channels`.
    """
    from diffusers import UNet2DConditionModel

    channels, height, width = latent_shape
    widths, attention = config.block_out_channels, _attention_levels(config)
    check_side(height, width, len(widths), f"train.block_out_channels={list(widths)}")
    _check_heads(config, attention)
    # The CPU generator of the process is put back afterwards, so that building a network does not change what others
    # draw.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        # A time embedding of its own is no option of the stock class.
        timed = {} if config.time_embedding is None else dict(zip(TIME_FIELDS, config.time_embedding, strict=True))
        return (TimedUNet if timed else UNet2DConditionModel)(
            sample_size=(height, width) if height != width else height,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=config.layers_per_block,
            down_block_types=tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in attention[::-1]),
            # diffusers takes the number of heads under this name, a mistake that it keeps for the sake of published
            # configurations.
            attention_head_dim=config.num_heads,
            cross_attention_dim=cross_attention_dim,
            norm_num_groups=_num_norm_groups(widths),
            **timed,
        )


def load_unet(config: TrainConfig, latent_shape: tuple[int, int, int], cross_attention_dim: int) -> Any:
    """The U-Net of the pipeline `config.init`, on the CPU in float32, set to the side of these latents.

    Raises:
        ConfigError: `config` also describes a network, or the latents or token states do not fit.
        ModelError: The pipeline is missing, or has another kind of network.
    """
    check_undescribed(config)
    init = config.init or ""
    folder = pipeline_folder(init)
    try:
        unet = network_class(folder / "unet").from_pretrained(folder / "unet", torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load the U-Net of train.init={init}: {short_error_text(error)}") from None
    _check_fit(unet.config, init, latent_shape, cross_attention_dim)
    _, height, width = latent_shape
    # Sampling takes its default side from here, which shall be that of the new latents and not of the pretraining.
    unet.register_to_config(sample_size=(height, width) if height != width else height)
    return unet


def pipeline_folder(init: str, part: str = "unet") -> Path:
    """The local folder of `train.init`: a pipeline's folder, a checkpoint's with `pipeline/`, or a hub id.

    Of a hub id, the network's `part` and the scheduler are downloaded.
    """
    return local_folder(resolve_checkpoint_pipeline(init), (part, "scheduler"))


def network_class(folder: Path) -> Any:
    """The class of the network in a pipeline's folder `unet`: diffusers' U-Net, or one of ours with its inputs."""
    from diffusers import UNet2DConditionModel

    ours = {kind.__name__: kind for kind in (PooledTransformer, TimedUNet)}
    return ours.get(str(read_json(folder / "config.json").get("_class_name")), UNet2DConditionModel)


def needs_more_inputs(unet: Mapping[str, Any]) -> bool:
    """Whether a U-Net of this configuration takes inputs beyond noisy latents, timestep and token states."""
    # "text" pools the token states themselves, as the starter does. Every other kind wants pooled states, image states
    # or sizes.
    extra = unet.get("addition_embed_type") not in (None, "text")
    return extra or unet.get("time_cond_proj_dim") is not None


def count_parameters(module: nn.Module) -> int:
    """Number of elements of the trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def check_side(height: int, width: int, resolutions: int, source: str) -> None:
    """Raise ConfigError if a latent of this size cannot be halved once per further resolution."""
    factor = 2 ** (resolutions - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"{source} halves the latent {resolutions - 1} times, but its side is {height} x {width}; "
            "give fewer widths or larger pictures (latents.size_px)"
        )


def _attention_levels(config: TrainConfig) -> tuple[bool, ...]:
    """Whether each resolution attends to the text, highest first."""
    lower = len(config.block_out_channels) - 1
    # The highest resolution has the most positions, and attention costs their square: by default it gets none.
    attention = config.attention or (False, *(True,) * lower)
    if len(attention) != lower + 1:
        raise ConfigError(
            f"train.attention={list(attention)} is for {len(attention)} resolutions, but "
            f"train.block_out_channels={list(config.block_out_channels)} has {lower + 1}; give one per width"
        )
    return attention


def _check_heads(config: TrainConfig, attention: tuple[bool, ...]) -> None:
    # The middle block is as wide as the last one, and always attends.
    widths = config.block_out_channels
    attending = [size for size, attends in zip(widths, attention, strict=True) if attends] + [widths[-1]]
    odd = [size for size in attending if size % config.num_heads]
    if odd:
        raise ConfigError(f"train.num_heads={config.num_heads} does not divide the width {odd[0]}; give another")


def check_undescribed(config: TrainConfig) -> None:
    """Raise ConfigError if `config` describes a network although `config.init` brings one."""
    fields = TrainConfig.model_fields
    # Not `model_fields_set`: a configuration that was written out in full and read back sets all fields.
    given = [f"train.{name}" for name in SHAPE_FIELDS if getattr(config, name) != fields[name].default]
    if given:
        raise ConfigError(
            f"train.init={config.init} brings its own network, so {', '.join(given)} would have no effect; "
            "leave one of them out"
        )


def _check_fit(found: Any, init: str, latent_shape: tuple[int, int, int], width: int) -> None:
    channels, height, side = latent_shape
    if found.in_channels != channels or found.out_channels != channels:
        raise ConfigError(
            f"train.init={init} works on latents of {found.in_channels} channels, the cached ones have {channels}; "
            f"set latents.vae={init}, then run: emoji-ldm latents"
        )
    if found.cross_attention_dim != width:
        raise ConfigError(
            f"train.init={init} attends to token states of width {found.cross_attention_dim}, the cached ones have "
            f"{width}; set latents.text_encoder={init}, then run: emoji-ldm latents"
        )
    # Such a network can be loaded, but would fail in its first forward pass for want of an input.
    if needs_more_inputs(found):
        raise ModelError(
            f"train.init={init} needs more inputs than timestep and prompt (such as LCM); name another pipeline"
        )
    check_side(height, side, len(found.block_out_channels), f"train.init={init}")


def _num_norm_groups(widths: tuple[int, ...]) -> int:
    """32 groups as in Stable Diffusion, or the largest smaller power of two that divides every width."""
    # A group norm needs a width that is a multiple of its number of groups, at every resolution.
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if all(width % groups == 0 for width in widths))
