"""Loading a diffusers StableDiffusionPipeline folder, our own or another's, and adding LoRA adapters to the model.

A LoRA adapter (Hu et al., arXiv 2106.09685) holds two small matrices A and B per adapted layer, whose product is added
to the layer's weight: `W' = W + scale * B A` (section 4.1 of the paper). The sum is computed once here, so that
sampling with an adapter takes exactly as long as without. diffusers merges in place, which would change the base model
for everyone else; so the adapted layers get new tensors, and all other tensors are shared with the base model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from emoji_ldm.config import key_of
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE, lora_key, model_key, require_safetensors
from emoji_ldm.generate.request import LatentShape
from emoji_ldm.generate.unet_runner import use_deterministic_kernels
from emoji_ldm.latents.pipeline_source import local_folder, read_json, short_error_text
from emoji_ldm.latents.text_encoder import TextEncoder, load_text_encoder
from emoji_ldm.latents.vae import VaeCodec, downsampling_factor, latent_channels, load_vae
from emoji_ldm.model.unet import needs_more_inputs, network_class

ADAPTER_NAME = "adapter"
LORA_PREFIXES = ("unet.", "text_encoder.")


@dataclass(frozen=True)
class LatentDiffusionModel:
    """The weights and settings that sampling needs."""

    unet: UNet2DConditionModel  # evaluation mode, float32
    vae: VaeCodec
    text_encoder: TextEncoder
    scheduler_config: Mapping[str, Any]
    max_tokens: int
    key: str  # hash of everything that decides the pixels

    @property
    def latent_shape(self) -> LatentShape:
        """`(C, h, w)` of a latent at the size that the model was trained at."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def size_px(self) -> int:
        """Side of an image at the size that the model was trained at."""
        return int(self.vae.size_px)

    @property
    def downsampling_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return downsampling_factor(self.vae.vae)

    @property
    def device(self) -> torch.device:
        """The device that holds the U-Net."""
        # diffusers' own `device` property visits every module, which takes a millisecond per call.
        device: torch.device = next(self.unet.parameters()).device
        return device

    def encode_prompt(self, prompt: str) -> Tensor:
        """Token states `(1, max_tokens, width)` float32 of one prompt, as the pipeline's `encode_prompt` gives them."""
        return self.encode_prompts([prompt])

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Token states `(N, max_tokens, width)` float32 of prompts that are encoded as one batch."""
        # Cross-attention sees the padding as well, so a prompt with less padding would give other images than the
        # pipeline.
        return self.text_encoder.pad(self.text_encoder.encode(prompts), self.max_tokens).to(self.device)


def load_model(folder: Path | str, device: str | None = None) -> LatentDiffusionModel:
    """Load a pipeline folder or hub id.

    Args:
        folder: A folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler, or a hub id.
        device: Torch device; None uses a GPU if there is one.

    Raises:
        ModelError: The folder is not such a pipeline, or a part of it cannot be loaded.
    """
    folder = local_folder(folder)
    require_safetensors(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        unet = network_class(folder / "unet").from_pretrained(folder / "unet", use_safetensors=True)
        unet = unet.eval().requires_grad_(False).to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot load {folder / 'unet'}: {short_error_text(error)}; is it a UNet2DConditionModel?"
        ) from None
    vae_config = read_json(folder / "vae" / "config.json")
    _check_supported(folder, unet.config, vae_config)
    # The pipeline pads prompts to the tokenizer's length, so the same number of states must reach the U-Net.
    max_tokens = int(read_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77))
    # The autoencoder halves the side once per resolution after the first.
    size_px = unet.config.sample_size * 2 ** (len(vae_config["block_out_channels"]) - 1)
    return LatentDiffusionModel(
        unet=unet,
        vae=load_vae(folder / "vae", size_px=size_px, background="white", device=device),
        text_encoder=load_text_encoder(str(folder), max_tokens=max_tokens, device=device),
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        max_tokens=max_tokens,
        key=model_key(folder),
    )


def sampling_device(num_gpus: float, *, deterministic: bool = True) -> str:
    """Prepare a process that only samples, and return its torch device.

    CPU kernels split their sums by the number of threads, so one thread per sampler makes pixels independent of the
    number of cores of a node. More cores are used by more samplers, not by more threads. On a GPU, only deterministic
    sampling gives up the faster kernels that add in no fixed order.
    """
    if num_gpus:
        if deterministic:
            use_deterministic_kernels()
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def _check_supported(folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Raise ModelError for inpainting, upscaling and distilled pipelines, whose U-Nets take other inputs."""
    # Inpainting and upscaling U-Nets take the masked image or the small image as further channels.
    if unet["in_channels"] != latent_channels(vae) or not isinstance(unet["sample_size"], int):
        raise ModelError(f"{folder}: the U-Net takes {unet['in_channels']} channels of side {unet['sample_size']}, "
                         f"the autoencoder gives {latent_channels(vae)}; only text-to-image models work")  # fmt: skip
    if needs_more_inputs(unet):
        raise ModelError(f"{folder}: the U-Net needs inputs beyond timestep and prompt (LCM or SDXL); use a model "
                         "without them")  # fmt: skip


def with_lora(model: LatentDiffusionModel, folder: Path, weight: float = 1.0) -> LatentDiffusionModel:
    """A model with `weight` times the adapter of a folder added; the given model stays as it is.

    Raises:
        ModelError: The file is missing or damaged, or its adapter is for another network.
    """
    from safetensors import SafetensorError

    key = lora_key(model.key, folder, weight)
    try:
        layers, alphas, metadata = _read_lora(folder, model)
        layers = _weighted(layers, weight)
        unet, text_encoder = _shared_copy(model.unet), model.text_encoder
        _add_lora(unet, "unet", layers, alphas, metadata)
        # The key of the encoder is part of the keys of cached prompt states, so an adapted encoder needs another one.
        if any(name.startswith("text_encoder.") for name in layers):
            text_encoder = replace(
                text_encoder, model=_shared_copy(text_encoder.model), key=key_of(text_encoder.key, key)
            )
            _add_lora(text_encoder.model, "text_encoder", layers, alphas, metadata)
    # Adapter files come from users, and diffusers and peft raise all of these for files that are damaged or do not fit.
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"adapter {folder / LORA_FILE} does not fit the model, or is damaged: {reason}") from None
    return replace(model, unet=unet, text_encoder=text_encoder, key=key)


def _weighted(layers: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """The tensors of an adapter whose products `B A` are `weight` times as large; ValueError for an unknown format."""
    # B has another name in each of the formats that diffusers reads.
    parts = (".lora_B.", "lora.up.", "lora_linear_layer.up.")
    seconds = {name for name in layers if any(part in name for part in parts)}
    # One B for each A: with a weight that reached only some of them, the images would be plausible but wrong.
    if weight != 1 and 2 * len(seconds) != sum(".alpha" not in name for name in layers):
        raise ValueError("its format is not known well enough to give it a weight")
    return {name: value * weight if weight != 1 and name in seconds else value for name, value in layers.items()}


def _read_lora(
    folder: Path, model: LatentDiffusionModel
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """Tensors by name, and the scales of the layers in either of the two formats that are in use.

    Kohya's files hold an alpha per layer; those of diffusers and peft hold the adapter's configuration as metadata.
    """
    from diffusers import StableDiffusionPipeline
    from safetensors import safe_open

    with safe_open(folder / LORA_FILE, "pt") as file:
        # A DoRA also rescales each weight's magnitude. Merged as a plain LoRA it would give plausible but wrong images.
        if any("dora_scale" in name for name in file.keys()):  # noqa: SIM118  `file` is not a mapping
            raise ValueError("it is a DoRA, whose scales diffusers drops silently")
    layers, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
        folder, weight_name=LORA_FILE, unet_config=model.unet.config, use_safetensors=True, local_files_only=True,
        return_lora_metadata=True,
    )  # fmt: skip
    # Tensors of a part that is not adapted here, such as a second text encoder, would be ignored in silence.
    unknown = [name for name in layers if not name.startswith(LORA_PREFIXES)]
    if unknown or not layers:
        raise ValueError(f"it has {unknown[0] if unknown else 'no tensors'}; tensor names start with {LORA_PREFIXES}")
    return layers, alphas, metadata


def _shared_copy(module: Any) -> Any:
    """A copy of a module tree that holds the original's parameters and buffers, not copies of them."""
    # deepcopy takes objects that are in its memo as copied already.
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _add_lora(module: Any, part: str, layers: Mapping[str, Any], alphas: Any, metadata: Any) -> None:
    """Add one part's adapter to new weight tensors of `module`; ValueError if a tensor belongs to no layer."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import recurse_remove_peft_layers

    if not any(name.startswith(f"{part}.") for name in layers):
        return
    # diffusers offers loading as a method for the U-Net, and as a class method of the pipeline for the text encoder.
    if part == "unet":
        module.load_lora_adapter(
            dict(layers), prefix=part, adapter_name=ADAPTER_NAME, network_alphas=alphas, metadata=metadata
        )
    else:
        StableDiffusionPipeline.load_lora_into_text_encoder(
            dict(layers), alphas, module, prefix=part, adapter_name=ADAPTER_NAME, metadata=metadata
        )
    # diffusers only logs a warning about tensors that it did not use, and would sample without them. So the tensors
    # that arrived in the module are counted. Alphas are left out: they scale a layer's product and become no tensors.
    num_given = sum(name.startswith(f"{part}.") and ".alpha" not in name for name in layers)
    num_used = sum(f".{ADAPTER_NAME}." in name for name in module.state_dict())
    if num_given != num_used:
        raise ValueError(f"{num_given - num_used} of its {num_given} tensors for {part} belong to no layer")
    _merge_lora_layers(module)
    # peft's wrappers are needless once their product is in the weight, and would slow down every forward pass.
    recurse_remove_peft_layers(module)
    module.eval().requires_grad_(False)


def _merge_lora_layers(module: Any) -> None:
    """Add each adapter to its layer's weight, in a new tensor: the base model shares the old one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            base: Any = layer.get_base_layer()
            # `merge` adds in place to whatever tensor `weight` is at that moment, so it is replaced by a copy before.
            base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=False)
            layer.merge()
