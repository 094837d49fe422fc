"""Text encoders whose states of padding tokens are zero vectors.

Exported pipelines carry a copy of this file, so it must not import anything of this package.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import (
    BertModel,
    CLIPTextModel,
    PreTrainedModel,  # noqa: F401  diffusers finds how to load these classes by this name in this module
    T5EncoderModel,
)


class ZeroPadded:
    """Mix-in for a transformers encoder: states `(N, tokens, width)` are zero where the attention mask is."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """The encoder's forward, with padding zeroed."""
        output = super().forward(input_ids, attention_mask=attention_mask, **options)  # type: ignore[misc]
        if attention_mask is not None:
            # An output of transformers keeps attributes and entries in step, so `output[0]`, which pipelines read,
            # changes too.
            output.last_hidden_state = output.last_hidden_state * attention_mask.unsqueeze(-1)
        return output


# The mix-in comes first, so that its `forward` is found first and `super()` is the encoder's own.
class ZeroPaddedBert(ZeroPadded, BertModel):  # type: ignore[misc]
    """BERT and its relatives, such as MiniLM."""


class ZeroPaddedClip(ZeroPadded, CLIPTextModel):  # type: ignore[misc]
    """The text tower of a CLIP."""


class ZeroPaddedT5(ZeroPadded, T5EncoderModel):  # type: ignore[misc]
    """The encoder half of a T5."""
