"""What diffusion training trains: the U-Net, and the text encoder if it learns too."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from emoji_ldm.config import TrainConfig
from emoji_ldm.model.unet import build_unet


class Denoiser(nn.Module):
    """One module, so that one engine shards all that learns; what does not learn requires no gradient."""

    def __init__(self, unet: Any, text_encoder: Any = None) -> None:
        """Take a `UNet2DConditionModel`, and a transformers text encoder if it is to learn."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Any) -> Tensor:
        """The network's output `(n, C, h, w)`.

        Args:
            noisy: Noisy latents `(n, C, h, w)`.
            timesteps: `(n,)`.
            text: Token states `(n, tokens, width)`; if the text encoder learns, its inputs as a mapping.
        """
        states = text if self.text_encoder is None else self.text_encoder(**text).last_hidden_state
        output: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return output


def build_denoiser(config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Denoiser:
    """The network of `config`, with `requires_grad` set on what it trains.

    Args:
        config: See `emoji_ldm.config.network`.
        latent_shape: `(C, h, w)` of the latents.
        width: Of a token's state.
    """
    return Denoiser(build_unet(config, latent_shape, width))
