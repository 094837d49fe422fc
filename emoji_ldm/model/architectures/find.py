"""The architecture that a configuration trains: that of its pipeline, else the one it describes."""

from __future__ import annotations

from collections.abc import Callable

from emoji_ldm.config import TrainConfig
from emoji_ldm.latents.pipeline_source import pipeline_class
from emoji_ldm.model.architectures.architecture import Architecture
from emoji_ldm.model.architectures.flux import FluxArchitecture
from emoji_ldm.model.architectures.scratch_transformer import ScratchTransformerArchitecture
from emoji_ldm.model.architectures.sd3 import Sd3Architecture
from emoji_ldm.model.architectures.sdxl import SdxlArchitecture
from emoji_ldm.model.architectures.unet_architecture import UNetArchitecture

# {diffusers class of a pipeline: its architecture, given the pipeline}
ARCHITECTURES: dict[str, Callable[[str], Architecture]] = {
    SdxlArchitecture.pipeline: SdxlArchitecture,
    Sd3Architecture.pipeline: lambda init: Sd3Architecture(),
    FluxArchitecture.pipeline: lambda init: FluxArchitecture(),
}


def find_architecture(config: TrainConfig) -> Architecture:
    """The architecture of `train.init`, or of the network that `config` describes.

    Raises:
        ModelError: `train.init` is no pipeline.
    """
    if not config.init:
        return ScratchTransformerArchitecture() if config.transformer else UNetArchitecture()
    return architecture_of(config.init)


def architecture_of(pipeline: str) -> Architecture:
    """The architecture of a pipeline's folder, checkpoint or hub id; ModelError if it is none."""
    # A pipeline of any other class has the parts of Stable Diffusion, or else an error names what it lacks.
    known = ARCHITECTURES.get(pipeline_class(pipeline))
    return known(pipeline) if known else UNetArchitecture()
