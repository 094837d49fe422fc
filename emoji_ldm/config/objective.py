"""Fields of `train` that say what is learned: noise schedule, prediction, weighting."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emoji_ldm.config.section import Fraction, Section


class ObjectiveFields(Section):
    """The diffusion objective."""

    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow"] = "epsilon"
    """What the network predicts: noise, velocity, the clean latent, or the straight path of rectified flow."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.00085
    """First beta of the scaled-linear schedule (Stable Diffusion's)."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.012
    """Last beta."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last step is pure noise (arXiv 2305.08891); not with epsilon."""
    snr_gamma: Annotated[float, Field(ge=0)] = 0
    """Cap of the signal-to-noise ratio in loss weights, min-SNR (arXiv 2303.09556); 0 weighs evenly."""
    offset_noise: Annotated[float, Field(ge=0)] = 0
    """Share of noise that is one value per channel; learns flat bright or dark backgrounds."""
    flow_mean: float = 0.0
    """Centre of flow's logit-normal times (arXiv 2403.03206); larger means noisier."""
    flow_std: Annotated[float, Field(gt=0)] = 1.0
    """Width of flow's logit-normal times."""
    caption_drop: Fraction = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
