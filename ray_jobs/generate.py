"""Draw over Ray: every (model, prompt, seed, settings) once, then a folder of PNG files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.checkpoint_resolver import (
    CACHE_FOLDER,
    adapter_folder,
    lora_key,
    model_key,
    resolve_checkpoint,
    training_data_versions,
)
from emoji_ldm.generate.output_folder import write_output_folder
from emoji_ldm.generate.png_metadata import describe_mode, provenance, to_png
from emoji_ldm.generate.request import CORE_FIELDS, GenerationRequest
from emoji_ldm.generate.request_planner import generated_id, plan_requests
from emoji_ldm.schemas import GENERATED
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime

NUM_CPUS = 0.5  # logical CPUs per sampler, which has one thread


def run(config: Config) -> dict[str, object]:
    """Draw what is not drawn yet and write the output folder; returns counts, rate and version for people.

    Raises:
        ConfigError: There is no prompt, or the output folder cannot be written.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources.
    """
    settings, store = config.generate, Store(config.store, config.branch)
    draws = plan_requests(settings)
    source, uri = resolve_checkpoint(config, store, CACHE_FOLDER, settings.checkpoint or "")
    key, table = _key(config, store, source), Table(store, GENERATED)
    wanted = {generated_id(key, draw, settings.batch_size, strict=settings.deterministic): draw for draw in draws}
    done = table.keys()
    pending = [name for name in wanted if name not in done]
    seconds = 0.0
    if pending:
        work = GenerateTask(uri, key, training_data_versions(store, uri), draws[0])
        seconds = _draw(config, _shards(pending, wanted, settings.rows_per_shard), work)
        table.refresh()
    sheet = write_output_folder(_output(config), _rows(table, list(wanted)))
    return {
        "images": len(wanted),
        "new": len(pending),
        **({"images/s": len(pending) / seconds} if pending else {}),
        "model": f"{uri} ({key})",
        "sheet": str(sheet),
        "version": table.version,
    }


@dataclass(frozen=True)
class GenerateTask:
    """What all draws of a run share."""

    uri: str  # of the model
    key: str  # of the model with its adapter
    versions: Mapping[str, int]  # of the data set that it learned from
    example: GenerationRequest  # a shard's rows differ from it in what the table has columns for


class GenerateWorker:
    """Actor: draws -> rows of `generated`."""

    def __init__(self, config: Config, work: GenerateTask) -> None:
        """Load the model; ModelError if it is another one than the driver planned for."""
        # torch is for workers; the driver needs none.
        from emoji_ldm.generate.offline_sampler import OfflineSampler
        from emoji_ldm.generate.pipeline_loader import load_model, sampling_device, with_lora

        settings, store = config.generate, Store(config.store)
        source, _ = resolve_checkpoint(config, store, CACHE_FOLDER, work.uri)
        model = load_model(source, sampling_device(settings.gpus_per_worker, strict=settings.deterministic))
        if settings.lora:
            model = with_lora(model, _adapters(settings.lora, store))
        if model.key != work.key:
            raise ModelError(f"model {work.uri} is another one on this node, or changed meanwhile; "
                             "run: emoji-ldm generate")  # fmt: skip
        self.work, self.sampler = (
            work,
            OfflineSampler(model, settings.batch_size, strict=settings.deterministic, many=True),
        )
        self.mode = describe_mode(settings.batch_size, strict=settings.deterministic)

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """Draw the pictures of a shard."""
        plans = rows.to_pylist()
        draws = [replace(self.work.example, **{name: plan[name] for name in CORE_FIELDS}) for plan in plans]
        pictures = self.sampler(draws)
        made = [self._row(*parts) for parts in zip(plans, draws, pictures, strict=True)]
        return delta_sink.ShardOutput(pa.Table.from_pylist(made, schema=GENERATED.schema), {"images": len(made)})

    def _row(self, plan: Mapping[str, Any], draw: GenerationRequest, pixels: Any) -> dict[str, Any]:
        png = to_png(pixels, draw, provenance(self.sampler.model, draw, self.mode, self.work.versions))
        return {**plan, "image": {"bytes": png, "path": f"{plan['generated_id']}.png"},
                "checkpoint": self.work.uri, "model_key": self.work.key}  # fmt: skip


def _draw(config: Config, shards: Sequence[delta_sink.WorkShard], work: GenerateTask) -> float:
    """Draw and commit shards; returns the seconds it took, loading the model included."""
    settings = config.generate
    num_workers = min(settings.num_workers, len(shards))
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "generate", num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
    )
    job = delta_sink.SinkJob(
        "generate", Store(config.store, config.branch), GENERATED, _read, GenerateWorker, (config, work),
        num_workers, NUM_CPUS, settings.gpus_per_worker,
    )  # fmt: skip
    began = time.monotonic()
    delta_sink.run(job, shards, Lineage(config, "generate", work.versions), unit="images")
    return time.monotonic() - began


def _shards(pending: Sequence[str], wanted: Mapping[str, GenerationRequest], size: int) -> list[delta_sink.WorkShard]:
    parts = [pending[start : start + size] for start in range(0, len(pending), size)]
    rows = ([{"generated_id": name, **{field: getattr(wanted[name], field) for field in CORE_FIELDS}} for name in part]
            for part in parts)  # fmt: skip
    return [
        delta_sink.WorkShard(key_of(part), {"draws": row}, len(part)) for part, row in zip(parts, rows, strict=True)
    ]


def _read(payload: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(payload["draws"])


def _key(config: Config, store: Store, source: Path | str) -> str:
    """Key of the model, with the adapter that the configuration adds."""
    key, lora = model_key(source), config.generate.lora
    return lora_key(key, _adapters(lora, store)) if lora else key


def _adapters(lora: str, store: Store) -> Path:
    return adapter_folder(store, CACHE_FOLDER, "generate.lora", lora)


def _rows(table: Table, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table in the order of `ids`."""
    rows = table.read_located(table.locate(ids), GENERATED.schema.names).to_pylist()
    by_id = {row["generated_id"]: row for row in rows}
    return [by_id[name] for name in ids]


def _output(config: Config) -> Path:
    folder = Path(config.generate.output or Path("runs", config.run, "generated")).expanduser()
    if folder.is_file():
        raise ConfigError(f"generate.output={folder} is a file; give a folder")
    return folder
