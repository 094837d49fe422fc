"""One pydantic model per stage; the docstring under each field is its help text.

A `Config` is made of, later ones winning: the defaults below, a preset or YAML
file, dotted overrides such as `train.lr=1e-4`. Unknown keys and bad values raise
`ConfigError` with the nearest right name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emoji_ldm.errors import ConfigError

PRESET_FOLDER = Path(__file__).parent / "presets"

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Width = Annotated[int, Field(gt=0, multiple_of=8)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Section(BaseModel):
    """A part of the configuration: closed to unknown keys, frozen once built."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True)


class CrawlConfig(Section):
    """Where emoji come from and how politely they are fetched."""

    site: str = ""
    """Address of the site, such as https://example.org. Required."""
    profile: str = "listing"
    """Name of a shipped crawl profile or path of a YAML file: URL pattern and selectors."""
    tags: tuple[str, ...] = ("Blobs", "Panda", "Cat", "Pepe")
    """Tags whose listing pages are walked."""
    max_pages: Positive = 1000
    """Pages to read per tag at most; a tag also ends at its first page without tiles."""
    num_browsers: Positive = 2
    """Headless browsers at work at once, over the whole cluster."""
    num_fetchers: Positive = 2
    """Actors that download and clean images at once, over the whole cluster."""
    host_concurrency: Positive = 8
    """Requests in flight per fetcher."""
    gap_s: Annotated[float, Field(ge=0)] = 0.0
    """Pause between two requests of one worker to a host; a longer Crawl-delay wins."""
    page_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Longest wait for the tiles of one page."""
    fetch_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Whole time one image may take, redirects and body included."""
    max_bytes: Positive = 5_000_000
    """Largest body of one image."""
    max_px: Positive = 4096
    """Longest side of an image that is still decoded."""
    size_px: Positive = 128
    """Longest side of the canonical picture; larger ones are scaled down, smaller ones kept."""
    rows_per_shard: Positive = 64
    """Image URLs per commit."""
    max_failed: Fraction = 0.5
    """Share of image URLs that may fail (dead, timed out) before the job itself fails."""
    user_agent: str = "emoji-ldm/0.1 (+https://github.com/emoji-ldm/emoji_ldm)"
    """How requests name themselves; put your own contact here."""


class CaptionConfig(Section):
    """Which engine writes captions, and how."""

    engine: Literal["metadata", "qwen2.5-vl"] = "metadata"
    """`metadata` builds the sentence from title, tags and measured colours; `qwen2.5-vl` looks."""
    model: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Folder or hub id of the vision-language model."""
    batch_size: Positive = 16
    """Images per `generate` call."""
    max_new_tokens: Positive = 128
    """Longest caption, in tokens."""
    num_workers: Positive = 2
    """Captioner actors."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per captioner actor."""
    size_px: Positive = 224
    """Side that the model sees: 224 px are 64 visual tokens."""
    rows_per_shard: Positive = 128
    """Captions per commit."""
    max_failed: Fraction = 0.2
    """Share of images that may end without a good caption before the job fails."""


class AutoencoderConfig(Section):
    """The own small RGBA autoencoder (diffusers `AutoencoderKL`, 4 channels in and out)."""

    size_px: Width = 64
    """Side of the training pictures."""
    latent_channels: Positive = 4
    """Channels of the latent."""
    block_out_channels: tuple[Width, ...] = (32, 64, 64)
    """Width per resolution; each further one halves the side."""
    layers_per_block: Positive = 1
    """Residual layers per resolution."""
    steps: Positive = 20000
    """Optimiser steps."""
    batch_size: Positive = 32
    """Pictures per step over all workers."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate (cosine to a tenth)."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the KL term against the L1 + gradient loss."""
    num_workers: Positive = 1
    """Ray Train workers."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of weights, order and noise."""


class LatentsConfig(Section):
    """How pictures and captions become the cached tensors that training reads."""

    codec: str = "own"
    """`own`: this run's autoencoder; else a folder or hub id of an AutoencoderKL."""
    text_encoder: str = "minilm"
    """`minilm`: the packaged all-MiniLM-L6-v2; else a folder or hub id of an encoder."""
    max_tokens: Positive = 32
    """Longest caption in tokens; longer ones are cut."""
    size_px: Width = 64
    """Side of the pictures that are encoded."""
    background: str = "white"
    """Colour behind transparent pixels for codecs without alpha."""
    batch_size: Positive = 64
    """Pictures or captions per forward pass."""
    num_workers: Positive = 2
    """Encoder actors."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per encoder actor."""
    rows_per_shard: Positive = 512
    """Rows per commit."""


class TrainConfig(Section):
    """Latent diffusion training: network, objective, schedule, sharding."""

    block_out_channels: tuple[Width, ...] = (128, 256, 256)
    """U-Net width per resolution."""
    layers_per_block: Positive = 2
    """Residual layers per resolution."""
    num_heads: Positive = 4
    """Attention heads per layer."""
    steps: Positive = 20000
    """Optimiser steps."""
    batch_size: Positive = 64
    """Latents per step over all workers."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up, then cosine to a tenth."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW weight decay."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    caption_drop: Fraction = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, warmed up as (1 + step) / (10 + step)."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, or the velocity, whose samples keep their colours after short training."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: 0 nothing, 1 optimiser, 2 + gradients, 3 + weights are sharded."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; master weights are fp32 either way."""
    num_workers: Positive = 1
    """Ray Train workers, one DeepSpeed rank each."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    keep: Positive = 2
    """Checkpoints kept, the newest ones."""
    log_every: Positive = 10
    """Steps between log lines."""
    sample_every: Annotated[int, Field(ge=0)] = 1000
    """Steps between sample grids; 0 draws none."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the sample grids; empty takes the first captions."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times a lost worker group is started again from the last checkpoint."""
    seed: int = 0
    """Seed of weights, data order, noise and drop-out."""


class GenerateConfig(Section):
    """What to draw and with which model."""

    prompts: tuple[str, ...] = ()
    """Prompts, each drawn `num_images` times."""
    prompts_file: str = ""
    """Text file with a prompt per line, added to `prompts`."""
    checkpoint: str = ""
    """Folder of a diffusers pipeline, or a checkpoint in the store; empty takes the run's newest."""
    num_images: Positive = 1
    """Images per prompt, with seeds `seed`, `seed` + 1, ..."""
    seed: Annotated[int, Field(ge=0)] = 0
    """First seed."""
    steps: Positive = 30
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 3.0
    """Classifier-free guidance; 1 turns it off."""
    negative_prompt: str = ""
    """What to steer away from."""
    batch_size: Positive = 8
    """Rows of the one padded batch shape; part of what makes a seed give the same pixels."""
    num_workers: Positive = 1
    """Sampler actors."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per sampler actor."""
    rows_per_shard: Positive = 32
    """Images per commit."""
    output: str = ""
    """Folder for PNG files and the contact sheet; empty means runs/<run>/generated."""


class ServeConfig(Section):
    """The HTTP service over the sampler."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 8000
    """Port; 0 takes a free one."""
    checkpoint: str = ""
    """As `generate.checkpoint`."""
    batch_size: Positive = 8
    """Images per forward pass."""
    batch_wait_s: Annotated[float, Field(ge=0)] = 0.02
    """Longest wait for a batch to fill."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas kept when idle."""
    max_replicas: Positive = 2
    """Replicas under load."""
    max_queued_requests: Positive = 200
    """Waiting requests before new ones are answered 503."""
    max_images: Positive = 10
    """Images per request at most."""
    max_steps: Positive = 200
    """Denoising steps per request at most."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per replica."""


class ClusterConfig(Section):
    """Which Ray cluster runs the jobs."""

    address: str = ""
    """Ray address such as `auto`; empty uses RAY_ADDRESS or starts a local Ray."""
    num_cpus: Positive = 8
    """Logical CPUs of a Ray started here."""
    object_store_mb: Positive = 512
    """Object store of a Ray started here, in MB."""
    place_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Wait for resources before the job says which one is missing."""


class Config(Section):
    """Everything a run depends on. Written into every commit and checkpoint."""

    run: Name = "default"
    """Name of the run: checkpoints and report carry it."""
    store: str = "data"
    """URI of the store: a folder, or s3://bucket/prefix."""
    crawl: CrawlConfig = CrawlConfig()
    caption: CaptionConfig = CaptionConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    latents: LatentsConfig = LatentsConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    serve: ServeConfig = ServeConfig()
    cluster: ClusterConfig = ClusterConfig()

    def to_json(self) -> str:
        """The resolved configuration as JSON, for commits and checkpoints."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def to_yaml(self) -> str:
        """The resolved configuration as YAML that `load` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def key_of(*parts: object) -> str:
    """A short stable key (16 hex digits) of JSON-able parts: equal parts, equal key."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Build a `Config` from defaults, a preset name or YAML file, and overrides.

    Raises:
        ConfigError: The preset or file is missing or not YAML, an override is not
            `section.field=value`, or a key or value is refused.
    """
    values = _read(source) if source else {}
    for override in overrides:
        _apply(values, override)
    return build(values, where=source or "overrides")


def build(values: dict[str, Any], *, where: str) -> Config:
    """Validate plain values; `where` names their origin in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(error, where))) from None


def _read(source: str) -> dict[str, Any]:
    path = PRESET_FOLDER / f"{source}.yaml"
    if not path.is_file():
        path = Path(source)
    if not path.is_file():
        known = ", ".join(preset_names())
        raise ConfigError(f"no preset or file {source!r}{_hint(source, preset_names())} (presets: {known})")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping; expected sections such as `train:`")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} has no value; write it as section.field=value, such as train.lr=1e-4")
    *sections, field = key.strip().split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    place[field] = _parse(text)


def _parse(text: str) -> Any:
    """A YAML scalar or list; `1e-4`, which YAML takes for text, becomes a number in pydantic."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def _explain(error: ValidationError, where: str) -> Iterator[str]:
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        dotted = ".".join(location)
        if problem["type"] == "extra_forbidden":
            yield f"{where}: unknown key {dotted!r}{_nearest(location)}"
        else:
            yield f"{where}: {dotted}={problem['input']!r} is refused: {problem['msg']}"


def _nearest(location: list[str]) -> str:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    return _hint(location[-1], list(model.model_fields)) or f" (known: {', '.join(model.model_fields)})"


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
