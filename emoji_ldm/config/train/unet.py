"""Training fields for the network: its shape or its origin, and which of its weights are trained."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from emoji_ldm.config.base import Positive, Section, Width
from emoji_ldm.errors import ConfigError


class Concept(Section):
    """A subject of DreamBooth (arXiv 2208.12242)."""

    instance_prompt: str
    """Prompt of the subject's images, such as `a photo of sks dog`."""
    instance_folder: str
    """Folder with the subject's images."""
    class_prompt: str | None = None
    """Prompt of its class, such as `a photo of a dog`; null leaves prior preservation out."""
    class_folder: str | None = None
    """Folder with images of the class, filled up to `num_class_images` by generation; null: runs/<run>/class-N."""


class DreamBoothOptions(Section):
    """What DreamBooth teaches, and how it keeps the classes of its subjects as they are (prior preservation)."""

    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]
    """Subjects to learn."""
    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss on class images relative to the subject's; 0 leaves class images out."""
    num_class_images: Positive = 200
    """Class images per concept."""

    @model_validator(mode="after")
    def _refuse_a_prior_without_a_class(self) -> Self:
        """Refuse the fields of prior preservation where there is no class to preserve."""
        name = "train.dreambooth"
        for number, concept in enumerate(self.concepts):
            if concept.class_folder and not concept.class_prompt:
                raise ConfigError(f"{name}.concepts.{number}: class_folder without class_prompt; give both or neither")
        if not any(concept.class_prompt for concept in self.concepts):
            names = ["prior_weight", "num_class_images"]
            self._refuse_idle(name, names, f"without {name}.concepts that have a class_prompt")
        return self


class BlockRank(Section):
    """Rank and scale of the adapters of some layers."""

    rank: Annotated[int, Field(ge=0)]
    """Rank of these adapters; 0 leaves the layers without."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Their scale, divided by the rank; null means the rank itself."""


class LoraOptions(Section):
    """Low-rank adapters."""

    rank: Positive
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the adapters, divided by the rank; null means the rank itself."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get adapters, by the end of their names: attention, MLP (`ff.net.0.proj`), convolutions (`conv1`)."""
    blocks: dict[str, BlockRank] = {}
    """Other ranks for layers whose names match a regular expression, such as `{mid_block: {rank: 32}}`."""
    dora: bool = False
    """Whether to learn the lengths of the weights' rows too (DoRA, arXiv 2402.09353); a tenth slower or more."""
    text_encoder: bool = False
    """Whether the attention of text encoders gets adapters, of the general rank and alpha; not T5 beside CLIP."""
    fuse: bool = True
    """Whether checkpoints hold a whole pipeline with fused adapters; false stores the adapters alone."""


class TextualInversionOptions(Section):
    """A new word whose embeddings are learned (arXiv 2208.01618)."""

    token: Annotated[str, Field(pattern=r"^\S+$")]
    """The word, as prompts write it, such as `<blob>`."""
    init: str
    """The words whose embeddings it begins with, such as `face`."""
    num_vectors: Positive = 1
    """Number of embeddings that it stands for; more hold more detail, and take more of the prompt's tokens."""


class TransformerOptions(Section):
    """A diffusion transformer from scratch."""

    width: Width = 384
    """Width of its tokens."""
    depth: Positive = 12
    """Number of blocks."""
    num_heads: Positive = 6
    """Attention heads per block."""
    patch_size: Positive = 2
    """Side of the square of latent cells that is one token."""

    @model_validator(mode="after")
    def _refuse_uneven_heads(self) -> Self:
        """Refuse heads that do not divide the width evenly."""
        if self.width % self.num_heads:
            raise ConfigError(
                f"train.transformer.num_heads={self.num_heads} does not divide width={self.width}; give another"
            )
        return self


class UNetFields(Section):
    """The network, and which of its weights are trained."""

    init: str | None = None
    """Folder or hub id of a pipeline whose U-Net training starts from; null starts from random weights."""
    block_out_channels: tuple[Width, ...] = (128, 256, 256)
    """U-Net channels per resolution."""
    # The cost of self-attention grows with the fourth power of the side, so the highest resolution does without by
    # default.
    attention: tuple[bool, ...] | None = None
    """Which resolutions have cross-attention, highest first; null: all but the highest."""
    layers_per_block: Positive = 2
    """Residual layers per resolution."""
    num_heads: Positive = 4
    """Attention heads per layer."""
    time_embedding: tuple[Positive, Positive] | None = None
    """Sinusoids of the time and width of its embedding; null: the first width, and four times it."""
    transformer: TransformerOptions | None = None
    """A transformer from scratch (MMDiT) in place of the U-Net; null builds a U-Net."""
    trainable_pattern: str | None = None
    """Regular expression: only U-Net weights whose name matches are trained, such as `attn2`; null: all."""
    lora: LoraOptions | None = None
    """Low-rank adapters (arXiv 2106.09685) to train instead of the weights; null trains the weights."""
    train_text_encoder: bool = False
    """Whether text encoders are trained too, whatever `trainable_pattern` selects; a T5 beside CLIP stays frozen."""
    textual_inversion: TextualInversionOptions | None = None
    """A word to learn while all weights are frozen; null learns weights."""
    dreambooth: DreamBoothOptions | None = None
    """Subjects to learn from a few images each; null trains on the store's images and captions."""

    @model_validator(mode="after")
    def _refuse_two_networks(self) -> Self:
        """Refuse the shape of a U-Net beside a transformer."""
        if self.transformer:
            names = ["block_out_channels", "attention", "layers_per_block", "num_heads", "time_embedding"]
            self._refuse_idle("train", names, "with train.transformer")
        if self.textual_inversion:
            names = ["trainable_pattern", "lora", "train_text_encoder"]
            given = [name for name in names if getattr(self, name)]
            if given or not self.init:
                what = f"train.{given[0]} trains weights; leave one of them out" if given else "name it by train.init"
                raise ConfigError(f"train.textual_inversion learns a word for a frozen pipeline: {what}")
        return self
