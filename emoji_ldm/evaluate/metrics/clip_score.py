"""The CLIP score of pictures and prompts, where weights of a CLIP are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emoji_ldm.errors import ModelError
from emoji_ldm.evaluate.metrics.pixels import RgbaPixels, on_ground, resize_rgba

# Channel means and deviations of the pictures that CLIP was trained on, which all its releases use (arXiv 2103.00020).
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class ClipModel:
    """A CLIP with both towers."""

    def __init__(self, source: str, device: str) -> None:
        """Load it from a folder or by its hub id; ModelError if that fails."""
        from transformers import AutoTokenizer, CLIPModel

        try:
            self.model: Any = CLIPModel.from_pretrained(source).eval().requires_grad_(False).to(device)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:200]
            raise ModelError(f"evaluate.clip={source}: {text}; give the folder of a CLIP, or leave it out") from None
        self.device = device

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[RgbaPixels], prompts: Sequence[str]) -> list[float]:
        """The cosine of each picture and its prompt, times 100, on a white ground."""
        size = int(self.model.config.vision_config.image_size)
        pixels = np.stack([on_ground(resize_rgba(picture, size)) / 255 for picture in pictures])
        inputs = ((pixels - MEAN) / STD).transpose(0, 3, 1, 2)
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, return_tensors="pt",
            max_length=self.model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        output = self.model(
            pixel_values=torch.from_numpy(inputs.astype(np.float32)).to(self.device), **tokens.to(self.device)
        )
        scores = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        return [float(score) * 100 for score in scores]
