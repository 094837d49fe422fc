"""LoRA adapters (arXiv 2106.09685): each gives a model of its own, which shares what it does not change."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoji_ldm.config import key_of
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.source import ADAPTERS

if TYPE_CHECKING:
    from emoji_ldm.generate.model import Model

NAME = "adapter"
PREFIXES = ("unet.", "text_encoder.")


def lora_key(model_key: str, folder: Path) -> str:
    """Key of a model with an adapter: both decide the pixels. Light, so that planning needs no torch.

    Raises:
        ModelError: There is no adapter.
    """
    try:
        with (folder / ADAPTERS).open("rb") as stream:
            return key_of(model_key, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
        raise ModelError(f"no adapter in {folder}: {error}; it holds {ADAPTERS}") from None


def with_lora(model: Model, folder: Path) -> Model:
    """The model with an adapter added into the weights of a copy; weights that it leaves alone are shared.

    So a picture without adapter comes from the very model that there was before, and one with
    adapter takes no longer.

    Raises:
        ModelError: The file is missing or damaged, or its adapters fit another network.
    """
    from safetensors import SafetensorError

    key = lora_key(model.key, folder)
    try:
        layers, alphas, metadata = _read(folder, model)
        unet, text = _shared_copy(model.unet), model.text
        _add(unet, "unet", layers, alphas, metadata)
        if any(name.startswith("text_encoder.") for name in layers):
            text = replace(text, model=_shared_copy(text.model), key=key_of(text.key, key))
            _add(text.model, "text_encoder", layers, alphas, metadata)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"adapter {folder / ADAPTERS} does not fit the model, or is damaged: {reason}") from None
    return replace(model, unet=unet, text=text, key=key)


def _read(folder: Path, model: Model) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """Tensors by name, and their scales by either of two customs."""
    from diffusers import StableDiffusionPipeline
    from safetensors import safe_open

    with safe_open(folder / ADAPTERS, "pt") as file:
        if any("dora_scale" in name for name in file.keys()):  # noqa: SIM118  it is no mapping
            raise ValueError("it is a DoRA, whose scales diffusers leaves out")
    layers, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
        folder, weight_name=ADAPTERS, unet_config=model.unet.config, use_safetensors=True, local_files_only=True,
        return_lora_metadata=True,
    )  # fmt: skip
    foreign = [name for name in layers if not name.startswith(PREFIXES)]
    if foreign or not layers:
        raise ValueError(f"it has {foreign[0] if foreign else 'no tensors'}; known are names with {PREFIXES}")
    return layers, alphas, metadata


def _shared_copy(module: Any) -> Any:
    """A copy of the modules with the very parameters and buffers of the original."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _add(module: Any, part: str, layers: Mapping[str, Any], alphas: Any, metadata: Any) -> None:
    """Add the adapters of one part into new weights; ValueError if one of them belongs to no layer."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import recurse_remove_peft_layers

    if not any(name.startswith(f"{part}.") for name in layers):
        return
    if part == "unet":
        module.load_lora_adapter(dict(layers), prefix=part, adapter_name=NAME, network_alphas=alphas, metadata=metadata)
    else:
        StableDiffusionPipeline.load_lora_into_text_encoder(
            dict(layers), alphas, module, prefix=part, adapter_name=NAME, metadata=metadata
        )
    given = sum(name.startswith(f"{part}.") and ".alpha" not in name for name in layers)
    taken = sum(f".{NAME}." in name for name in module.state_dict())
    if given != taken:
        raise ValueError(f"{given - taken} of its {given} tensors for {part} belong to no layer")
    _merge(module)
    recurse_remove_peft_layers(module)
    module.eval().requires_grad_(False)


def _merge(module: Any) -> None:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            base: Any = layer.get_base_layer()
            base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=False)  # others share the old
            layer.merge()
