"""How busy the caption pipeline keeps an engine of known speed: real Ray, real images, the real processor.

The engine prepares its batches as Qwen2.5-VL does (prompts, PNG decoding, resizing, patches); its model only sleeps.
The figure is the time in the model over the time from its second batch to its last one.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from emoji_ldm.caption.engine_protocol import CaptionRequest, EngineAnswer
from emoji_ldm.caption.qwen import QwenEngine, load_processor
from emoji_ldm.config import CaptionConfig, key_of, load
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from ray_jobs import caption
from tests.emoji_images import blobs, image_rows
from tests.fake_caption_engines import caption_for
from tests.tiny_qwen import write_qwen

IMAGES_PER_S = 40.0
ROWS_PER_SHARD = 128
BATCH_SIZE = 16
INVALID_EVERY = 20  # one of so many answers fails validation


class TimedEngine(QwenEngine):
    """Prepares like Qwen2.5-VL, then sleeps for as long as a GPU would take, and logs when."""

    def __init__(self, log: Path, ahead: bool, config: CaptionConfig) -> None:
        """Load the processor only; without `ahead` the model waits for the preparation, as in a plain loop."""
        self.batch_size, self.size_px = config.batch_size, config.size_px
        self.processor, self.ahead = load_processor(config), ahead
        self.log = log / str(os.getpid())

    def prepare(self, requests: Sequence[CaptionRequest]) -> Any:
        """The requests, after the work of preparing model inputs."""
        if self.ahead:
            super().prepare(requests)
        return requests

    def answer(self, prepared: Any) -> list[EngineAnswer]:
        """Answers after the time of a full batch, however many requests there are."""
        if not self.ahead:
            super().prepare(prepared)
        start = time.monotonic()
        time.sleep(BATCH_SIZE / IMAGES_PER_S)
        with self.log.open("a") as file:
            print(start, time.monotonic(), file=file)
        return [EngineAnswer("" if request.seed % INVALID_EVERY == 0 else caption_for(request)) for request in prepared]


def run(*, quick: bool) -> dict[str, Any]:
    """Median share of the time in the model, and one run without preparing ahead for comparison."""
    shards, runs = (3, 1) if quick else (6, 3)
    ahead = [measured(shards, ahead=True) for _ in range(runs)]
    serial = measured(shards, ahead=False)
    busy = statistics.median(found["busy"] for found in ahead)
    figures = {
        "engine_busy": round(busy, 3),
        "engine_busy_not_ahead": round(serial["busy"], 3),
        "batches_filled": ahead[0]["filled"],
        "images_per_run": shards * ROWS_PER_SHARD,
        "engine_images_per_s": IMAGES_PER_S,
    }
    return {"figures": figures, "floor": {"engine_busy": 0.85}, "target": {"engine_busy": 0.9}, "holds": busy >= 0.85}


def measured(shards: int, *, ahead: bool) -> dict[str, Any]:
    """One job over `shards` full shards with one worker."""
    with tempfile.TemporaryDirectory() as folder:
        log, store = Path(folder) / "log", Store(f"{folder}/store")
        log.mkdir()
        fill(store, shards * ROWS_PER_SHARD)
        config = load(None, [
            f"store={store.uri}", "caption.engine=qwen2.5-vl", f"caption.model={write_qwen(Path(folder) / 'model')}",
            f"caption.rows_per_shard={ROWS_PER_SHARD}", f"caption.batch_size={BATCH_SIZE}", "caption.num_workers=1",
        ])  # fmt: skip
        summary = caption.run(config, build=partial(TimedEngine, log, ahead))
        assert (summary["captioned"], summary["failed"]) == (shards * ROWS_PER_SHARD, 0)
        return {"busy": statistics.mean(map(busy, log.iterdir())), "filled": summary["batches filled"]}


def busy(log: Path) -> float:
    """Share of the time in the model, from the start of the second batch to the end of the last one."""
    spans = [tuple(map(float, line.split())) for line in log.read_text().splitlines()][1:]
    return sum(end - start for start, end in spans) / (spans[-1][1] - spans[0][0])


def fill(store: Store, num: int) -> None:
    """Commit real images under `num` ids."""
    rows = image_rows(blobs(64)).to_pylist()
    several = [{**rows[number % len(rows)], "image_id": key_of(number)} for number in range(num)]
    table = Table(store, IMAGES)
    table.commit([table.write_file(pa.Table.from_pylist(several, schema=IMAGES.schema))], app_id="all", metadata={})
