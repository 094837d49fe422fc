"""The actor of generation: one model, which draws the requests of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from emoji_ldm.config import Config
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import CACHE_FOLDER, adapter_folder, resolve_checkpoint
from emoji_ldm.generate.png_metadata import describe_mode, provenance, to_png
from emoji_ldm.generate.request import CORE_FIELDS, GenerationRequest
from emoji_ldm.schemas import GENERATED
from emoji_ldm.store import Store
from ray_jobs.execution.delta_sink import ShardOutput


@dataclass(frozen=True)
class GenerateTask:
    """What all requests of a run share."""

    uri: str  # of the model
    key: str  # of the model with its adapter
    versions: Mapping[str, int]  # of the tables that the model was trained on
    example: GenerationRequest  # rows of a shard replace its fields that the table has columns for


class GenerateWorker:
    """Actor: requests -> rows of `generated`."""

    def __init__(self, config: Config, task: GenerateTask) -> None:
        """Load the model; ModelError if it is another one than the driver planned for."""
        # Only workers import torch; the driver needs none.
        from emoji_ldm.generate.offline_sampler import OfflineSampler
        from emoji_ldm.generate.pipeline_loader import load_model, sampling_device, with_lora

        settings, store = config.generate, Store(config.store)
        source, _ = resolve_checkpoint(config, store, CACHE_FOLDER, task.uri)
        model = load_model(source, sampling_device(settings.gpus_per_worker, deterministic=settings.deterministic))
        if settings.lora:
            model = with_lora(model, lora_folder(settings.lora, store))
        # The path may lead to other files on this node, or to newer ones than the driver saw.
        if model.key != task.key:
            raise ModelError(f"model {task.uri} is another one on this node, or changed meanwhile; "
                             "run: emoji-ldm generate")  # fmt: skip
        # The warm-up runs here, so that the first shard does not look slower than it is.
        self.task, self.sampler = (
            task,
            OfflineSampler(model, settings.batch_size, deterministic=settings.deterministic, warmup=True),
        )
        self.mode = describe_mode(settings.batch_size, deterministic=settings.deterministic)

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Draw the images of a shard."""
        planned = rows.to_pylist()
        # Rows have the fields that differ between requests; the example supplies all others, see `GenerateTask`.
        requests = [replace(self.task.example, **{name: row[name] for name in CORE_FIELDS}) for row in planned]
        images = self.sampler(requests)
        made = [self._row(*parts) for parts in zip(planned, requests, images, strict=True)]
        return ShardOutput(pa.Table.from_pylist(made, schema=GENERATED.schema), {"images": len(made)})

    def _row(self, row: Mapping[str, Any], request: GenerationRequest, pixels: Any) -> dict[str, Any]:
        # The PNG states how it was generated, so that a single file from the folder can be made again without the
        # table.
        png = to_png(pixels, request, provenance(self.sampler.model, request, self.mode, self.task.versions))
        return {**row, "image": {"bytes": png, "path": f"{row['generated_id']}.png"},
                "checkpoint": self.task.uri, "model_key": self.task.key}  # fmt: skip


def lora_folder(lora: str, store: Store) -> Path:
    """Return the local folder of the adapter that `generate.lora` names."""
    return adapter_folder(store, CACHE_FOLDER, "generate.lora", lora)
