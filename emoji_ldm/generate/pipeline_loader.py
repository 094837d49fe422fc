"""A model folder, made ready to draw: any diffusers StableDiffusionPipeline folder, own or foreign.

LoRA adapters (arXiv 2106.09685): each gives a model of its own, which shares what it does not change.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from emoji_ldm.config import key_of
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE, lora_key, model_key
from emoji_ldm.generate.unet_runner import use_deterministic_kernels
from emoji_ldm.latents.pipeline_source import local_folder, read_json, short_error_text
from emoji_ldm.latents.text_encoder import TextEncoder, load_text_encoder
from emoji_ldm.latents.vae import VaeCodec, latent_channels, load_vae


@dataclass(frozen=True)
class LatentDiffusionModel:
    """Everything a sampler needs; may also be put together by hand, as training does for its samples."""

    unet: UNet2DConditionModel  # evaluation mode, float32
    codec: VaeCodec
    text: TextEncoder
    scheduler_config: Mapping[str, Any]
    max_tokens: int
    key: str  # hash of what decides the pixels

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of one latent."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def size_px(self) -> int:
        """Side of a picture."""
        return int(self.codec.size_px)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        # The network's own `device` walks all of its modules, a millisecond each time.
        device: torch.device = next(self.unet.parameters()).device
        return device

    def encode(self, prompt: str) -> Tensor:
        """States `(1, max_tokens, width)` float32 of a prompt, as the pipeline's own `encode_prompt` gives them."""
        return self.encode_all([prompt])

    def encode_all(self, prompts: Sequence[str]) -> Tensor:
        """States `(N, max_tokens, width)` of prompts that are encoded together."""
        return self.text.pad(self.text.encode(prompts), self.max_tokens).to(self.device)


def load_model(folder: Path | str, device: str | None = None) -> LatentDiffusionModel:
    """Load a pipeline folder or hub id.

    Args:
        folder: A folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler, or a hub id.
        device: Torch device; None takes the GPU if there is one.

    Raises:
        ModelError: The folder is not such a pipeline, or a part cannot be loaded.
    """
    folder = local_folder(folder)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False).to(where)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot load {folder / 'unet'}: {short_error_text(error)}; is it a UNet2DConditionModel?"
        ) from None
    vae = read_json(folder / "vae" / "config.json")
    _check_supported(folder, unet.config, vae)
    max_tokens = int(read_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77))
    side = unet.config.sample_size * 2 ** (len(vae["block_out_channels"]) - 1)
    return LatentDiffusionModel(
        unet,
        load_vae(folder / "vae", size_px=side, background="white", device=where),
        load_text_encoder(str(folder), max_tokens=max_tokens, device=where),
        read_json(folder / "scheduler" / "scheduler_config.json"),
        max_tokens,
        model_key(folder),
    )


def sampling_device(num_gpus: float, *, strict: bool = True) -> str:
    """Torch device of a process that only samples, which is prepared so that processes agree to the last bit.

    On CPUs kernels split their sums by the number of threads: one thread per sampler makes pixels
    independent of the node's cores. More samplers, not more threads, use more cores. On GPUs only `strict`
    sampling gives up the kernels whose sums come in any order.
    """
    if num_gpus:
        if strict:
            use_deterministic_kernels()
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def _check_supported(folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """A pipeline for inpainting, upscaling or distilled guidance has the same parts but another task."""
    if unet["in_channels"] != latent_channels(vae) or not isinstance(unet["sample_size"], int):
        raise ModelError(f"{folder}: the U-Net takes {unet['in_channels']} channels of side {unet['sample_size']}, "
                         f"the autoencoder gives {latent_channels(vae)}; only text-to-image models work")  # fmt: skip
    if unet.get("time_cond_proj_dim") is not None or unet.get("addition_embed_type") is not None:
        raise ModelError(f"{folder}: the U-Net wants more than timestep and prompt (LCM or SDXL); use a plain one")


if TYPE_CHECKING:
    pass

ADAPTER_NAME = "adapter"
LORA_PREFIXES = ("unet.", "text_encoder.")


def with_lora(model: LatentDiffusionModel, folder: Path) -> LatentDiffusionModel:
    """The model with an adapter added into the weights of a copy; weights that it leaves alone are shared.

    So a picture without adapter comes from the very model that there was before, and one with
    adapter takes no longer.

    Raises:
        ModelError: The file is missing or damaged, or its adapters fit another network.
    """
    from safetensors import SafetensorError

    key = lora_key(model.key, folder)
    try:
        layers, alphas, metadata = _read_lora(folder, model)
        unet, text = _shared_copy(model.unet), model.text
        _add_lora(unet, "unet", layers, alphas, metadata)
        if any(name.startswith("text_encoder.") for name in layers):
            text = replace(text, model=_shared_copy(text.model), key=key_of(text.key, key))
            _add_lora(text.model, "text_encoder", layers, alphas, metadata)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"adapter {folder / LORA_FILE} does not fit the model, or is damaged: {reason}") from None
    return replace(model, unet=unet, text=text, key=key)


def _read_lora(
    folder: Path, model: LatentDiffusionModel
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """Tensors by name, and their scales by either of two customs."""
    from diffusers import StableDiffusionPipeline
    from safetensors import safe_open

    with safe_open(folder / LORA_FILE, "pt") as file:
        if any("dora_scale" in name for name in file.keys()):  # noqa: SIM118  it is no mapping
            raise ValueError("it is a DoRA, whose scales diffusers leaves out")
    layers, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
        folder, weight_name=LORA_FILE, unet_config=model.unet.config, use_safetensors=True, local_files_only=True,
        return_lora_metadata=True,
    )  # fmt: skip
    foreign = [name for name in layers if not name.startswith(LORA_PREFIXES)]
    if foreign or not layers:
        raise ValueError(f"it has {foreign[0] if foreign else 'no tensors'}; known are names with {LORA_PREFIXES}")
    return layers, alphas, metadata


def _shared_copy(module: Any) -> Any:
    """A copy of the modules with the very parameters and buffers of the original."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _add_lora(module: Any, part: str, layers: Mapping[str, Any], alphas: Any, metadata: Any) -> None:
    """Add the adapters of one part into new weights; ValueError if one of them belongs to no layer."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import recurse_remove_peft_layers

    if not any(name.startswith(f"{part}.") for name in layers):
        return
    if part == "unet":
        module.load_lora_adapter(
            dict(layers), prefix=part, adapter_name=ADAPTER_NAME, network_alphas=alphas, metadata=metadata
        )
    else:
        StableDiffusionPipeline.load_lora_into_text_encoder(
            dict(layers), alphas, module, prefix=part, adapter_name=ADAPTER_NAME, metadata=metadata
        )
    given = sum(name.startswith(f"{part}.") and ".alpha" not in name for name in layers)
    taken = sum(f".{ADAPTER_NAME}." in name for name in module.state_dict())
    if given != taken:
        raise ValueError(f"{given - taken} of its {given} tensors for {part} belong to no layer")
    _merge_lora_layers(module)
    recurse_remove_peft_layers(module)
    module.eval().requires_grad_(False)


def _merge_lora_layers(module: Any) -> None:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            base: Any = layer.get_base_layer()
            base.weight = torch.nn.Parameter(base.weight.detach().clone(), requires_grad=False)  # others share the old
            layer.merge()
