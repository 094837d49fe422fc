"""Trainable weights of a U-Net: all, those that match a pattern, or low-rank adapters (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from emoji_ldm.config import LoraOptions, TrainConfig
from emoji_ldm.errors import ConfigError

NUM_SHOWN_NAMES = 4  # names that an error message lists


def select_trainable(unet: Any, config: TrainConfig) -> None:
    """Set `requires_grad` as `config.trainable_pattern` says, or add adapters as `config.lora` says.

    Raises:
        ConfigError: Both are set, the pattern is invalid, or a pattern or target matches nothing.
    """
    if config.lora and config.trainable_pattern:
        raise ConfigError(
            "train.lora trains adapters only, train.trainable_pattern weights only; leave one of them out"
        )
    if config.lora:
        _add_adapters(unet, config.lora, config.seed)
    elif config.trainable_pattern:
        _freeze_others(unet, config.trainable_pattern)


def save_adapters(unet: Any, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights(folder)` opens."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    settings = unet.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])  # JSON has no sets
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=settings)


def fuse_adapters(unet: Any) -> None:
    """Add the adapters to the weights and remove them, in place."""
    # Fusing adds the product to the weights; unloading then removes the adapter layers, which gives the weights their
    # stock names back.
    unet.fuse_lora()
    unet.unload_lora()


def _add_adapters(unet: Any, lora: LoraOptions, seed: int) -> None:
    """Freeze the U-Net and put adapters (LoRA, arXiv 2106.09685) beside `lora.targets`.

    They start without effect; their random halves are drawn from `seed`, the same on every rank.
    """
    from peft import LoraConfig

    for target in lora.targets:
        _check_target(unet, target)
    # The U-Net is frozen before the adapters are added, since those have to stay trainable.
    unet.requires_grad_(False)
    # An adapter's product is multiplied by alpha / rank. With alpha equal to the rank that factor is 1 at every rank.
    scale = lora.alpha or lora.rank
    # The CPU generator of the process is put back afterwards: an export, which adds adapters too, runs in a thread
    # beside training.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(
            LoraConfig(r=lora.rank, lora_alpha=scale, target_modules=list(lora.targets))  # type: ignore[arg-type]
        )


def _freeze_others(unet: Any, pattern: str) -> None:
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"train.trainable_pattern={pattern!r} is not a regular expression: {error}") from None
    names = [name for name, _ in unet.named_parameters()]
    if not any(map(found.search, names)):
        # A few names spread over the network tell a user more than the first few, which are all of one block.
        shown = ", ".join(names[:: max(1, len(names) // NUM_SHOWN_NAMES)][:NUM_SHOWN_NAMES])
        raise ConfigError(f"train.trainable_pattern={pattern!r} matches no weight's name; such names are {shown}")
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(bool(found.search(name)))


def _check_target(unet: Any, target: str) -> None:
    names = [name for name, module in unet.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    if not any(name == target or name.endswith(f".{target}") for name in names):
        # The numbered prefix of a block is cut off: what remains is what a target is compared with, and is the same in
        # every block.
        shown = ", ".join(sorted({re.sub(r"^.*?\d\.(?=[a-z])", "", name) for name in names})[: NUM_SHOWN_NAMES * 2])
        raise ConfigError(f"train.lora.targets: no layer's name ends in {target!r}; names end such as {shown}")
