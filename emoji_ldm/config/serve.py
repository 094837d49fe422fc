"""Section `serve`: address, models, limits and replicas of the HTTP service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.base import Identifier, Positive, Section


class ServeConfig(Section):
    """The HTTP service."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 8000
    """Port; 0 takes a free one."""
    checkpoint: str | None = None
    """Folder of a diffusers pipeline, a checkpoint in the store, or alias:NAME (`emoji-ldm train --alias NAME`);
    null takes the run's newest. Requests name this model by the run's name."""
    models: dict[Identifier, str] = {}
    """More models, {name: checkpoint}, each with replicas of its own; values as of `checkpoint`."""
    loras: dict[str, str] = {}
    """LoRA adapters, {name in requests: folder with pytorch_lora_weights.safetensors}. The default model loads all of
    them, the others those that fit."""
    max_loaded: Positive = 2
    """Weights that a replica keeps beside its model: checkpoints that were registered while it ran, and mixes of
    adapters; beyond that, those asked for longest ago are forgotten, except pinned ones."""
    reload_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds between checks whether `checkpoint` means other weights now (a newer one, a moved alias); null: never."""
    deterministic: bool = True
    """Same seed, same pixels: all forward passes have one shape. Else shapes follow the load: faster, bits vary."""
    batch_size: Positive = 8
    """Largest number of images per forward pass; equal pixels for equal seeds require an equal batch size."""
    min_replicas: Annotated[int, Field(ge=0)] | None = None
    """Replicas per model when idle; 0 scales an idle model to zero. null is two, so that one answers while the other is
    replaced, where cores and GPUs suffice, else one."""
    max_replicas: Positive = 2
    """Largest number of replicas per model."""
    max_replicas_per_node: Positive | None = None
    """Largest number of replicas per model on one node; with 1, a lost or drained node never takes two. null: any."""
    target_wait_s: Annotated[float, Field(gt=0)] = 5.0
    """Replicas are added while the queued work would take longer than this, in seconds."""
    max_queued: Positive = 200
    """Images that may wait in a replica before further requests get status 503."""
    max_images: Positive = 10
    """Largest number of images per request."""
    max_steps: Positive = 200
    """Largest number of denoising steps per image."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest time that a request may take, in seconds, replays after the loss of a replica included."""
    keys: str | None = None
    """File with hashes of API keys, made by `emoji-ldm keys add NAME`; null admits requests without one."""
    anonymous: bool = False
    """Admit requests without a key also from other machines: needed where `host` is not this machine alone."""
    hosts: tuple[str, ...] = ()
    """Names that requests may call the service by, such as draw.example.org or *.example.org; addresses always work.
    Without any: `localhost` and `host` where there are no keys, all names where there are."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that webhooks of bulk jobs may call at private addresses, and by http; all others need https."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the service; none by default."""
    # Prompts may be personal, so they are logged only where somebody has decided so.
    log_prompts: bool = False
    """Whether the access log contains prompts."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per replica."""
