"""Adapters out of weights, and several adapters as one.

*Extraction* finds the adapter of a given rank that comes nearest to the difference of two models: the singular vectors
of each layer's largest singular values (Eckart and Young, 1936). *Merging* puts adapters side by side: with
`down = [down_1; down_2]` and `up = [s_1 up_1, s_2 up_2]` the product is the weighted sum of the products, exactly, and
the rank is the sum of the ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.errors import ModelError
from emoji_ldm.model.adapter_layouts import AdapterLayer, write_webui_layout

LORA_FILE = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"  # of peft's settings in the header of diffusers' files
PARTS = ("unet", "transformer", "text_encoder")

Layers = dict[str, AdapterLayer]  # {layer: adapter}


def extract_adapters(base: nn.Module, tuned: nn.Module, rank: int) -> Layers:
    """The adapters of `rank` nearest to what training changed in linear and convolutional layers.

    Layers that did not change get none. Norms and biases have no adapters, so their changes are lost.

    Raises:
        ModelError: The networks differ in their layers, or nothing changed.
    """
    ours, theirs = dict(tuned.named_modules()), dict(base.named_modules())
    found: Layers = {}
    for name, layer in theirs.items():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            other: Any = ours.get(name)
            if other is None or other.weight.shape != layer.weight.shape:
                raise ModelError(f"the two models are of different networks: {name} has another shape")
            delta = other.weight.detach().float() - layer.weight.detach().float()
            if bool(delta.any()):
                found[name] = nearest_adapter(delta, rank)
    if not found:
        raise ModelError("the two models have equal weights: there is nothing to extract")
    return found


def nearest_adapter(delta: Tensor, rank: int) -> AdapterLayer:
    """The adapter of at most `rank` whose product is nearest to `delta`, `(out, in)` or `(out, in, k, k)`."""
    left, values, right = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    size = min(rank, len(values))
    # Each half gets the root of the singular values, so that both have weights of one magnitude.
    root = values[:size].sqrt()
    up = (left[:, :size] * root).reshape(len(delta), size, *[1] * (delta.dim() - 2))
    down = (root[:, None] * right[:size]).reshape(size, *delta.shape[1:])
    return AdapterLayer(down.contiguous(), up.contiguous(), alpha=float(size))


def merge_adapters(weighted: Sequence[tuple[Mapping[str, AdapterLayer], float]]) -> Layers:
    """The weighted sum of adapters of one network, exactly: its rank is the sum of theirs.

    Raises:
        ModelError: One is a DoRA, whose effect is no sum, or two differ in a layer's shape.
    """
    names = dict.fromkeys(name for layers, _ in weighted for name in layers)
    return {name: _merge_layer(name, [(layers[name], factor) for layers, factor in weighted if name in layers])
            for name in names}  # fmt: skip


def read_adapters(folder: Path) -> dict[str, Layers]:
    """`{part: adapters}` of a folder with `pytorch_lora_weights.safetensors`, as training and `write_adapters` make it.

    Raises:
        ModelError: There is no such file, or it is in another layout.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / LORA_FILE if folder.is_dir() else folder
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  `file` is not a mapping
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"cannot read the adapters {path}: {' '.join(str(error).split())[:200]}") from None
    found: dict[str, Layers] = {}
    for name, down in tensors.items():
        if name.endswith(".lora_A.weight"):
            key = name.removesuffix(".lora_A.weight")
            part, _, layer = key.partition(".")
            if f"{key}.lora_B.weight" not in tensors:
                raise ModelError(f"{path} is damaged: {key} has one half of an adapter only")
            found.setdefault(part, {})[layer] = AdapterLayer(
                down, tensors[f"{key}.lora_B.weight"], _recorded_alpha(metadata, part, layer, len(down)),
                tensors.get(f"{key}.lora_magnitude_vector"),
            )  # fmt: skip
    if not found or not set(found) <= set(PARTS):
        raise ModelError(f"{path} holds no adapters in the layout of diffusers (names such as unet...lora_A.weight)")
    return found


def write_adapters(adapters: Mapping[str, Mapping[str, AdapterLayer]], folder: Path) -> None:
    """Write adapters in the layout of diffusers and, beside it, in that of other programs."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors, settings = dict[str, Tensor](), dict[str, Any]()
    for part, layers in adapters.items():
        for name, layer in layers.items():
            key = f"{part}.{name}"
            tensors |= {f"{key}.lora_A.weight": layer.down.contiguous(), f"{key}.lora_B.weight": layer.up.contiguous()}
            if layer.magnitude is not None:
                tensors[f"{key}.lora_magnitude_vector"] = layer.magnitude.contiguous()
        settings |= {f"{part}.{name}": value for name, value in _peft_settings(layers).items()}
    metadata = {"format": "pt", METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)}
    save_file(tensors, folder / LORA_FILE, metadata=metadata)
    write_webui_layout(adapters, folder)


def _merge_layer(name: str, weighted: Sequence[tuple[AdapterLayer, float]]) -> AdapterLayer:
    layers = [layer for layer, _ in weighted]
    if any(layer.magnitude is not None for layer in layers):
        raise ModelError(f"{name} has a DoRA, whose effect is not added to weights; merge it into a model instead")
    if len({(layer.up.shape[0], layer.down.shape[1:]) for layer in layers}) > 1:
        raise ModelError(f"the adapters are of different networks: {name} has several shapes")
    down = torch.cat([layer.down.float() for layer in layers])
    # The scale of a layer is alpha / rank; with alpha = rank that of the result is 1.
    up = torch.cat([factor * layer.alpha / layer.rank * layer.up.float() for layer, factor in weighted], dim=1)
    return AdapterLayer(down, up, alpha=float(len(down)))


def _recorded_alpha(metadata: Mapping[str, Any], part: str, layer: str, rank: int) -> float:
    of_layers = metadata.get(f"{part}.alpha_pattern") or {}
    return float(of_layers.get(layer, metadata.get(f"{part}.lora_alpha", rank)))


def _peft_settings(layers: Mapping[str, AdapterLayer]) -> dict[str, Any]:
    first = next(iter(layers.values()))
    return {
        "r": first.rank, "lora_alpha": first.alpha, "target_modules": sorted(layers),
        "rank_pattern": {name: layer.rank for name, layer in layers.items() if layer.rank != first.rank},
        "alpha_pattern": {name: layer.alpha for name, layer in layers.items() if layer.alpha != first.alpha},
        "use_dora": first.magnitude is not None,
    }  # fmt: skip
