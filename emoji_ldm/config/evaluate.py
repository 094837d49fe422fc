"""Section `evaluate`: what is judged, against which real pictures, and when the command fails."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from emoji_ldm.config.base import Positive, Section


def _split_gates(value: object) -> object:
    """Gates of a command line come as one text, with commas between them."""
    return [gate.strip() for gate in value.split(",") if gate.strip()] if isinstance(value, str) else value


class EvaluateConfig(Section):
    """Models to judge; how they draw is in the section `generate`."""

    checkpoints: tuple[str, ...] = ()
    """Models, named as in `generate.checkpoint`; empty takes `generate.checkpoint`, or the run's newest. `retrieval` is
    no model but a baseline: the training picture whose caption is nearest to the prompt."""
    images: str | None = None
    """Folder of PNG files to judge instead of a model; prompts are read from their metadata, else their names."""
    compare: bool = False
    """Also draw the fixed prompt grid with each model, side by side."""
    num_prompts: Positive = 48
    """Captions of held-out images that are drawn."""
    images_per_prompt: Annotated[int, Field(ge=2)] = 4
    """Images per prompt; diversity needs at least two."""
    reference: Literal["held_out", "all"] = "held_out"
    """Real images that the sets are compared with: those no model was trained on, or all."""
    # Details that a model cannot show must not count for or against it: all pictures are compared at one size.
    size_px: Positive = 64
    """Side at which real and generated pictures are compared."""
    clip: str | None = None
    """Folder or hub id of a CLIP model for its score; null leaves the score out."""
    fail_if: Annotated[tuple[str, ...], BeforeValidator(_split_gates)] = ()
    """Gates such as `kid > 0.05`; the command fails with exit status 3 if one is true of a model."""
    num_workers: Positive = 1
    """Actors that measure pictures."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per measuring actor."""

    @model_validator(mode="after")
    def _judge_one_kind(self) -> Self:
        """Refuse options of models where a folder is judged."""
        if self.images is not None:
            why = "with evaluate.images, which are drawn already"
            self._refuse_idle("evaluate", ["checkpoints", "compare", "num_prompts", "images_per_prompt"], why)
        return self
