"""The kinds of diffusers pipelines that can be sampled, and what the files of one say about its pictures.

This module needs no torch, as planning uses it. How a network of each kind is called is in
`emoji_ldm.model.architectures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ModelError
from emoji_ldm.latents.pipeline_source import NETWORK_PARTS, TEXT_PARTS, cells_per_step, pipeline_class, read_json

CLIP_TOKENS = 77  # of a tokenizer that does not say how many its encoder reads


@dataclass(frozen=True)
class PipelineKind:
    """What differs between kinds of pipelines, beside their networks."""

    name: str  # diffusers class
    tokenizer: str = "tokenizer"  # of the text encoder that reads most of a prompt
    # What diffusers gives that encoder at most, unless told otherwise; null: as many as its tokenizer says.
    token_limit: int | None = None
    # Side of the square of latent cells that enters the network as one cell with the channels of all of them.
    packing: int = 1
    own_cells: int | None = None  # side of the latents that diffusers draws by default; null: the network says it
    # Whether diffusers starts a schedule of n steps at noise level 1 and ends it at 1/n, whatever the scheduler says.
    has_even_levels: bool = False

    def num_image_steps(self, steps: int, strength: float) -> int:
        """How many of a schedule's steps change an image, as diffusers' image-to-image pipelines count them."""
        # Those of transformers round up, the others down.
        return steps - int(steps - steps * strength) if self.network == "transformer" else int(steps * strength)

    @property
    def network(self) -> str:
        """The network's folder."""
        return NETWORK_PARTS.get(self.name, "unet")

    @property
    def weight_parts(self) -> tuple[str, ...]:
        """Folders with weights."""
        return (self.network, "vae", *TEXT_PARTS.get(self.name, ("text_encoder",)))

    def channels(self, network: Mapping[str, Any]) -> int:
        """Channels of a latent, given the network's configuration."""
        return int(network["in_channels"]) // self.packing**2

    def side(self, folder: Path, network: Mapping[str, Any]) -> int:
        """Side, in cells, of the latents that are drawn by default; ModelError if they are not square."""
        cells = self.own_cells or network.get("sample_size")
        # diffusers also allows a pair (height, width) here.
        if not isinstance(cells, int):
            raise ModelError(
                f"{folder / self.network}: sample_size={cells} is not one number; only models of square images work"
            )
        return cells

    def cells_per_step(self, network: Mapping[str, Any]) -> int:
        """What sides of latents are multiples of."""
        return cells_per_step(network, self.packing)

    def max_tokens(self, folder: Path) -> int:
        """Tokens of a prompt that are read, those at its beginning and end included."""
        settings = read_json(folder / self.tokenizer / "tokenizer_config.json")
        length = int(settings.get("model_max_length", CLIP_TOKENS))
        return min(length, self.token_limit or length)


STABLE_DIFFUSION = PipelineKind("StableDiffusionPipeline")
# The numbers of tokens and cells are defaults in the code of diffusers' pipelines.
_KINDS = (
    PipelineKind("StableDiffusionXLPipeline"),
    PipelineKind("StableDiffusion3Pipeline", "tokenizer_3", token_limit=256),
    PipelineKind("FluxPipeline", "tokenizer_2", token_limit=512, packing=2, own_cells=128, has_even_levels=True),
)


def pipeline_kind(folder: Path) -> PipelineKind:
    """The kind of a pipeline's folder."""
    name = pipeline_class(folder)
    # A pipeline of any other class has the parts of Stable Diffusion, or an error names what it lacks.
    return next((kind for kind in _KINDS if kind.name == name), STABLE_DIFFUSION)
