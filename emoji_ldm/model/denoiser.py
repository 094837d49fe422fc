"""The module that diffusion training trains: a network, and its text encoder if that is trained too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import ModelError
from emoji_ldm.model.architectures.architecture import Architecture
from emoji_ldm.model.architectures.find import find_architecture
from emoji_ldm.model.architectures.trained_text import PACKED, join_text, unused_layer
from emoji_ldm.model.lora import (
    TEXT_TARGETS,
    add_adapters,
    fuse_adapters,
    save_adapters,
    select_trainable,
    target_layers,
)

TEXT_ENCODER = "text_encoder"  # the text encoder's folder in a pipeline, and the prefix of its weights in a denoiser
# Part of a text encoder that reads the token states and changes none.
POOLER_NAME = "pooler."


class Denoiser(nn.Module):
    """Network and text encoder in one module, so that one engine shards both; frozen parameters require no gradient."""

    text_encoder: Any

    def __init__(
        self, architecture: Architecture, network: Any, text_encoders: Mapping[str, Any] | None = None
    ) -> None:
        """Take a network of the architecture, and the text encoders that are trained by their folders."""
        super().__init__()
        text_encoders = text_encoders or {}
        self.architecture, self.text_parts = architecture, tuple(text_encoders)
        self.add_module(architecture.part, network)
        for part, encoder in text_encoders.items():
            self.add_module(part, encoder)

    @property
    def network(self) -> Any:
        """The U-Net or transformer."""
        return getattr(self, self.architecture.part)

    def train(self, mode: bool = True) -> Denoiser:
        """Set the mode of the network; the text encoder never trains with dropout, which is not keyed by sample."""
        super().train(mode)
        for part in self.text_parts:
            getattr(self, part).eval()
        return self

    def forward(self, noisy: Tensor, times: Tensor, text: Any, sizes: Tensor | None = None) -> Tensor:
        """The network's output `(n, C, h, w)`.

        Args:
            noisy: Noisy latents `(n, C, h, w)`.
            times: `(n,)`.
            text: Text states `(n, rows, width)`; for trained text encoders their inputs as a mapping.
            sizes: Sizes and crops `(n, 6)`, see `Architecture.predict`.
        """
        # A trained encoder runs inside the module, so that its backward and its sharding are those of the network.
        states = self._encode(text) if self.text_parts else text
        return self.architecture.predict(self.network, noisy, times, states, sizes=sizes)

    def _encode(self, text: Any) -> Tensor:
        encoders = {part: getattr(self, part) for part in self.text_parts}
        if PACKED in text:
            return join_text(self.architecture.pipeline, encoders, text)
        states: Tensor = self.text_encoder(**text).last_hidden_state
        return states


def trains_text_encoder(config: TrainConfig) -> bool:
    """Whether the text encoder is trained, in full or by adapters, so that its states cannot be cached."""
    learns_word = config.textual_inversion is not None
    return config.train_text_encoder or learns_word or bool(config.lora and config.lora.text_encoder)


def is_partial(config: TrainConfig) -> bool:
    """Whether only a part of the network is trained, or nothing of it, so that a checkpoint does not hold the rest."""
    return bool(config.lora or config.trainable_pattern or config.textual_inversion)


def build_denoiser(
    config: TrainConfig,
    latent_shape: tuple[int, int, int],
    width: int,
    text_encoders: Mapping[str, Any] | None = None,
) -> Denoiser:
    """The network of `config`, with `requires_grad` set on trained parameters; the same on every rank.

    Args:
        config: The section `train`; `emoji_ldm.config.train.unet` explains its fields.
        latent_shape: `(C, h, w)` of the latents.
        width: Width of a token's state.
        text_encoders: `{folder in the pipeline: transformers encoder}` of those that are trained; they are changed in
            place.

    Raises:
        ConfigError: A field of the network does not fit the others, the latents or the token states.
        ModelError: `config.init` is missing or of another kind.
    """
    architecture = find_architecture(config)
    network = architecture.build(config, latent_shape, width)
    select_trainable(network, config)
    if config.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    for part, encoder in (text_encoders or {}).items():
        select_trainable_text(encoder, config, unused_layer(architecture.pipeline, part, encoder))
    return Denoiser(architecture, network, text_encoders).train()


def select_trainable_text(encoder: Any, config: TrainConfig, unused: str | None = None) -> None:
    """Set `requires_grad` of a text encoder that is trained, or add adapters to its attention.

    One that learns a word has been prepared by `textual_inversion.learn_words`. Weights whose names contain `unused`
    are left out.
    """
    if config.textual_inversion:
        return
    if config.lora and config.lora.text_encoder:
        ends = {name.rpartition(".")[2] for name, _ in encoder.named_modules()}
        targets = tuple(target for target in TEXT_TARGETS if target in ends)
        if unused:
            targets = tuple(name for name in target_layers(encoder, targets) if unused not in name)
        general = config.lora.model_copy(update={"blocks": {}})  # blocks are those of the network
        add_adapters(encoder, general, targets, config.seed)
    else:
        for name, parameter in encoder.named_parameters():
            # The pooler would never get a gradient, and only take room in optimiser and checkpoints.
            is_used = unused is None or not (unused in name or "final_layer_norm" in name)
            parameter.requires_grad_(POOLER_NAME not in name and is_used)


def export_parts(
    config: TrainConfig, latent_shape: tuple[int, int, int], width: int, weights: Mapping[str, Tensor], *,
    text_encoders: Mapping[str, Any] | None = None, lora_folder: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`{part: network}` on the CPU with the trained weights, of stock classes; needs no live module.

    Frozen weights are initialised again as before training, since a sharded module holds none of them whole. Adapters
    are fused into the weights they belong to, unless `lora.fuse` is false.

    Args:
        config: The section `train` that the weights were trained with.
        latent_shape: `(C, h, w)` of the latents.
        width: Width of a token's state.
        weights: `{name in the denoiser: whole tensor}` of all trained parameters.
        text_encoders: The encoders before training if they were trained, as for `build_denoiser`; they are changed in
            place.
        lora_folder: Where adapters, if there are any, are written as files of their own too.

    Raises:
        ModelError: The weights are of another network than `config` describes.
    """
    architecture = find_architecture(config)
    # If all weights are replaced, drawing random ones would be wasted time: tensors on the meta device have no values,
    # and `assign` below puts the trained ones in their place.
    with torch.device("cpu" if is_partial(config) or config.init else "meta"):
        network = architecture.build(config, latent_shape, width)
    if any(buffer.is_meta for buffer in network.buffers()):  # tables of positions are computed, and no weights
        network = architecture.build(config, latent_shape, width)
    select_trainable(network, config)
    parts = {architecture.part: network}
    for part, encoder in (text_encoders or {}).items():
        select_trainable_text(encoder, config, unused_layer(architecture.pipeline, part, encoder))
        parts[part] = encoder
    # Names and shapes are compared here because `load_state_dict` below is not strict (frozen weights are absent), and
    # would leave a missing trained weight at its initial value without a word.
    expected = {f"{part}.{name}": tensor.shape for part, module in parts.items()
                for name, tensor in module.named_parameters() if tensor.requires_grad}  # fmt: skip
    given = {name: tensor.shape for name, tensor in weights.items()}
    if given != expected:
        # What differs is only in the text encoder if the network's weights agree.
        if {name for name, shape in given.items() ^ expected.items() if not name.startswith(TEXT_ENCODER)}:
            raise ModelError("the weights are of another network than the section train describes")
        raise ModelError("the weights are of another text encoder than latents.text_encoder, or it was not trained")
    for part, module in parts.items():
        replaced = part == architecture.part and not is_partial(config)
        module.load_state_dict(_of_part(weights, part), strict=False, assign=replaced)
    if config.lora:
        adapted = {part: module for part, module in parts.items()
                   if not part.startswith(TEXT_ENCODER) or config.lora.text_encoder}  # fmt: skip
        # The adapters are saved before they are fused, which removes them.
        if lora_folder is not None:
            save_adapters(architecture.pipeline, adapted, lora_folder)
        for module in adapted.values() if config.lora.fuse else ():
            fuse_adapters(module)
    return parts


def _of_part(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of a part, by their names in it."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
