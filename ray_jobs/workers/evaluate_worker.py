"""What evaluation does on the cluster: measure shards of pictures, embed names, and time a model."""

from __future__ import annotations

import base64
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emoji_ldm.config import Config, EvaluateConfig
from emoji_ldm.dataset.table import Table
from emoji_ldm.evaluate.measures import measure_pictures
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store
from ray_jobs.workers.generate_worker import GenerateTask, GenerateWorker

MAX_NAME_TOKENS = 32
TEXT_BATCH = 64


@dataclass(frozen=True)
class PictureShard:
    """Pictures of a table, or files of the driver's machine."""

    prompts: Mapping[str, str]  # {name: prompt}, in order; "" where there is none
    table: str = ""
    located: Mapping[str, Sequence[str]] | None = None  # {file of the table: keys}
    files: Mapping[str, bytes] | None = None  # {name: PNG}
    legibility: bool = True  # whether pictures are also measured at 32 px

    def to_json(self) -> str:
        """Return the shard as text, as Ray Data carries it."""
        files = {name: base64.b64encode(data).decode() for name, data in (self.files or {}).items()}
        return json.dumps({
            "prompts": self.prompts, "table": self.table, "located": self.located, "files": files,
            "legibility": self.legibility,
        })  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> PictureShard:
        """Read back what `to_json` wrote."""
        values = json.loads(text)
        files = {name: base64.b64decode(data) for name, data in values["files"].items()}
        return cls(**{**values, "files": files or None})

    def read(self, store: Store) -> dict[str, bytes]:
        """Return {name: PNG}."""
        if self.files is not None:
            return dict(self.files)
        spec = TABLES[self.table]
        rows = Table(store, spec).read_located(self.located or {}, [spec.key, "image"]).to_pylist()
        return {row[spec.key]: row["image"]["bytes"] for row in rows}


class MeasureWorker:
    """Actor: shards of pictures -> rows of measures."""

    def __init__(self, store: Store, settings: EvaluateConfig) -> None:
        """Load the networks; ModelError if one is missing."""
        from emoji_ldm.evaluate.metrics.clip_score import ClipModel
        from emoji_ldm.evaluate.metrics.features import FeatureExtractor

        device = "cuda" if settings.gpus_per_worker else "cpu"
        self.store, self.settings = store, settings
        self.extract = FeatureExtractor(device)
        self.clip = ClipModel(settings.clip, device) if settings.clip else None

    def __call__(self, shard: PictureShard) -> pa.Table:
        """Measure the pictures of a shard."""
        files = shard.read(self.store)
        names = list(shard.prompts)
        # CLIP judges pictures against prompts; real pictures come without one.
        prompted = self.clip if all(shard.prompts.values()) else None
        return measure_pictures(
            names, [files[name] for name in names], list(shard.prompts.values()),
            size_px=self.settings.size_px, extract=self.extract, clip=prompted,
            legibility=shard.legibility,
        )  # fmt: skip


def embed_names(names: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings `(N, 384)` of length 1 by the packaged all-MiniLM-L6-v2; ModelError if it is missing."""
    from emoji_ldm.evaluate.metrics.alignment import unit_rows
    from emoji_ldm.latents.text_encoder import load_text_encoder

    encoder = load_text_encoder("minilm", max_tokens=MAX_NAME_TOKENS, device="cpu")
    parts = [names[start : start + TEXT_BATCH] for start in range(0, len(names), TEXT_BATCH)]
    # The mean of the token states is the embedding that this encoder was trained for.
    return unit_rows(np.stack([states.mean(0) for part in parts for states in encoder.encode(part)]))


def measure_cost(config: Config, task: GenerateTask) -> dict[str, float]:
    """Seconds per image and peak memory in MB of a model that draws one full batch, in a process of its own."""
    import torch

    # Loads the model as generation does, adapter included, and pays for what happens once, such as warming up.
    sampler = GenerateWorker(config, task).sampler
    requests = [replace(task.example, seed=seed) for seed in range(config.generate.batch_size)]
    began = time.perf_counter()
    sampler(requests)
    seconds = (time.perf_counter() - began) / len(requests)
    if config.generate.gpus_per_worker:
        return {"seconds_per_image": seconds, "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20}
    # Linux counts in kilobytes, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"seconds_per_image": seconds, "peak_memory_mb": peak}


def to_ipc(table: pa.Table) -> bytes:
    """Return a table as bytes, as rows of Ray Data hold it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_ipc(data: Any) -> pa.Table:
    """Return the table that `to_ipc` packed."""
    return pa.ipc.open_stream(data).read_all()
