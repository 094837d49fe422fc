"""Images per CPU-second from a loopback server to 128 px PNG in Parquet, one worker: ours against img2dataset 1.47.0.

Both fetch the same 160 px RGBA PNGs from the same server, whose CPU time is not counted. CPU time is user + system of
the whole process tree; a run of a few images is subtracted, so that start-up does not count. Ours does all of its usual
work (robots.txt, address checks, canonical pixels, sha256, fingerprint, alpha). img2dataset runs with one process of 32
threads, `keep_ratio_largest` and the fastest PNG level: once with its defaults (file sha256, EXIF), once without.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from emoji_ldm.config import build
from emoji_ldm.crawl.fetch.image_fetcher import ImageFetcher
from emoji_ldm.crawl.politeness.rate_limiter import LocalRateLimiter
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from tests.emoji_server import ROOT, emoji_server

ANCHOR = "img2dataset==1.47.0"
FEW = 64
ROWS_PER_SHARD = 1000
BARE = {"compute_hash": None, "extract_exif": False}
THEIRS = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


def run(*, quick: bool) -> dict[str, Any]:
    """Medians of 3 alternating runs, and their ratios."""
    num, times = (600, 1) if quick else (3000, 3)
    with tempfile.TemporaryDirectory() as folder, emoji_server(num) as url:
        python = install(Path(folder))
        sides = {"ours": lambda n, out: ours(url, n, out)}
        if python is not None:
            sides["img2dataset bare"] = lambda n, out: theirs(python, url, n, out, BARE)
            sides["img2dataset"] = lambda n, out: theirs(python, url, n, out, {})
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(times):
            for name, side in sides.items():
                spent = side(num, f"{folder}/{turn}-{name}") - side(FEW, f"{folder}/{turn}-{name}-few")
                rates[name].append((num - FEW) / spent)
    figures: dict[str, Any] = {f"{n}: images/CPU-s": round(statistics.median(r), 1) for n, r in rates.items()}
    if python is None:
        return {"figures": {**figures, "missing": f"{ANCHOR} cannot be installed here"}, "holds": False}
    rate = {name: statistics.median(values) for name, values in rates.items()}
    figures["times img2dataset"] = round(rate["ours"] / rate["img2dataset"], 2)
    figures["times img2dataset bare"] = round(rate["ours"] / rate["img2dataset bare"], 2)
    floor = {"times img2dataset": 1.3, "times img2dataset bare": 1.0}
    return {"figures": figures, "floor": floor, "holds": all(figures[name] >= least for name, least in floor.items())}


def install(folder: Path) -> Path | None:
    """The interpreter of a fresh environment with img2dataset; None if it cannot be installed."""
    try:
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, folder / "venv"], check=True, env=with_uv())
        python = folder / "venv" / "bin" / "python"
        subprocess.run(
            ["uv", "pip", "install", "-q", "--compile-bytecode", "--python", python, ANCHOR], check=True, env=with_uv()
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return python


def with_uv() -> dict[str, str]:
    """The environment, with the folder of this interpreter on the path."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def ours(url: str, num: int, out: str) -> float:
    """CPU seconds of one worker of ours."""
    return cpu_s([sys.executable, "-m", "tests.bench.fetch", url, str(num), out])


def theirs(python: Path, url: str, num: int, out: str, options: dict[str, Any]) -> float:
    """CPU seconds of img2dataset with one process of 32 threads."""
    links = Path(f"{out}.txt")
    links.write_text("\n".join(f"{url}/{number}.png" for number in range(num)))
    arguments = {
        "url_list": str(links), "output_folder": out, "output_format": "parquet", "processes_count": 1,
        "thread_count": 32, "image_size": 128, "resize_mode": "keep_ratio_largest", "resize_only_if_bigger": True,
        "encode_format": "png", "encode_quality": 1, "number_sample_per_shard": ROWS_PER_SHARD, **options,
    }  # fmt: skip
    script = Path(f"{out}.py")
    script.write_text(THEIRS)
    spent = cpu_s([str(python), str(script), json.dumps(arguments)])
    counts = [json.loads(path.read_text())["successes"] for path in Path(out).glob("*_stats.json")]
    assert sum(counts) == num, f"img2dataset kept {sum(counts)} of {num}"
    return spent


def cpu_s(command: list[str]) -> float:
    """User and system seconds of a command and all its children."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return usage.ru_utime + usage.ru_stime


def work(url: str, num: int, out: str) -> None:
    """What a worker of ours does: shards of URLs -> Parquet files."""
    import pyarrow as pa

    config = build({"crawl": {"site": url, "host_concurrency": 16}}, where="bench").crawl
    table, harvester = Table(Store(out), IMAGES), ImageFetcher(config, LocalRateLimiter(config))
    kept = 0
    for start in range(0, num, ROWS_PER_SHARD):
        numbers = range(start, min(start + ROWS_PER_SHARD, num))
        wanted = [{"image_url": f"{url}/{n}.png", "title": "", "tags": [], "page_url": url} for n in numbers]
        harvest = harvester.fetch(wanted)
        kept += len(harvest.images)
        table.write_file(pa.Table.from_pylist(harvest.images, schema=IMAGES.schema))
    harvester.close()
    assert kept == num, f"kept {kept} of {num}"


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
