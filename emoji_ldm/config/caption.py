"""Section `caption`: the engine that writes captions, and its settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emoji_ldm.config.base import Fraction, Positive, Section


class CaptionConfig(Section):
    """Which engine writes captions, and how."""

    engine: Literal["metadata", "qwen2.5-vl", "vllm"] = "metadata"
    """`metadata` builds the sentence from title, tags and measured colours; the others run Qwen2.5-VL (`model`),
    `qwen2.5-vl` through transformers, `vllm` through vLLM (`pip install 'emoji-ldm[vllm]'`, a GPU per worker)."""
    model: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Folder or hub id of the vision-language model."""
    batch_size: Positive = 16
    """Images that the model works on at once; vLLM is fastest with 128 or more."""
    max_new_tokens: Positive = 128
    """Longest caption, in tokens."""
    num_captions: Positive = 1
    """Captions per image; the first is decoded greedily, further ones are sampled."""
    # The bound follows `engine_protocol.TEMPERATURES`: one temperature for the first answer and one for each retry.
    max_retries: Annotated[int, Field(ge=0, le=2)] = 2
    """Further attempts, at a higher temperature, for a caption that fails validation."""
    retry: Literal["failed"] | None = None
    """`failed` makes captions that failed in an earlier run again; the new rows replace the failed ones."""
    overrides: str | None = None
    """CSV file of captions by people, with columns image_id (or source_url) and caption; they win over every engine."""
    num_workers: Positive = 2
    """Captioning actors."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs per captioning actor; 1 is best for a model that fits on one GPU."""
    # This is no `Width`: the side has to be a multiple of the model's visual cell, which only its processor knows.
    size_px: Positive = 224
    """Side of the image that the model gets: 224 px are 64 visual tokens."""
    rows_per_shard: Positive = 128
    """Captions per commit."""
    max_failed_fraction: Fraction = 0.2
    """Share of images that may remain without a caption before the job fails."""
