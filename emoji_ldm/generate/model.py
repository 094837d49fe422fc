"""A model folder, made ready to draw: any diffusers StableDiffusionPipeline folder, own or foreign."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.latents.codec import Codec, load_codec
from emoji_ldm.latents.text import TextEncoder, load_text_encoder
from emoji_ldm.latents.weights import STAMPS
from emoji_ldm.store import Store

INDEX = "model_index.json"  # what makes a folder a pipeline
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Model:
    """Everything a sampler needs; may also be put together by hand, as training does for its samples."""

    unet: UNet2DConditionModel  # evaluation mode, float32
    codec: Codec
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
        device: torch.device = self.unet.device
        return device

    def encode(self, prompt: str) -> Tensor:
        """States `(1, max_tokens, width)` float32 of a prompt, as the pipeline's own `encode_prompt` gives them."""
        return self.text.pad(self.text.encode([prompt]), self.max_tokens).to(self.device)


def load_model(folder: Path | str, device: str | None = None) -> Model:
    """Load a pipeline folder or hub id.

    Args:
        folder: A folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler, or a hub id.
        device: Torch device; None takes the GPU if there is one.

    Raises:
        ModelError: The folder is not such a pipeline, or a part cannot be loaded.
    """
    folder = _local(folder)
    _check_parts(folder)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval().requires_grad_(False).to(where)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load {folder / 'unet'}: {_line(error)}; is it a UNet2DConditionModel?") from None
    vae = _json(folder / "vae" / "config.json")
    _check_fit(folder, unet.config, vae)
    max_tokens = int(_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77))
    side = unet.config.sample_size * 2 ** (len(vae["block_out_channels"]) - 1)
    return Model(
        unet,
        load_codec(folder / "vae", size_px=side, background="white", device=where),
        load_text_encoder(str(folder), max_tokens=max_tokens, device=where),
        _json(folder / "scheduler" / "scheduler_config.json"),
        max_tokens,
        model_key(folder),
    )


def sampling_device(num_gpus: float) -> str:
    """Torch device of a process that only samples, which is prepared so that processes agree to the last bit.

    On CPUs kernels split their sums by the number of threads: one thread per sampler makes pixels
    independent of the node's cores. More samplers, not more threads, use more cores.
    """
    if num_gpus:
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def model_key(folder: Path | str) -> str:
    """Key of all that decides a seed's pixels, from a pipeline's files alone: weights, settings, vocabulary, noise."""
    folder = _local(folder)
    _check_parts(folder)
    facts: list[object] = []
    for path in sorted(path for part in PARTS for path in (folder / part).iterdir()):
        if path.name in ("config.json", "scheduler_config.json"):
            settings = _json(path)
            facts.append({name: settings[name] for name in settings if name[0] != "_" and name not in STAMPS})
        elif path.suffix in (".safetensors", ".txt") or path.name in ("tokenizer.json", "vocab.json"):
            with path.open("rb") as stream:
                facts.append([path.parent.name, path.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return key_of(*facts)


def resolve_checkpoint(config: Config, store: Store, cache: Path, checkpoint: str) -> tuple[Path | str, str]:
    """Find a model: the folder or hub id to load, and the URI that names it (which resolves to the same again).

    Args:
        config: Its `run` gives the newest checkpoint where `checkpoint` is empty.
        store: Where checkpoints lie.
        cache: Local folder for files of a store that is not local.
        checkpoint: "", a local folder (a pipeline or a checkpoint of ours), a path or URI in the store, a hub id.

    Raises:
        ModelError: Nothing of that name is there, or the run has no checkpoint yet.
    """
    if not checkpoint:
        newest = checkpoints.newest(store, config.run, "unet")
        return newest.fetch(cache, "pipeline"), newest.uri
    path = checkpoint.removeprefix(store.uri).strip("/")
    if store.exists(path, checkpoints.MANIFEST):
        found = checkpoints.Checkpoint(store, path, 0)
        return found.fetch(cache, "pipeline"), found.uri
    for folder in (Path(checkpoint).expanduser(), Path(checkpoint).expanduser() / "pipeline"):
        if (folder / INDEX).is_file():
            return folder.absolute(), str(folder.absolute())
    if store.exists(path, INDEX):
        store.download(cache / path, path)
        return cache / path, f"{store.uri}/{path}"
    if HUB_ID.fullmatch(checkpoint) and not Path(checkpoint).exists():
        return checkpoint, checkpoint
    raise ModelError(
        f"checkpoint {checkpoint!r} is neither a pipeline folder (with {INDEX}), nor a checkpoint in {store.uri}, "
        "nor a hub id; leave it empty to take the run's newest"
    )


def _local(source: Path | str) -> Path:
    """The folder itself, or the local copy of a hub id."""
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or not HUB_ID.fullmatch(source):
        raise ModelError(f"there is no model folder {source}; name a diffusers pipeline folder or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [INDEX, *(f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt", "safetensors"))]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"there is no folder {source!r}, and the hub does not give a model of that name: {_line(error)}"
        ) from None


def _check_parts(folder: Path) -> None:
    missing = [name for name in (INDEX, *PARTS) if not (folder / name).exists()]
    if missing:
        raise ModelError(
            f"{folder} is not a StableDiffusionPipeline folder: {', '.join(missing)} missing; "
            "name a folder written by save_pretrained, or a checkpoint's pipeline folder"
        )


def _check_fit(folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """A pipeline for inpainting, upscaling or distilled guidance has the same parts but another task."""
    if unet["in_channels"] != vae["latent_channels"] or not isinstance(unet["sample_size"], int):
        raise ModelError(f"{folder}: the U-Net takes {unet['in_channels']} channels of side {unet['sample_size']}, "
                         f"the autoencoder gives {vae['latent_channels']}; only text-to-image models work")  # fmt: skip
    if unet.get("time_cond_proj_dim") is not None or unet.get("addition_embed_type") is not None:
        raise ModelError(f"{folder}: the U-Net wants more than timestep and prompt (LCM or SDXL); use a plain one")


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
