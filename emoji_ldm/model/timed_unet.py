"""A U-Net with a time embedding of its own width; exported pipelines carry this file as their code.

It imports nothing of this package, so that diffusers can open a pipeline where the package is not installed.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps


class TimedUNet(UNet2DConditionModel):  # type: ignore[misc]
    """A `UNet2DConditionModel` whose time is encoded by `time_input_dim` sinusoids, at whatever width it begins.

    Networks that were written after Stable Diffusion's own code keep its 320 sinusoids at other widths; diffusers ties
    their number to the first width. All other fields are those of the stock class.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(  # noqa: PLR0913
        self, sample_size: int | tuple[int, int] | None = None, in_channels: int = 4, out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (256, 512), layers_per_block: int = 2,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types: tuple[str, ...] = ("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim: int = 8,
        cross_attention_dim: int = 512, norm_num_groups: int = 32, time_embedding_dim: int = 1280,
        time_input_dim: int = 320,
    ) -> None:  # fmt: skip
        super().__init__(
            sample_size=sample_size, in_channels=in_channels, out_channels=out_channels,
            block_out_channels=block_out_channels, layers_per_block=layers_per_block, down_block_types=down_block_types,
            up_block_types=up_block_types, attention_head_dim=attention_head_dim,
            cross_attention_dim=cross_attention_dim, norm_num_groups=norm_num_groups,
            time_embedding_dim=time_embedding_dim,
        )  # fmt: skip
        self.time_proj = Timesteps(time_input_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(time_input_dim, time_embedding_dim, act_fn="silu")
