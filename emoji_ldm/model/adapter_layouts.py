"""Adapters in the file layout of kohya's scripts, the WebUIs and ComfyUI.

    lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight    (rank, in) or (rank, in, k, k)
    lora_unet_down_blocks_0_attentions_0_..._to_q.lora_up.weight      (out, rank) or (out, rank, 1, 1)
    lora_unet_down_blocks_0_attentions_0_..._to_q.alpha               ()

Text encoders have the prefix `lora_te_`, and where there are two `lora_te1_` and `lora_te2_`. Transformers have names
of their own in each program, and ComfyUI knows those of diffusers: `transformer.LAYER.lora_A.weight`, `.lora_B.weight`
and `.alpha`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

KOHYA_FILE, COMFYUI_FILE = "kohya.safetensors", "comfyui.safetensors"
KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}


@dataclass(frozen=True)
class AdapterLayer:
    """The adapter of one layer: `weight + alpha / rank * up @ down`, with rows of length `magnitude` for DoRA."""

    down: Tensor  # (rank, in) or (rank, in, k, k)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    alpha: float
    magnitude: Tensor | None = None  # (out,)

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return len(self.down)

    def with_alpha(self, alpha: float) -> AdapterLayer:
        """The same adapter, written with another alpha."""
        return self if alpha == self.alpha else replace(self, up=self.up * (self.alpha / alpha), alpha=alpha)

    def delta(self) -> Tensor:
        """What is added to the weight, in its shape; of a DoRA what is added before the rows get their lengths."""
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        return self.alpha / self.rank * product.view(len(self.up), *self.down.shape[1:])


Adapters = Mapping[str, Mapping[str, AdapterLayer]]  # {part: {layer: adapter}}


def write_webui_layout(adapters: Adapters, folder: Path) -> None:
    """Write `kohya.safetensors` for a U-Net, which ComfyUI reads too, or `comfyui.safetensors` for a transformer."""
    from safetensors.torch import save_file

    is_transformer = "transformer" in adapters
    tensors = comfyui_tensors(adapters) if is_transformer else kohya_tensors(adapters)
    whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    save_file(whole, folder / (COMFYUI_FILE if is_transformer else KOHYA_FILE), metadata={"format": "pt"})


def kohya_tensors(adapters: Adapters) -> dict[str, Tensor]:
    """The tensors of a file for kohya's scripts, of a U-Net and a text encoder; all layers have the same alpha."""
    found: dict[str, Tensor] = {}
    # diffusers' loader loses alphas of attention layers that differ from the most frequent one, so a layer's own alpha
    # is moved into `up`.
    alpha = next((layer.alpha for layers in adapters.values() for layer in layers.values()), 1.0)
    prefixes = KOHYA_PREFIXES
    if "text_encoder_2" in adapters:  # those of SDXL are numbered
        prefixes = {**prefixes, "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    for part, layers in adapters.items():
        for name, layer in layers.items():
            # Newer versions of transformers leave out the outermost module of CLIP's text tower, which the programs
            # expect.
            if part.startswith("text_encoder") and not name.startswith("text_model."):
                name = f"text_model.{name}"
            key = prefixes[part] + name.replace(".", "_")
            found |= _tensors(layer.with_alpha(alpha), f"{key}.lora_down.weight", f"{key}.lora_up.weight", key)
    return found


def comfyui_tensors(adapters: Adapters) -> dict[str, Tensor]:
    """The tensors of a file for ComfyUI, of a transformer."""
    found: dict[str, Tensor] = {}
    for part, layers in adapters.items():
        for name, layer in layers.items():
            key = f"{part}.{name}"
            found |= _tensors(layer, f"{key}.lora_A.weight", f"{key}.lora_B.weight", key)
    return found


def _tensors(layer: AdapterLayer, down: str, up: str, key: str) -> dict[str, Tensor]:
    found = {down: layer.down, up: layer.up, f"{key}.alpha": torch.tensor(layer.alpha)}
    if layer.magnitude is not None:
        # A length per output, with as many dimensions as the weight has: so it is told from one per input.
        found[f"{key}.dora_scale"] = layer.magnitude.view(-1, *[1] * (layer.down.dim() - 1))
    return found
