"""Loading a diffusers pipeline folder, our own or another's, and adding LoRA adapters to the model.

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
from torch import Tensor

from emoji_ldm.config import key_of
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE, lora_key, model_key, require_safetensors
from emoji_ldm.generate.pipeline_kinds import STABLE_DIFFUSION, PipelineKind, pipeline_kind
from emoji_ldm.generate.request import LatentShape
from emoji_ldm.generate.unet_runner import use_deterministic_kernels
from emoji_ldm.latents.pipeline_source import local_folder, read_json
from emoji_ldm.latents.pipeline_text_encoder import load_prompt_encoder
from emoji_ldm.latents.text_encoder import TextEncoder
from emoji_ldm.latents.vae import VaeCodec, downsampling_factor, latent_channels, load_vae
from emoji_ldm.model.architectures.architecture import Architecture
from emoji_ldm.model.architectures.find import architecture_of
from emoji_ldm.model.architectures.pretrained import load_whole_network
from emoji_ldm.model.unet import needs_more_inputs

ADAPTER_NAME = "adapter"


@dataclass(frozen=True)
class LatentDiffusionModel:
    """The weights and settings that sampling needs."""

    unet: Any  # the network, U-Net or transformer, in evaluation mode, float32
    vae: VaeCodec
    text_encoder: TextEncoder
    scheduler_config: Mapping[str, Any]
    max_tokens: int
    key: str  # hash of everything that decides the pixels
    architecture: Architecture
    kind: PipelineKind
    side: int  # cells along a side of the latents that it was trained at

    @property
    def latent_shape(self) -> LatentShape:
        """`(C, h, w)` of a latent at the size that the model was trained at."""
        return self.kind.channels(self.unet.config), self.side, self.side

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

    def modules(self) -> list[Any]:
        """Network, autoencoder and text encoders."""
        return [self.unet, self.vae.vae, *self.text_encoder.parts().values()]

    @property
    def has_guidance_input(self) -> bool:
        """Whether the network takes the guidance scale as an input, and needs no second pass without the prompt."""
        return bool(self.unet.config.get("guidance_embeds"))

    def encode_prompt(self, prompt: str) -> Tensor:
        """Text states `(1, rows, width)` float32 of one prompt, as the pipeline's `encode_prompt` gives them.

        Where the network also takes pooled states they are the first rows, see `latents.pipeline_text_encoder`.
        """
        return self.encode_prompts([prompt])

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text states `(N, rows, width)` float32 of prompts that are encoded as one batch."""
        # Cross-attention sees the padding as well, so a prompt with less padding would give other images than the
        # pipeline.
        states = self.text_encoder.encode(prompts)
        return self.text_encoder.pad(states, max(self.max_tokens, len(states[0]))).to(self.device)


def load_model(folder: Path | str, device: str | None = None) -> LatentDiffusionModel:
    """Load a pipeline folder or hub id.

    Args:
        folder: A folder as diffusers saves it, of Stable Diffusion 1, 2, XL or 3 or of Flux, or a hub id.
        device: Torch device; None uses a GPU if there is one.

    Raises:
        ModelError: The folder is not such a pipeline, or a part of it cannot be loaded.
    """
    folder = local_folder(folder)
    require_safetensors(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, vae_config = pipeline_kind(folder), read_json(folder / "vae" / "config.json")
    unet = load_whole_network(str(folder))[1].eval().requires_grad_(False).to(device)
    _check_supported(folder, kind, unet.config, vae_config)
    # The pipeline pads prompts to the tokenizer's length, so the same number of states must reach the network.
    max_tokens, side = kind.max_tokens(folder), kind.side(folder, unet.config)
    # The autoencoder halves the side once per resolution after the first.
    size_px = side * 2 ** (len(vae_config["block_out_channels"]) - 1)
    return LatentDiffusionModel(
        unet=unet,
        vae=load_vae(folder / "vae", size_px=size_px, background="white", device=device),
        text_encoder=load_prompt_encoder(str(folder), max_tokens=max_tokens, device=device),
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        max_tokens=max_tokens,
        key=model_key(folder),
        architecture=architecture_of(str(folder)),
        kind=kind,
        side=side,
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


def _check_supported(folder: Path, kind: PipelineKind, network: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Raise ModelError for inpainting, upscaling and distilled pipelines, whose networks take other inputs."""
    # Inpainting and upscaling networks take the masked image or the small image as further channels.
    if kind.channels(network) != latent_channels(vae):
        raise ModelError(f"{folder}: the network takes {kind.channels(network)} channels, the autoencoder gives "
                         f"{latent_channels(vae)}; only text-to-image models work")  # fmt: skip
    # Few stock autoencoders scale each channel on its own, as neither our training nor our decoding does for them.
    if vae.get("_class_name") == "AutoencoderKL" and (vae.get("latents_mean") or vae.get("latents_std")):
        raise ModelError(f"{folder}: the autoencoder has a mean or scale of its own per channel; use another model")
    is_plain = kind is STABLE_DIFFUSION and needs_more_inputs(network)
    if is_plain or network.get("time_cond_proj_dim") is not None:
        raise ModelError(f"{folder}: the network needs inputs beyond those of its kind of pipeline (LCM?); use a model "
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
        _add_lora(model.kind, unet, model.kind.network, layers, alphas, metadata)
        encoders = {part: _shared_copy(module) for part, module in text_encoder.parts().items()
                    if any(name.startswith(f"{part}.") for name in layers)}  # fmt: skip
        for part, module in encoders.items():
            _add_lora(model.kind, module, part, layers, alphas, metadata)
        # The key of the encoder is part of the keys of cached prompt states, so an adapted encoder needs another one.
        if encoders:
            text_encoder = text_encoder.with_parts(encoders, key_of(text_encoder.key, key))
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
    import diffusers
    from safetensors import safe_open

    with safe_open(folder / LORA_FILE, "pt") as file:
        # A DoRA also rescales each weight's magnitude. Merged as a plain LoRA it would give plausible but wrong images.
        if any("dora_scale" in name for name in file.keys()):  # noqa: SIM118  `file` is not a mapping
            raise ValueError("it is a DoRA, whose scales diffusers drops silently")
    options: dict[str, Any] = {"unet_config": model.unet.config} if model.kind.network == "unet" else {}
    if model.kind.name == "FluxPipeline":
        options["return_alphas"] = True
    layers, *alphas, metadata = getattr(diffusers, model.kind.name).lora_state_dict(
        folder, weight_name=LORA_FILE, use_safetensors=True, local_files_only=True, return_lora_metadata=True, **options
    )
    # Tensors of a part that the model does not have would be ignored in silence.
    prefixes = tuple(f"{part}." for part in (model.kind.network, *model.text_encoder.parts()))
    unknown = [name for name in layers if not name.startswith(prefixes)]
    if unknown or not layers:
        raise ValueError(f"it has {unknown[0] if unknown else 'no tensors'}; tensor names start with {prefixes}")
    # Files for Stable Diffusion 3 have no alphas beside those in the metadata.
    return layers, alphas[0] if alphas else None, metadata


def _shared_copy(module: Any) -> Any:
    """A copy of a module tree that holds the original's parameters and buffers, not copies of them."""
    # deepcopy takes objects that are in its memo as copied already.
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _add_lora(
    kind: PipelineKind, module: Any, part: str, layers: Mapping[str, Any], alphas: Any, metadata: Any
) -> None:
    """Add one part's adapter to new weight tensors of `module`; ValueError if a tensor belongs to no layer."""
    import diffusers
    from diffusers.utils import recurse_remove_peft_layers

    if not any(name.startswith(f"{part}.") for name in layers):
        return
    # diffusers offers loading as a method for the network, and as a class method of the pipeline for a text encoder.
    if part == kind.network:
        module.load_lora_adapter(
            dict(layers), prefix=part, adapter_name=ADAPTER_NAME, network_alphas=alphas, metadata=metadata
        )
    else:
        getattr(diffusers, kind.name).load_lora_into_text_encoder(
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
    # What is left says that there are wrappers: the next adapter of a mix would find its name in use.
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(module).pop(name, None)
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
