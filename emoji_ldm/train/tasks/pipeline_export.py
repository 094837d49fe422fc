"""The frozen parts of a pipeline that training starts from, and the export of the whole pipeline."""

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
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.pipeline_source import (
    MODEL_INDEX,
    TEXT_PARTS,
    local_folder,
    pipeline_class,
    read_json,
    resolve_checkpoint_pipeline,
)
from emoji_ldm.latents.pipeline_text_encoder import PipelineTextEncoder, load_prompt_encoder
from emoji_ldm.latents.text_encoder import TextEncoder
from emoji_ldm.latents.vae import VaeCodec, load_vae, resolve_vae
from emoji_ldm.latents.weights_hash import hash_weights
from emoji_ldm.model.architectures.architecture import Architecture
from emoji_ldm.model.architectures.find import find_architecture
from emoji_ldm.model.architectures.trained_text import TRAINED_TEXT_PARTS
from emoji_ldm.model.denoiser import (
    TEXT_ENCODER,
    Denoiser,
    build_denoiser,
    export_parts,
    is_partial,
    trains_text_encoder,
)
from emoji_ldm.model.textual_inversion import add_words, learn_words, save_words, settle_words
from emoji_ldm.model.unet import pipeline_folder
from emoji_ldm.store import Store
from emoji_ldm.train.tasks.objective import Objective, check_scheduler, scheduler_shift

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class FrozenModels:
    """Autoencoder and text encoder, on the CPU. Training changes neither: a trained text encoder is a copy."""

    vae: VaeCodec
    text: TextEncoder


def check_init(config: Config) -> None:
    """Refuse to start from `train.init` if it was trained with another objective than `config.train` has.

    Raises:
        ModelError: It is no pipeline.
        ConfigError: Its objective differs; the text names the option to set.
    """
    if not config.train.init:
        return
    architecture = find_architecture(config.train)
    if config.train.textual_inversion and pipeline_class(config.train.init) in TEXT_PARTS:
        raise ConfigError(
            f"train.init={config.train.init} has several text encoders, of which none can learn a word; set "
            "train.textual_inversion=null"
        )
    check_scheduler(config.train, _scheduler_config(config.train, architecture))


def with_flow_shift(config: Config, latent_shape: tuple[int, int, int]) -> Config:
    """The configuration with `train.flow_shift` as the pipeline of `train.init` samples latents of this shape."""
    train = config.train
    if not train.init or train.prediction_type != "flow" or train.flow_shift is not None:
        return config
    _, height, width = latent_shape
    # A token is a square of two by two cells, in Stable Diffusion 3 as in Flux.
    shift = scheduler_shift(_scheduler_config(train, find_architecture(train)), height * width // 4)
    return config.model_copy(update={"train": train.model_copy(update={"flow_shift": shift})})


def _scheduler_config(config: TrainConfig, architecture: Architecture) -> dict[str, Any]:
    return read_json(pipeline_folder(config.init or "", architecture.part) / "scheduler" / "scheduler_config.json")


def load_frozen(config: Config, store: Store, cache: Path) -> FrozenModels:
    """Autoencoder and text encoder of `config.latents`.

    Raises:
        ModelError: One is missing, or `train.init` is.
        ConfigError: It does not fit `latents.size_px` or `latents.max_tokens`; or see `check_init`.
    """
    check_init(config)
    settings = config.latents
    # The objective was checked first, as that needs one small file and the models many large ones.
    source = resolve_vae(config, store, cache)
    text = load_prompt_encoder(settings.text_encoder, max_tokens=settings.max_tokens, device="cpu")
    if config.train.textual_inversion:
        # The word is no part of the encoder's key: its states are never cached, as they change at each step.
        add_words(text.tokenizer, config.train.textual_inversion)
    return FrozenModels(
        load_vae(
            source, size_px=settings.size_px, background=settings.background, device="cpu", buckets=settings.buckets
        ),
        text,
    )


def build_initial_denoiser(config: Config, frozen: FrozenModels, shape: tuple[int, int, int], width: int) -> Denoiser:
    """The denoiser before its first step, the same one each time: for latents of `shape`, token states of `width`."""
    return build_denoiser(config.train, shape, width, _text_encoders_to_train(config.train, frozen))


def _text_encoders_to_train(config: TrainConfig, frozen: FrozenModels) -> dict[str, Any]:
    """`{folder in the pipeline: copy of the frozen encoder}` of the text encoders that are trained."""
    if not trains_text_encoder(config):
        return {}
    # Training changes the encoders in place, and later exports need the originals.
    if isinstance(frozen.text, PipelineTextEncoder):
        return frozen.text.load_parts(TRAINED_TEXT_PARTS[pipeline_class(frozen.text.folder)])
    encoder = deepcopy(frozen.text.model)
    if config.textual_inversion:
        learn_words(encoder, frozen.text.tokenizer, config.textual_inversion)
    return {TEXT_ENCODER: encoder}


def frozen_model_keys(config: TrainConfig, frozen: FrozenModels, module: Denoiser) -> dict[str, Any]:
    """Keys of the models that a checkpoint is useless without: those of its latents and states, and its base.

    `base_key` is included if only a part of the U-Net is trained, since the checkpoint does not hold the rest.
    """
    keys = {"codec_key": frozen.vae.key, "encoder_key": frozen.text.key,
            "scaling_factor": frozen.vae.scaling_factor}  # fmt: skip
    return {**keys, **({"base_key": base_weights_key(module.network)} if is_partial(config) else {})}


def base_weights_key(unet: Any) -> str:
    """The `hash_weights` of a U-Net before its first step, whether adapters were added to its layers or not."""
    # PEFT wraps a layer with adapters and renames its weights. With the names undone, the key is that of the network as
    # `train.init` has it.
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in unet.state_dict().items()
               if ".lora_" not in name}  # fmt: skip
    return hash_weights(SimpleNamespace(state_dict=lambda: weights, config=unet.config))


def exported_folder(config: TrainConfig) -> str:
    """The folder of a checkpoint that holds what users load: `pipeline`, or `lora` where adapters are not fused."""
    return "lora" if config.lora and not config.lora.fuse else "pipeline"


def export_model(config: Config, frozen: FrozenModels, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the `exported_folder` of a checkpoint into its folder; see `export_pipeline`."""
    target = folder / exported_folder(config.train)
    if target.name == "pipeline":
        export_pipeline(config, frozen, weights, target)
    else:
        export_adapters(config.train, frozen, weights, target)


def export_adapters(config: TrainConfig, frozen: FrozenModels, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write trained adapters alone, as files that diffusers and other programs open."""
    _export_parts(config, frozen, weights, folder)


def export_pipeline(config: Config, frozen: FrozenModels, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write a pipeline folder that `DiffusionPipeline.from_pretrained` opens; needs no data set and no live module.

    If it has a text encoder or autoencoder of this package, it needs `trust_remote_code=True`: see `copy_custom_code`.

    Args:
        config: The run's configuration.
        frozen: The autoencoder and text encoder that `load_frozen` returns.
        weights: `{name in the denoiser: whole tensor}` of all trained parameters; the others are as at the start.
        folder: The folder to create; adapters are also written into its subfolder `lora`.

    Raises:
        ModelError: The weights belong to another network than `config.train` describes.
    """
    from diffusers import StableDiffusionPipeline

    if config.train.init and pipeline_class(config.train.init) in TEXT_PARTS:
        _export_beside_frozen(config.train, frozen, weights, folder)
        return
    parts = _export_parts(config.train, frozen, weights, folder / "lora")
    StableDiffusionPipeline(
        vae=frozen.vae.vae, unet=parts["unet"], text_encoder=parts.get(TEXT_ENCODER, frozen.text.model),
        tokenizer=frozen.text.tokenizer,
        # The safety checker is a classifier for photographs of more than a gigabyte, which emoji do not need.
        scheduler=Objective(config.train).scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    _forget_paths(folder)
    copy_custom_code(folder)


def _export_beside_frozen(
    config: TrainConfig, frozen: FrozenModels, weights: Mapping[str, Tensor], folder: Path
) -> None:
    """Write the trained network, and beside it the files of all other parts of `train.init`, scheduler included."""
    source = local_folder(resolve_checkpoint_pipeline(config.init or ""), ())
    index = read_json(source / MODEL_INDEX)
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0]]
    trained = _export_parts(config, frozen, weights, folder / "lora")
    # Text encoders of billions of weights are copied as files, and are never in memory.
    source = local_folder(resolve_checkpoint_pipeline(config.init or ""), tuple(parts))
    for part in parts:
        if part not in trained:
            shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
    for part, module in trained.items():
        module.save_pretrained(folder / part)
    (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n")
    _forget_paths(folder)


def _forget_paths(folder: Path) -> None:
    """Remove from a pipeline's settings where its parts were loaded from, a path of this machine."""
    for path in [folder / MODEL_INDEX, *folder.glob("*/config.json")]:
        settings = read_json(path)
        if settings.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _export_parts(
    config: TrainConfig, frozen: FrozenModels, weights: Mapping[str, Tensor], lora_folder: Path
) -> dict[str, Any]:
    encoders = _text_encoders_to_train(config, frozen)
    shape, width = frozen.vae.latent_shape, frozen.text.width
    parts = export_parts(config, shape, width, weights, text_encoders=encoders, lora_folder=lora_folder)
    if config.textual_inversion:
        learned = settle_words(encoders[TEXT_ENCODER], frozen.text.tokenizer)
        save_words(config.textual_inversion, learned, lora_folder.parent / "textual_inversion")
    return parts


def copy_custom_code(folder: Path) -> None:
    """Copy the source of this package's model classes beside the parts that need them.

    diffusers loads it if the user trusts remote code, so the pipeline opens where this package is not installed. The
    index then names the file instead of the module.
    """
    index = read_json(folder / MODEL_INDEX)
    for part, entry in index.items():
        if isinstance(entry, list) and str(entry[0]).startswith(f"{PACKAGE}."):
            # The index may name a module that merely imports the class; the source to copy is where it is defined.
            module = sys.modules[getattr(import_module(entry[0]), entry[1]).__module__]
            # diffusers looks for custom code in a file beside the part, so dots cannot stay.
            entry[0] = module.__name__.replace(".", "_")
            shutil.copyfile(str(module.__file__), folder / part / f"{entry[0]}.py")
    (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n")


def has_custom_code(folder: Path) -> bool:
    """Whether a pipeline needs `trust_remote_code=True`."""
    return any(folder.glob(f"*/{PACKAGE}_*.py"))
