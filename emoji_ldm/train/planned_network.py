"""The network of a training on the device `meta`, for plans: of any size, without weights, latents or a download.

Of pipelines that are published and not on this machine, the settings below are those of their folders. Sizes of latents
and text states that do not exist yet follow from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.errors import MissingInputError
from emoji_ldm.latents.pipeline_source import read_json, resolve_checkpoint_pipeline
from emoji_ldm.latents.vae import latent_channels
from emoji_ldm.model.architectures.flux import PATCH, position_ids
from emoji_ldm.model.denoiser import build_denoiser
from emoji_ldm.model.lora import select_trainable

Shape = tuple[int, int, int]  # (C, h, w) of latents
STABLE_DIFFUSION = {"sample_size": 64, "cross_attention_dim": 768}
# {hub id: (diffusers class of its network, settings, channels of its latents)}
PUBLISHED: Mapping[str, tuple[str, Mapping[str, Any], int]] = {
    "CompVis/stable-diffusion-v1-4": ("UNet2DConditionModel", STABLE_DIFFUSION, 4),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("UNet2DConditionModel", STABLE_DIFFUSION, 4),
    "stabilityai/stable-diffusion-2-1": ("UNet2DConditionModel", {
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    }, 4),
    "stabilityai/stable-diffusion-xl-base-1.0": ("UNet2DConditionModel", {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }, 4),
    "stabilityai/stable-diffusion-3-medium-diffusers": ("SD3Transformer2DModel", {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    }, 16),
    "black-forest-labs/FLUX.1-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}, 16),
}  # fmt: skip
PIXELS_PER_CELL = 8  # of the autoencoders of all of these
CLIP_TOKENS = 77  # which Stable Diffusion 3 puts before those of T5
TEXT_WIDTHS = {"minilm": 384, "openai/clip-vit-base-patch32": 512, "openai/clip-vit-base-patch16": 512}


@dataclass(frozen=True)
class PlannedNetwork:
    """A network without values, and what runs it on a batch of so many samples."""

    module: nn.Module
    forward: Callable[[int], Tensor]
    latent_shape: Shape
    assumed: str  # what was taken from the configuration because it does not exist yet; empty if nothing was


def plan_network(config: Config, latents: Shape | None, text_width: int | None) -> PlannedNetwork:
    """The network that `config` trains; shapes that are None are taken from the configuration.

    Raises:
        ConfigError: Fields contradict one another.
        MissingInputError: `train.init` is neither on this machine nor one of those that are known here.
        ModelError: `train.init` is no pipeline.
    """
    init = config.train.init
    if init and init in PUBLISHED and not Path(init).exists():
        return _plan_published(config, init, latents)
    if init and not Path(resolve_checkpoint_pipeline(init)).is_dir():
        raise MissingInputError(
            f"the plan needs the folder of train.init={init}, which is not on this machine; known without it are: "
            f"{', '.join(PUBLISHED)}"
        )
    shape, width = latents or _latent_shape(config), text_width or _text_width(config)
    # Tensors on this device have shapes and no values, so that a network of any size is built at once.
    with torch.device("meta"):
        module = build_denoiser(config.train, shape, width).to("meta")

    def forward(count: int) -> Tensor:
        inputs = ((count, *shape), (count,), (count, config.latents.max_tokens, width))
        return _loss(module(*(torch.empty(size, device="meta") for size in inputs)))

    return PlannedNetwork(module, forward, shape, "" if latents and text_width else _assumption(shape, width, config))


def _plan_published(config: Config, init: str, latents: Shape | None) -> PlannedNetwork:
    import diffusers

    kind, settings, channels = PUBLISHED[init]
    side = config.latents.size_px // PIXELS_PER_CELL
    shape = latents or (channels, side, side)
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**settings)
        select_trainable(network, config.train)
    if config.train.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    network.train()

    def forward(count: int) -> Tensor:
        inputs = INPUTS[kind](network.config, count, shape, config.latents.max_tokens)
        return _loss(network(**inputs, return_dict=False)[0])

    return PlannedNetwork(network, forward, shape, f"the published sizes of {init}, at {shape[1]} x {shape[2]} cells")


def _loss(output: Tensor) -> Tensor:
    return output.float().square().mean()


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _unet_inputs(settings: Any, count: int, shape: Shape, tokens: int) -> dict[str, Any]:
    inputs = {"sample": _empty(count, *shape), "timestep": _empty(count),
              "encoder_hidden_states": _empty(count, tokens, settings.cross_attention_dim)}  # fmt: skip
    if settings.addition_embed_type != "text_time":
        return inputs
    num_sizes = 6
    pooled = settings.projection_class_embeddings_input_dim - num_sizes * settings.addition_time_embed_dim
    return {**inputs, "added_cond_kwargs": {
        "text_embeds": _empty(count, pooled), "time_ids": _empty(count, num_sizes),
    }}  # fmt: skip


def _sd3_inputs(settings: Any, count: int, shape: Shape, tokens: int) -> dict[str, Any]:
    return {
        "hidden_states": _empty(count, *shape), "timestep": _empty(count),
        "encoder_hidden_states": _empty(count, CLIP_TOKENS + tokens, settings.joint_attention_dim),
        "pooled_projections": _empty(count, settings.pooled_projection_dim),
    }  # fmt: skip


def _flux_inputs(settings: Any, count: int, shape: Shape, tokens: int) -> dict[str, Any]:
    channels, height, width = shape
    rows, columns = height // PATCH, width // PATCH
    return {
        "hidden_states": _empty(count, rows * columns, channels * PATCH**2), "timestep": _empty(count),
        "encoder_hidden_states": _empty(count, tokens, settings.joint_attention_dim), "guidance": _empty(count),
        "pooled_projections": _empty(count, settings.pooled_projection_dim), "txt_ids": _empty(tokens, 3),
        "img_ids": position_ids(rows, columns, torch.device("meta")),
    }  # fmt: skip


INPUTS: Mapping[str, Callable[[Any, int, Shape, int], dict[str, Any]]] = {
    "UNet2DConditionModel": _unet_inputs, "SD3Transformer2DModel": _sd3_inputs, "FluxTransformer2DModel": _flux_inputs,
}  # fmt: skip


def _latent_shape(config: Config) -> Shape:
    """What the configuration says about latents that are not there yet."""
    latents, own = config.latents, config.autoencoder
    channels, factor = 4, PIXELS_PER_CELL
    if latents.vae == "own":
        channels, factor = own.latent_channels, 2 ** (len(own.block_out_channels) - 1)
    elif folder := _part(config, latents.vae, "vae"):
        settings = read_json(folder / "config.json")
        channels, factor = latent_channels(settings), 2 ** (len(settings["block_out_channels"]) - 1)
    side = latents.size_px // factor
    return channels, side, side


def _text_width(config: Config) -> int:
    name = config.latents.text_encoder
    # A pipeline's network says what it attends to, however many text encoders that comes from.
    for part in ("unet", "transformer") if name == "init" else ():
        folder = _part(config, name, part)
        if folder and folder.name == part:
            settings = read_json(folder / "config.json")
            return int(settings.get("joint_attention_dim") or settings["cross_attention_dim"])
    folder = _part(config, name, "text_encoder")
    return int(read_json(folder / "config.json")["hidden_size"]) if folder else TEXT_WIDTHS.get(name, 768)


def _part(config: Config, name: str, part: str) -> Path | None:
    """The folder of a model that lies on this machine: in a pipeline, or by itself."""
    source = resolve_checkpoint_pipeline(config.train.init or "" if name == "init" else name)
    if not source or not Path(source).is_dir():
        return None
    return Path(source, part) if Path(source, part).is_dir() else Path(source)


def _assumption(shape: Shape, width: int, config: Config) -> str:
    channels, height, cells = shape
    return (
        f"latents of {channels} x {height} x {cells} and {config.latents.max_tokens} text states of width {width}, by "
        "the configuration"
    )
