"""Loading the network of a pretrained pipeline, and checking that latents and text states fit it."""

from __future__ import annotations

from typing import Any

import torch

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.pipeline_source import pipeline_class, short_error_text
from emoji_ldm.model.unet import network_class, pipeline_folder


def load_network(kind: Any, init: str, part: str) -> Any:
    """The network of class `kind` in folder `part` of a pipeline, on the CPU in float32; ModelError without one."""
    folder = pipeline_folder(init, part)
    try:
        return kind.from_pretrained(folder / part, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load the network {folder / part}: {short_error_text(error)}") from None


def load_whole_network(source: str) -> tuple[str, Any]:
    """(folder in the pipeline, network on the CPU in float32) of a pipeline's folder, checkpoint or hub id.

    Raises:
        ModelError: It is no pipeline, or one of another kind than can be trained.
    """
    import diffusers

    kinds = {"StableDiffusion3Pipeline": "SD3Transformer2DModel", "FluxPipeline": "FluxTransformer2DModel"}
    kind = kinds.get(pipeline_class(source))
    if kind:
        return "transformer", load_network(getattr(diffusers, kind), source, "transformer")
    return "unet", load_network(network_class(pipeline_folder(source) / "unet"), source, "unet")


def check_fit(
    init: str, channels: tuple[int, int], widths: tuple[int, int], side: tuple[int, int], multiple: int
) -> None:
    """Raise ConfigError unless the network takes these latents and text states.

    Args:
        init: The pipeline that errors name.
        channels: Channels that the network takes, and those of the cached latents.
        widths: Width of the text states likewise.
        side: Height and width of the latents.
        multiple: What both have to be multiples of.
    """
    if channels[0] != channels[1]:
        raise ConfigError(
            f"train.init={init} works on latents of {channels[0]} channels, the cached ones have {channels[1]}; "
            f"set latents.vae=init, then run: emoji-ldm latents"
        )
    if widths[0] != widths[1]:
        raise ConfigError(
            f"train.init={init} attends to text states of width {widths[0]}, the cached ones have {widths[1]}; "
            f"set latents.text_encoder=init, then run: emoji-ldm latents"
        )
    if side[0] % multiple or side[1] % multiple:
        raise ConfigError(
            f"train.init={init} takes latents of sides that {multiple} divides, not {side[0]} x {side[1]}; "
            "change latents.size_px"
        )
