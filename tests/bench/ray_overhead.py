"""The crawl's fetch, normalize and write stages in Ray Data against the same functions in one process: rows/s."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray

from emoji_ldm.config import Config, build
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from ray_jobs.crawl import read_image_requests
from ray_jobs.execution import delta_sink, politeness_actor, ray_runtime
from ray_jobs.workers.crawl_workers import ImageWorker
from tests.synthetic_image_server import SyntheticImageServer

ROWS = 5_000  # a shard
SHARDS = 2
RUNS = 3


def run(*, quick: bool) -> dict[str, Any]:
    """Median rows per second of both, one worker each, in alternating runs."""
    rows, runs = (1_000, 1) if quick else (ROWS, RUNS)
    plain_rates, ray_rates = [], []
    with SyntheticImageServer() as server, tempfile.TemporaryDirectory() as folder:
        config = build({"store": f"{folder}/store", "crawl": {"site": server.site}}, where="bench")
        for number in range(runs):
            shards = [_shard(server, SHARDS * number + place, rows) for place in range(SHARDS)]
            plain_rates.append(rate(plain(config, shards)))
            ray_rates.append(rate(in_ray(config, shards)))
    ray.shutdown()
    ratio = statistics.median(ray_rates) / statistics.median(plain_rates)
    figures = {
        "rows_per_shard": rows,
        "plain_rows_per_s": round(statistics.median(plain_rates), 1),
        "ray_rows_per_s": round(statistics.median(ray_rates), 1),
        "ratio": round(ratio, 3),
    }
    return {"figures": figures, "floor": {"ratio": ">= 0.85"}, "holds": ratio >= 0.85}


class Timed(ImageWorker):
    """The crawl's own worker, which also reports when it started."""

    def __call__(self, rows: pa.Table) -> delta_sink.ShardOutput:
        """As `ImageWorker`, with the start in the counts."""
        began = time.time_ns()
        output = super().__call__(rows)
        return delta_sink.ShardOutput(output.rows, {"began": began}, output.extra)


def rate(finished: Iterator[tuple[int, int]]) -> float:
    """Rows per second from the first worker's start to the last file, without the start-up before."""
    began, rows = zip(*finished, strict=True)
    return 1e9 * sum(rows) / (time.time_ns() - min(began))


def plain(config: Config, shards: list[delta_sink.WorkShard]) -> Iterator[tuple[int, int]]:
    """(start, rows) of shards that are processed one after the other in this process."""
    worker, table = Timed(config.crawl, LocalRateLimiter(config.crawl)), Table(Store(config.store), IMAGES)
    for shard in shards:
        output = worker(read_image_requests(shard.payload))
        yield output.counts["began"], table.write_file(output.rows).num_rows
    worker.fetcher.close()


def in_ray(config: Config, shards: list[delta_sink.WorkShard]) -> Iterator[tuple[int, int]]:
    """The same through the job's own Ray Data pipeline."""
    ray_runtime.connect(config.ray)
    args = (config.crawl, politeness_actor.start_rate_limiter(config.crawl))
    for done in delta_sink.stream_shards(
        delta_sink.SinkJob("crawl", Store(config.store), IMAGES, read_image_requests, Timed, args, 1), shards
    ):
        assert done.file is not None
        yield done.counts["began"], done.file.num_rows


def _shard(server: SyntheticImageServer, place: int, rows: int) -> delta_sink.WorkShard:
    numbers = range(place * rows, (place + 1) * rows)
    wanted = [{"image_url": server.url(n), "title": f"picture {n}", "tags": ["t"], "page_url": "p"} for n in numbers]
    return delta_sink.WorkShard(f"shard-{place}", {"rows": json.dumps(wanted)}, rows)
