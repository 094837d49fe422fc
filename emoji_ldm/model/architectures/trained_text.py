"""Text encoders that are trained inside a network of several: from token ids to the packed states of the network.

The formulas are those of the pipelines' `encode_prompt` in diffusers, which makes the cached states. What is not
trained, the states of T5, is taken from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from emoji_ldm.latents.pipeline_text_encoder import pack_states, unpack_states

PACKED = "packed"  # cached states among the text inputs, beside the token ids of each trained encoder
# {diffusers class of a pipeline: the encoders that can be trained}. T5 has billions of weights, and stays frozen.
TRAINED_TEXT_PARTS = {
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
    "StableDiffusion3Pipeline": ("text_encoder", "text_encoder_2"),
    "FluxPipeline": ("text_encoder",),
}


def join_text(pipeline: str, encoders: Mapping[str, Any], text: Mapping[str, Tensor]) -> Tensor:
    """Packed states `(n, rows, width)` of captions, with the gradient of the encoders.

    Args:
        pipeline: diffusers class.
        encoders: `{folder in the pipeline: encoder}` of those that are trained.
        text: `packed`, the cached states, and per encoder its token ids `(n, tokens)`.
    """
    outputs = {part: encoder(text[part], output_hidden_states=True) for part, encoder in encoders.items()}
    packed = text[PACKED]
    if pipeline == "FluxPipeline":
        pooled = outputs["text_encoder"].pooler_output
        return pack_states(unpack_states(packed, pooled.shape[-1])[0], pooled.to(packed))
    # The states before the last layer, as these networks were trained.
    states = torch.cat([output.hidden_states[-2] for output in outputs.values()], dim=-1)
    if pipeline == "StableDiffusionXLPipeline":
        joined = pack_states(states, outputs["text_encoder_2"].text_embeds)
        # States of an empty caption are zero where the pipeline says so, and stay that.
        return joined * (packed != 0).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
    pooled = torch.cat([output.text_embeds for output in outputs.values()], dim=-1)
    of_t5 = unpack_states(packed, pooled.shape[-1])[0][:, states.shape[1] :]
    widened = pad(states, (0, packed.shape[-1] - states.shape[-1]))
    return pack_states(torch.cat([widened, of_t5.to(widened)], dim=1), pooled)


def unused_layer(pipeline: str, part: str, encoder: Any) -> str | None:
    """Part of the names of the weights behind the states that are read, which would never get a gradient."""
    # The other encoders' pooled states come from their last layers.
    if (pipeline, part) != ("StableDiffusionXLPipeline", "text_encoder"):
        return None
    return f"layers.{encoder.config.num_hidden_layers - 1}."
