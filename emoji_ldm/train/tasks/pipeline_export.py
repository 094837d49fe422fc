"""The parts of a pipeline that training finds ready, and the whole pipeline that it leaves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.errors import ModelError
from emoji_ldm.latents.pipeline_source import MODEL_INDEX, read_json
from emoji_ldm.latents.text_encoder import TextEncoder, load_text_encoder
from emoji_ldm.latents.vae import VaeCodec, load_vae, resolve_vae
from emoji_ldm.latents.weights_hash import hash_weights
from emoji_ldm.model.denoiser import POOLER_NAME, Denoiser, build_denoiser, export_unet
from emoji_ldm.model.unet import pipeline_folder
from emoji_ldm.store import Store
from emoji_ldm.train.tasks.objective import Objective, check_scheduler

PACKAGE = __name__.partition(".")[0]
TEXT_ENCODER_PREFIX = "text_encoder."  # what names of its weights start with in a denoiser


@dataclass(frozen=True)
class FrozenModels:
    """What training starts from and does not change, on the CPU; a text encoder that learns is a copy."""

    codec: VaeCodec
    text: TextEncoder


def check_init(config: Config) -> None:
    """Refuse to start from `train.init` if it learned another objective than `config.train` says.

    Raises:
        ModelError: It is no pipeline.
        ConfigError: It learned something else; the text names the option to set.
    """
    if config.train.init:
        scheduler = pipeline_folder(config.train.init) / "scheduler" / "scheduler_config.json"
        check_scheduler(config.train, read_json(scheduler))


def load_frozen(config: Config, store: Store, cache: Path) -> FrozenModels:
    """Codec and text encoder of `config.latents`.

    Raises:
        ModelError: One is missing, or `train.init` is.
        ConfigError: It does not fit `latents.size_px` or `latents.max_tokens`; or see `check_init`.
    """
    check_init(config)
    settings = config.latents
    source = resolve_vae(config, store, cache)
    return FrozenModels(
        load_vae(source, size_px=settings.size_px, background=settings.background, device="cpu"),
        load_text_encoder(settings.text_encoder, max_tokens=settings.max_tokens, device="cpu"),
    )


def build_initial_denoiser(config: Config, frozen: FrozenModels, shape: tuple[int, int, int], width: int) -> Denoiser:
    """The denoiser before its first step, the same one each time: for latents of `shape`, token states of `width`."""
    encoder = deepcopy(frozen.text.model) if config.train.train_text_encoder else None
    return build_denoiser(config.train, shape, width, encoder)


def frozen_model_keys(config: TrainConfig, frozen: FrozenModels, module: Denoiser) -> dict[str, Any]:
    """What a checkpoint is worth nothing without: keys of what made its latents and states, and of what it adds to.

    `base_key` is there if only a part of the U-Net learns: the checkpoint does not hold the rest.
    """
    keys = {"codec_key": frozen.codec.key, "encoder_key": frozen.text.key,
            "scaling_factor": frozen.codec.scaling_factor}  # fmt: skip
    partly = config.trainable_pattern or config.lora_rank
    return {**keys, **({"base_key": base_weights_key(module.unet)} if partly else {})}


def base_weights_key(unet: Any) -> str:
    """The `weights_key` of a U-Net before its first step, whether adapters were put beside its layers or not."""
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in unet.state_dict().items()
               if ".lora_" not in name}  # fmt: skip
    return hash_weights(SimpleNamespace(state_dict=lambda: weights, config=unet.config))


def export_pipeline(config: Config, frozen: FrozenModels, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write a pipeline folder that `DiffusionPipeline.from_pretrained` opens; needs no data set and no live module.

    With a text encoder or autoencoder of a class of ours it opens with `trust_remote_code=True`: see `bring_code`.

    Args:
        config: Of the run.
        frozen: See `load_frozen`.
        weights: {name in the denoiser: whole tensor} of all that learned; what did not is as at the start.
        folder: Is made; adapters are also written into it by themselves.

    Raises:
        ModelError: The weights belong to another network than `config.train` describes.
    """
    from diffusers import StableDiffusionPipeline

    shape, width = frozen.codec.latent_shape, frozen.text.width
    StableDiffusionPipeline(
        vae=frozen.codec.vae, text_encoder=_trained_text_encoder(config.train, frozen, weights),
        unet=export_unet(config.train, shape, width, weights, folder / "lora"), tokenizer=frozen.text.tokenizer,
        scheduler=Objective(config.train).scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    copy_custom_code(folder)


def copy_custom_code(folder: Path) -> None:
    """Put the source of classes of ours beside the parts made of them: diffusers reads it if code is trusted."""
    index = read_json(folder / MODEL_INDEX)
    for part, entry in index.items():
        if isinstance(entry, list) and str(entry[0]).startswith(f"{PACKAGE}."):
            module = sys.modules[getattr(import_module(entry[0]), entry[1]).__module__]
            entry[0] = module.__name__.replace(".", "_")
            shutil.copyfile(str(module.__file__), folder / part / f"{entry[0]}.py")
    (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n")


def has_custom_code(folder: Path) -> bool:
    """Whether a pipeline opens with `trust_remote_code=True` only."""
    return any(folder.glob(f"*/{PACKAGE}_*.py"))


def _trained_text_encoder(config: TrainConfig, frozen: FrozenModels, weights: Mapping[str, Tensor]) -> Any:
    """The text encoder with what it learned; the frozen one itself if it does not learn."""
    encoder = deepcopy(frozen.text.model) if config.train_text_encoder else frozen.text.model
    learned = {
        name.removeprefix(TEXT_ENCODER_PREFIX): tensor
        for name, tensor in weights.items()
        if name.startswith(TEXT_ENCODER_PREFIX)
    }
    names = {name for name, _ in encoder.named_parameters() if POOLER_NAME not in name}
    if learned.keys() != (names if config.train_text_encoder else set()):
        raise ModelError("the weights are of another text encoder than latents.text_encoder, or it did not learn")
    encoder.load_state_dict(learned, strict=False)
    return encoder
