"""A diffusion transformer that takes the inputs of a U-Net; exported pipelines carry this file as their code.

It imports nothing of this package, so that diffusers can open a pipeline where the package is not installed.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor


class PooledTransformer(SD3Transformer2DModel):  # type: ignore[misc]
    """Stable Diffusion 3's transformer (MMDiT, arXiv 2403.03206), whose pooled text is the mean of the token states.

    So it needs no second text encoder, and stands where a `StableDiffusionPipeline` has its U-Net. Its fields are those
    that such a pipeline reads of a U-Net's configuration.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(  # noqa: PLR0913
        self, sample_size: int = 16, patch_size: int = 2, in_channels: int = 4, num_layers: int = 12,
        attention_head_dim: int = 64, num_attention_heads: int = 6, cross_attention_dim: int = 384,
        time_cond_proj_dim: int | None = None, addition_embed_type: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            sample_size=sample_size, patch_size=patch_size, in_channels=in_channels, num_layers=num_layers,
            attention_head_dim=attention_head_dim, num_attention_heads=num_attention_heads,
            joint_attention_dim=cross_attention_dim, caption_projection_dim=attention_head_dim * num_attention_heads,
            pooled_projection_dim=cross_attention_dim, out_channels=in_channels,
            # Smaller and larger images take the middle of a grid of positions, up to twice the side.
            pos_embed_max_size=2 * (sample_size // patch_size), qk_norm="rms_norm",
        )  # fmt: skip
        # Gates and output begin at zero (arXiv 2212.09748, section 3.2): every block starts as the identity.
        for layer in [self.norm_out.linear, self.proj_out]:
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        for block in self.transformer_blocks:
            for norm in (block.norm1, block.norm1_context):
                torch.nn.init.zeros_(norm.linear.weight)
                torch.nn.init.zeros_(norm.linear.bias)

    def forward(
        self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, return_dict: bool = True, **unused: Any
    ) -> Any:
        """The U-Net's call: `(n, C, h, w)` of noisy latents, timesteps `()` or `(n,)`, and token states.

        The pipeline also passes what U-Nets of other kinds take, all of it None.
        """
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        # Padding states are zero vectors, and are no part of the mean.
        real = (encoder_hidden_states.abs().sum(2, keepdim=True) > 0).to(encoder_hidden_states.dtype)
        pooled = (encoder_hidden_states * real).sum(1) / real.sum(1).clamp(min=1)
        return super().forward(
            sample, encoder_hidden_states=encoder_hidden_states, pooled_projections=pooled, timestep=times,
            return_dict=return_dict,
        )  # fmt: skip
