"""What training has to know of a kind of pipeline: its network, how a batch enters it, and its times.

A new kind is one class with these members, and a line in `find.ARCHITECTURES`. The loop, the engines, adapters and
checkpoints know none of them.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from emoji_ldm.config import TrainConfig


class Architecture(Protocol):
    """A kind of pipeline."""

    part: str  # the network's folder in a pipeline, and the prefix of its weights in checkpoints: unet or transformer
    pipeline: str  # diffusers class
    # Whether the network is sampled at times between the thousand whole ones, and therefore trained at such times.
    has_fractional_times: bool
    packing: int  # side of the square of latent cells that enters the network as one cell with the channels of all

    def build(self, config: TrainConfig, latent_shape: tuple[int, int, int], width: int) -> Any:
        """The network before training, on the CPU in float32: that of `config.init`, or a random one by `config.seed`.

        Args:
            config: The section `train`.
            latent_shape: `(C, h, w)` of the latents.
            width: Width of a row of the text states.

        Raises:
            ConfigError: The latents or the text states do not fit, or fields of `config` contradict one another.
            ModelError: The pipeline is missing, or of another kind.
        """
        ...

    def predict(
        self, network: Any, noisy: Tensor, times: Tensor, text: Tensor, *, guidance: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The network's output `(n, C, h, w)`.

        Args:
            network: What `build` returned, possibly with adapters.
            noisy: Noisy latents `(n, C, h, w)`.
            times: `(n,)` in [0, 1000), whole or not as `has_fractional_times` says.
            text: `(n, rows, width)`: token states, and pooled ones where the architecture has them, see
                `emoji_ldm.latents.pipeline_text_encoder`.
            guidance: `(n,)` guidance scales, for networks that take them as an input; None as in training.
            sizes: `(n, 6)` sizes and crop of the images in pixels, see `emoji_ldm.latents.buckets.size_inputs`, for
                networks that take them; None for whole images of the size of their latents.
        """
        ...
