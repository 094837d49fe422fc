"""Generate over Ray: every (model, prompt, seed, settings) is drawn once, then written to a folder of PNG files.

An image's id is a hash of everything that decides its pixels. Ids that the table `generated` holds already are not
drawn again, whichever run drew them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.checkpoint_resolver import (
    CACHE_FOLDER,
    lora_key,
    model_key,
    resolve_checkpoint,
    training_data_versions,
)
from emoji_ldm.generate.output_folder import write_output_folder
from emoji_ldm.generate.prompt_text import prompt_warnings
from emoji_ldm.generate.request import CORE_FIELDS, GenerationRequest, generated_id, plan_requests
from emoji_ldm.latents.pipeline_source import local_folder
from emoji_ldm.progress import print_status
from emoji_ldm.schemas import GENERATED
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime
from ray_jobs.workers.generate_worker import GenerateTask, GenerateWorker, lora_folder

# Logical CPUs per sampler. A sampler on a GPU has one busy thread, which mostly waits for kernels.
NUM_CPUS = 0.5


@dataclass(frozen=True)
class DrawnImages:
    """The images that a configuration asks for, all of them in the table."""

    table: Table
    ids: list[str]  # in the order of the requests
    requests: list[GenerationRequest]
    num_new: int  # drawn now; the others were in the table
    seconds: float  # that these took, loading the model included
    uri: str  # of the model
    key: str  # of the model with its adapter

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table, in the order of the requests."""
        rows = self.table.read_located(self.table.locate(self.ids), GENERATED.schema.names).to_pylist()
        by_id = {row["generated_id"]: row for row in rows}
        # Parquet files return rows in the order of commits.
        return [by_id[name] for name in self.ids]


def run(config: Config) -> dict[str, object]:
    """Draw what is not drawn yet and write the output folder; returns counts, rate and version for the summary.

    Raises:
        ConfigError: There is no prompt, or the output folder cannot be written.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources.
    """
    drawn = draw(config)
    # The folder is written from the table in every case, so that a run with nothing to draw restores files that were
    # deleted.
    sheet = write_output_folder(_output(config), drawn.rows())
    return {
        "images": len(drawn.ids),
        "new": drawn.num_new,
        **({"images/s": drawn.num_new / drawn.seconds} if drawn.num_new else {}),
        "model": f"{drawn.uri} ({drawn.key})",
        "sheet": str(sheet),
        "version": drawn.table.version,
    }


def draw(config: Config) -> DrawnImages:
    """Draw and commit what is not in the table yet; errors are those of `run`, without the output folder."""
    settings, store = config.generate, Store(config.store, config.branch)
    requests = plan_requests(settings)
    # Resolved once, in the driver. Workers get the resolved URI: `latest` could mean another checkpoint by the time
    # they start.
    source, uri = resolve_checkpoint(config, store, CACHE_FOLDER, settings.checkpoint or "")
    for line in prompt_warnings((request.prompt for request in requests), local_folder(source)):
        print_status(line)
    key, table = _key(config, store, source), Table(store, GENERATED)
    # The id covers the batch size too, since kernels are chosen by shape and the last bits of an image depend on them.
    # A dict merges requests that are equal, which would otherwise be drawn twice.
    by_id = {
        generated_id(key, request, settings.batch_size, deterministic=settings.deterministic): request
        for request in requests
    }
    done = table.keys()
    pending = [name for name in by_id if name not in done]
    seconds = 0.0
    if pending:
        # Only the core fields differ between the requests of a run. All others, such as size and adapter, are those of
        # the first one, so they are sent once and not with each shard.
        task = GenerateTask(uri, key, training_data_versions(store, uri), requests[0])
        seconds = _draw(config, _shards(pending, by_id, settings.rows_per_shard), task)
        # The workers' commits are newer than the version that this table was opened with.
        table.refresh()
    return DrawnImages(table, list(by_id), list(by_id.values()), len(pending), seconds, uri, key)


def _draw(config: Config, shards: Sequence[delta_sink.WorkShard], task: GenerateTask) -> float:
    """Draw and commit shards; returns the seconds that this took, loading the model included."""
    settings = config.generate
    # More actors than shards would load a model and then have nothing to do.
    num_workers = min(settings.num_workers, len(shards))
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "generate", num_workers, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker
    )
    job = delta_sink.SinkJob(
        "generate", Store(config.store, config.branch), GENERATED, _read, GenerateWorker, (config, task),
        num_workers, NUM_CPUS, settings.gpus_per_worker,
    )  # fmt: skip
    began = time.monotonic()
    delta_sink.run(
        job, shards, Lineage(RunInfo(config.run, config.to_json()), "generate", task.versions), unit="images"
    )
    return time.monotonic() - began


def _shards(pending: Sequence[str], by_id: Mapping[str, GenerationRequest], size: int) -> list[delta_sink.WorkShard]:
    parts = [pending[start : start + size] for start in range(0, len(pending), size)]
    rows = ([{"generated_id": name, **{field: getattr(by_id[name], field) for field in CORE_FIELDS}} for name in part]
            for part in parts)  # fmt: skip
    return [
        delta_sink.WorkShard(key_of(part), {"requests": row}, len(part)) for part, row in zip(parts, rows, strict=True)
    ]


def _read(payload: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(payload["requests"])


def _key(config: Config, store: Store, source: Path | str) -> str:
    """Return the key of the model, or of the model with the adapter of `generate.lora`."""
    key, lora = model_key(source), config.generate.lora
    return lora_key(key, lora_folder(lora, store)) if lora else key


def _output(config: Config) -> Path:
    folder = Path(config.generate.output or Path("runs", config.run, "generated")).expanduser()
    if folder.is_file():
        raise ConfigError(f"generate.output={folder} is a file; give a folder")
    return folder
