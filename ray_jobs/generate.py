"""Draw over Ray: every (model, prompt, seed, settings) once, then a folder of PNG files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from emoji_ldm.config import Config, key_of
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.pack import write_pack
from emoji_ldm.generate.plan import generated_id, wanted_draws
from emoji_ldm.generate.post import to_png
from emoji_ldm.generate.source import CACHE, model_key, resolve_checkpoint
from emoji_ldm.records import GENERATED
from emoji_ldm.store import Store
from ray_jobs import cluster, sink

NUM_CPUS = 0.5  # logical CPUs per sampler, which has one thread


def run(config: Config) -> dict[str, object]:
    """Draw what is not drawn yet and write the output folder; returns counts, rate and version for people.

    Raises:
        ConfigError: There is no prompt, or the output folder cannot be written.
        ModelError: There is no such model.
        JobError: The cluster lacks the resources.
    """
    draws, store = wanted_draws(config.generate), Store(config.store, config.branch)
    source, uri = resolve_checkpoint(config, store, CACHE, config.generate.checkpoint)
    key, table = model_key(source), Table(store, GENERATED)
    wanted = {generated_id(key, draw, config.generate.batch_size): draw for draw in draws}
    done = table.keys()
    pending = [name for name in wanted if name not in done]
    versions, seconds = _versions(store, uri), 0.0
    if pending:
        seconds = _draw(config, _shards(pending, wanted, config.generate.rows_per_shard), (uri, key, versions))
        table.refresh()
    sheet = write_pack(_output(config), _rows(table, list(wanted)))
    return {
        "images": len(wanted),
        "new": len(pending),
        **({"images/s": len(pending) / seconds} if pending else {}),
        "model": f"{uri} ({key})",
        "sheet": str(sheet),
        "version": table.version,
    }


class Drawer:
    """Actor: draws -> rows of `generated`."""

    def __init__(self, config: Config, uri: str, key: str, versions: Mapping[str, int]) -> None:
        """Load the model; ModelError if it is another one than the driver planned for."""
        # torch is for workers; the driver needs none.
        from emoji_ldm.generate.model import load_model, sampling_device
        from emoji_ldm.generate.sampler import Sampler

        settings = config.generate
        source, _ = resolve_checkpoint(config, Store(config.store), CACHE, uri)
        model = load_model(source, sampling_device(settings.num_gpus))
        if model.key != key:
            raise ModelError(f"model {uri} is another one on this node, or changed meanwhile; run: emoji-ldm generate")
        self.sampler, self.uri = Sampler(model, settings.batch_size), uri
        self.facts = {"model_key": key, **{f"dataset_{table}": str(version) for table, version in versions.items()}}

    def __call__(self, rows: pa.Table) -> sink.Output:
        """Draw the pictures of a shard."""
        plans = rows.to_pylist()
        draws = [Draw(**{name: plan[name] for name in Draw.__dataclass_fields__}) for plan in plans]
        pictures = self.sampler(draws)
        made = [
            {**plan, "image": {"bytes": to_png(pixels, draw, self.facts), "path": f"{plan['generated_id']}.png"},
             "checkpoint": self.uri, "model_key": self.facts["model_key"]}
            for plan, draw, pixels in zip(plans, draws, pictures, strict=True)
        ]  # fmt: skip
        return sink.Output(pa.Table.from_pylist(made, schema=GENERATED.schema), {"images": len(made)})


def _draw(config: Config, shards: Sequence[sink.Shard], model: tuple[str, str, dict[str, int]]) -> float:
    """Draw and commit shards; returns the seconds it took, loading the model included."""
    settings = config.generate
    num_workers = min(settings.num_workers, len(shards))
    cluster.connect(config.cluster)
    cluster.require(config.cluster, "generate", num_workers, num_cpus=NUM_CPUS, num_gpus=settings.num_gpus)
    job = sink.Job(
        "generate", Store(config.store, config.branch), GENERATED, _read, Drawer, (config, *model),
        num_workers, NUM_CPUS, settings.num_gpus,
    )  # fmt: skip
    began = time.monotonic()
    sink.run(job, shards, Lineage(config, "generate", model[2]), unit="images")
    return time.monotonic() - began


def _shards(pending: Sequence[str], wanted: Mapping[str, Draw], size: int) -> list[sink.Shard]:
    parts = [pending[start : start + size] for start in range(0, len(pending), size)]
    rows = ([{"generated_id": name, **asdict(wanted[name])} for name in part] for part in parts)
    return [sink.Shard(key_of(part), {"draws": row}, len(part)) for part, row in zip(parts, rows, strict=True)]


def _read(payload: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(payload["draws"])


def _rows(table: Table, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table in the order of `ids`."""
    rows = table.read_located(table.locate(ids), GENERATED.schema.names).to_pylist()
    by_id = {row["generated_id"]: row for row in rows}
    return [by_id[name] for name in ids]


def _versions(store: Store, uri: str) -> dict[str, int]:
    """Versions of the tables that the model learned from, where its checkpoint tells."""
    path = uri.removeprefix(store.uri).strip("/")
    if not uri.startswith(store.uri) or not store.exists(path, checkpoints.MANIFEST):
        return {}
    return dict(checkpoints.Checkpoint(store, path, 0).manifest().get("versions", {}))


def _output(config: Config) -> Path:
    folder = Path(config.generate.output or Path("runs", config.run, "generated")).expanduser()
    if folder.is_file():
        raise ConfigError(f"generate.output={folder} is a file; give a folder")
    return folder
