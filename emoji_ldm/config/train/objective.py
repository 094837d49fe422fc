"""Training fields for the diffusion objective: noise schedule, prediction target, loss weights."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from emoji_ldm.config.base import Fraction, Section
from emoji_ldm.errors import ConfigError

DIFFUSION_ONLY = ("beta_start", "beta_end", "zero_terminal_snr", "snr_gamma")
FLOW_ONLY = ("flow_mean", "flow_std", "flow_shift")


class ObjectiveFields(Section):
    """The diffusion objective.

    The defaults, with the averaged weights (`ema_decay`) that are exported, reach the validation error of plain noise
    prediction in fewer steps: `python -m tests.bench recipe`.
    """

    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow"] = "v_prediction"
    """What the network predicts: noise, velocity, the clean latent, or the direction of rectified flow."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.00085
    """First beta of the scaled-linear schedule (Stable Diffusion's)."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.012
    """Last beta."""
    zero_terminal_snr: bool = False
    """Make the last step pure noise (arXiv 2305.08891); not with epsilon. Sets `snr_gamma` to null."""
    snr_gamma: Annotated[float, Field(gt=0)] | None = 5
    """Cap of the signal-to-noise ratio in loss weights, min-SNR (arXiv 2303.09556); null, as in flow: equal weights."""
    offset_noise: Annotated[float, Field(ge=0)] = 0
    """Strength of additional noise of one value per channel; helps with flat bright or dark backgrounds."""
    flow_mean: float = 0.0
    """Mean of the logit-normal time distribution of rectified flow (arXiv 2403.03206); larger means noisier."""
    flow_std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of that distribution."""
    flow_shift: Annotated[float, Field(gt=0)] | None = None
    """Factor by which rectified flow shifts times towards noise; null: that of `train.init` at this size, else 1."""
    caption_dropout: Fraction = 0.1
    """Share of captions replaced by the empty caption, for classifier-free guidance."""

    @model_validator(mode="after")
    def _refuse_conflicting_objective(self) -> Self:
        """Refuse fields that the prediction type does not use; zero terminal SNR turns min-SNR off."""
        names = DIFFUSION_ONLY if self.prediction_type == "flow" else FLOW_ONLY
        self._refuse_idle("train", names, f"with train.prediction_type={self.prediction_type}")
        # arXiv 2305.08891, section 3.2: at zero SNR the input is the very noise that epsilon asks for, so nothing is
        # learned.
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "train.zero_terminal_snr=true cannot be learned with train.prediction_type=epsilon: the last step is "
                "pure noise, so predicting it says nothing about the image; set train.prediction_type=v_prediction"
            )
        if self.beta_start >= self.beta_end:
            raise ConfigError(
                f"train.beta_start={self.beta_start:g} is not below train.beta_end={self.beta_end:g}; noise must grow"
            )
        # For v-prediction the weight is min(SNR, gamma) / (SNR + 1), which vanishes with the SNR. It would thus switch
        # off just those steps that a zero terminal SNR is meant to train.
        if self.zero_terminal_snr and self.snr_gamma:
            # A default gives way without an error; a value that the user wrote does not.
            if "snr_gamma" in self.model_fields_set:
                raise ConfigError(
                    f"train.snr_gamma={self.snr_gamma:g} with train.zero_terminal_snr=true gives the noisiest tenth "
                    "of the steps, where sampling starts, almost no weight; set train.snr_gamma=null"
                )
            # Null is stored and not only implied, so that a configuration that is written out reads back the same.
            object.__setattr__(self, "snr_gamma", None)
        return self
