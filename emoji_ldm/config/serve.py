"""Configuration of the service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from emoji_ldm.config.base import Identifier, Positive, Section


class ServeConfig(Section):
    """The HTTP service over the engine."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens it to the network."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 8000
    """Port; 0 takes a free one."""
    checkpoint: str | None = None
    """Folder of a diffusers pipeline, a checkpoint in the store, or alias:NAME (`emoji-ldm train --alias NAME`);
    null takes the run's newest. Requests call it by the run's name."""
    models: dict[Identifier, str] = {}
    """More models, by name: each with its own pool of replicas; values as `checkpoint`."""
    loras: dict[str, str] = {}
    """LoRA adapters, by the name that requests use: a folder with pytorch_lora_weights.safetensors. The default model
    takes all of them, others those that fit."""
    reload_s: Annotated[float, Field(gt=0)] | None = None
    """How often replicas look whether `checkpoint` means other weights now (a newer one, a moved tag); null never."""
    deterministic: bool = True
    """Same seed, same pixels: all forward passes have one shape. Else they follow the load: quicker, last bits vary."""
    batch_size: Positive = 8
    """Images per forward pass at most; part of what makes a seed give the same pixels."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas per model kept when idle; 0 lets a model sleep."""
    max_replicas: Positive = 2
    """Replicas per model under load."""
    target_wait_s: Annotated[float, Field(gt=0)] = 5.0
    """More replicas are started while the work in the queues would take longer than this."""
    max_queued: Positive = 200
    """Images that may wait in a replica before new ones are answered 503."""
    max_images: Positive = 10
    """Images per request at most."""
    max_steps: Positive = 200
    """Denoising steps per image at most."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest that a request may take; replays after a replica's death included."""
    keys: str | None = None
    """File with the hashes of bearer keys (`emoji-ldm keys add NAME` makes it); null lets everybody in."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the service; none by default."""
    log_prompts: bool = False
    """Write prompts into the log's line of a request."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per replica."""
