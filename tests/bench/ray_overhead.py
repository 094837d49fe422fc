"""The crawl's fetch, clean and write in Ray Data against the same functions in a plain process: rows per second."""

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
from emoji_ldm.crawl.gate import LocalGate
from emoji_ldm.dataset.table import Table
from emoji_ldm.records import IMAGES
from emoji_ldm.store import Store
from ray_jobs import cluster, gate, sink
from ray_jobs.crawl import FetchWorker, read_wanted
from tests.pictures import PictureServer

ROWS = 5_000  # a shard
SHARDS = 2
RUNS = 3


def run(*, quick: bool) -> dict[str, Any]:
    """Median rows per second of both sides, one worker each, taken in turn."""
    rows, runs = (1_000, 1) if quick else (ROWS, RUNS)
    plain_rates, ray_rates = [], []
    with PictureServer() as server, tempfile.TemporaryDirectory() as folder:
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


class Timed(FetchWorker):
    """The crawl's own worker, which also says when it began."""

    def __call__(self, rows: pa.Table) -> sink.Output:
        """As `FetchWorker`, with the moment in the counts."""
        began = time.time_ns()
        output = super().__call__(rows)
        return sink.Output(output.rows, {"began": began}, output.extra)


def rate(finished: Iterator[tuple[int, int]]) -> float:
    """Rows per second from the first worker's begin to the last file; start-up is before that."""
    began, rows = zip(*finished, strict=True)
    return 1e9 * sum(rows) / (time.time_ns() - min(began))


def plain(config: Config, shards: list[sink.Shard]) -> Iterator[tuple[int, int]]:
    """(begin, rows) of shards as they lie in their files, one after the other in this process."""
    worker, table = Timed(config.crawl, LocalGate(config.crawl)), Table(Store(config.store), IMAGES)
    for shard in shards:
        output = worker(read_wanted(shard.payload))
        yield output.counts["began"], table.write_file(output.rows).num_rows
    worker.harvester.close()


def in_ray(config: Config, shards: list[sink.Shard]) -> Iterator[tuple[int, int]]:
    """The same through the job's own Ray Data pipeline."""
    cluster.connect(config.ray)
    args = (config.crawl, gate.start(config.crawl))
    for done in sink.stream(sink.Job("crawl", Store(config.store), IMAGES, read_wanted, Timed, args, 1), shards):
        assert done.file is not None
        yield done.counts["began"], done.file.num_rows


def _shard(server: PictureServer, place: int, rows: int) -> sink.Shard:
    numbers = range(place * rows, (place + 1) * rows)
    wanted = [{"image_url": server.url(n), "title": f"picture {n}", "tags": ["t"], "page_url": "p"} for n in numbers]
    return sink.Shard(f"shard-{place}", {"rows": json.dumps(wanted)}, rows)
