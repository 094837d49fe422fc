"""Trainable weights of a network: all, those that match a pattern, or low-rank adapters.

An adapter adds the product of two small matrices to a layer's weight, times alpha / rank (LoRA, arXiv 2106.09685). DoRA
(arXiv 2402.09353) also learns the length of each row of the sum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emoji_ldm.config import LoraOptions, TrainConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.model.adapter_layouts import AdapterLayer, write_webui_layout

NUM_SHOWN_NAMES = 4  # names that an error message lists
# Layers of a text encoder that get adapters, those of CLIP's and T5's attention: `lora.targets` are the network's.
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "query", "key", "value", "q", "k", "v", "o")


def select_trainable(network: Any, config: TrainConfig) -> None:
    """Set `requires_grad` as `config.trainable_pattern` says, or add adapters as `config.lora` says.

    Raises:
        ConfigError: Both are set, the pattern is invalid, or a pattern or target matches nothing.
    """
    if config.lora and config.trainable_pattern:
        raise ConfigError(
            "train.lora trains adapters only, train.trainable_pattern weights only; leave one of them out"
        )
    if config.lora:
        for target in config.lora.targets:
            _check_target(network, target)
        for pattern in config.lora.blocks:
            _check_block(network, config.lora, pattern)
        add_adapters(network, config.lora, config.lora.targets, config.seed)
    elif config.trainable_pattern:
        _freeze_others(network, config.trainable_pattern)
    elif config.textual_inversion:
        network.requires_grad_(False)


def add_adapters(network: Any, lora: LoraOptions, targets: tuple[str, ...], seed: int) -> None:
    """Freeze a network and put adapters beside the layers whose names end in `targets`.

    They start without effect; their random halves are drawn from `seed`, the same on every rank.
    """
    from peft import LoraConfig

    # The network is frozen before the adapters are added, since those have to stay trainable.
    network.requires_grad_(False)
    # An adapter's product is multiplied by alpha / rank. With alpha equal to the rank that factor is 1 at every rank.
    of_layers = {name: _of_block(lora, name) for name in target_layers(network, targets)}
    adapted = [name for name, (rank, _) in of_layers.items() if rank]
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha or lora.rank,  # type: ignore[arg-type]
        # Names of layers are listed only where blocks differ: the list is stored with the adapter.
        target_modules=adapted if lora.blocks else list(targets),
        rank_pattern={name: of_layers[name][0] for name in adapted} if lora.blocks else {},
        alpha_pattern={name: of_layers[name][1] for name in adapted} if lora.blocks else {},
        use_dora=lora.dora,
    )  # fmt: skip
    # The CPU generator of the process is put back afterwards: an export, which adds adapters too, runs in a thread
    # beside training.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(settings)


def target_layers(network: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear and convolutional layers that end in one of `targets`."""
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return [name for name in names if any(name == target or name.endswith(f".{target}") for target in targets)]


def adapter_layers(network: nn.Module) -> dict[str, AdapterLayer]:
    """`{layer: its adapter}` of a network with adapters."""
    from peft.tuners.lora import LoraLayer

    found = {}
    adapted: list[tuple[str, Any]] = [each for each in network.named_modules() if isinstance(each[1], LoraLayer)]
    for name, layer in adapted:
        if "default" in layer.lora_A:
            vectors = layer.lora_magnitude_vector
            found[name] = AdapterLayer(
                down=layer.lora_A["default"].weight.detach(), up=layer.lora_B["default"].weight.detach(),
                alpha=float(layer.lora_alpha["default"]),
                magnitude=vectors["default"].weight.detach() if "default" in vectors else None,
            )  # fmt: skip
    return found


def save_adapters(pipeline: str, parts: Mapping[str, Any], folder: Path) -> None:
    """Write the adapters of a pipeline's parts, `{unet or transformer, text_encoder: network}`.

    `pytorch_lora_weights.safetensors` is what `load_lora_weights(folder)` of the diffusers class `pipeline` opens. The
    same adapters in the layout of other programs lie beside it, see `write_webui_layout`.
    """
    import diffusers
    from peft.utils import get_peft_model_state_dict

    arguments: dict[str, Any] = {}
    for part, network in parts.items():
        # The names are peft's. Of diffusers' older ones for U-Nets, its loader finds no attention beside convolutions.
        arguments[f"{part}_lora_layers"] = get_peft_model_state_dict(network)
        settings = network.peft_config["default"].to_dict()
        settings["target_modules"] = sorted(settings["target_modules"])  # JSON has no sets
        arguments[f"{part}_lora_adapter_metadata"] = settings
    getattr(diffusers, pipeline).save_lora_weights(folder, **arguments)
    write_webui_layout({part: adapter_layers(network) for part, network in parts.items()}, folder)


def fuse_adapters(network: Any) -> None:
    """Add the adapters to the weights and remove them, in place."""
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    # Without the wrappers the weights have their stock names again.
    recurse_remove_peft_layers(network)
    # The models also remember that they have adapters: those of transformers would look for them when they are saved.
    if hasattr(network, "unload_lora"):
        network.unload_lora()
    else:
        network.delete_adapter("default")


def _of_block(lora: LoraOptions, name: str) -> tuple[int, float]:
    """Rank and alpha of a layer: those of the first block pattern that its name contains, else the general ones."""
    for pattern, block in lora.blocks.items():
        if re.search(pattern, name):
            return block.rank, block.alpha or block.rank
    return lora.rank, lora.alpha or lora.rank


def _freeze_others(network: Any, pattern: str) -> None:
    found = _compiled("train.trainable_pattern", pattern)
    names = [name for name, _ in network.named_parameters()]
    if not any(map(found.search, names)):
        # A few names spread over the network tell a user more than the first few, which are all of one block.
        shown = ", ".join(names[:: max(1, len(names) // NUM_SHOWN_NAMES)][:NUM_SHOWN_NAMES])
        raise ConfigError(f"train.trainable_pattern={pattern!r} matches no weight's name; such names are {shown}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(bool(found.search(name)))


def _compiled(field: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{field}={pattern!r} is not a regular expression: {error}") from None


def _check_target(network: Any, target: str) -> None:
    if not target_layers(network, (target,)):
        names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        # The numbered prefix of a block is cut off: what remains is what a target is compared with, and is the same in
        # every block.
        shown = ", ".join(sorted({re.sub(r"^.*?\d\.(?=[a-z])", "", name) for name in names})[: NUM_SHOWN_NAMES * 2])
        raise ConfigError(f"train.lora.targets: no layer's name ends in {target!r}; names end such as {shown}")


def _check_block(network: Any, lora: LoraOptions, pattern: str) -> None:
    found = _compiled("train.lora.blocks", pattern)
    layers = target_layers(network, lora.targets)
    if not any(map(found.search, layers)):
        shown = ", ".join(layers[:: max(1, len(layers) // NUM_SHOWN_NAMES)][:NUM_SHOWN_NAMES])
        raise ConfigError(
            f"train.lora.blocks: {pattern!r} matches no layer that gets adapters; such layers are {shown}"
        )
    if all(_of_block(lora, name)[0] == 0 for name in layers):
        raise ConfigError("train.lora.blocks gives every layer rank 0, so nothing would be trained")
