"""How long a checkpoint pauses training, against saving and uploading synchronously; and our upload against Ray's.

Two gloo ranks (ZeRO 1) save a U-Net's weights, Adam's moments and an average to SeaweedFS on loopback. The uploads are
of a checkpoint's files, by `Store.upload` and by the function with which Ray Train's `report` copies a checkpoint.
SeaweedFS shares this machine's cores, and needs more of them than either client. So each client's own CPU time is
reported too, which is what counts where the server has cores of its own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from emoji_ldm.store import Store
from tests.gloo_ranks import Ranks
from tests.seaweedfs_server import SeaweedServer

SETTLE_S = 3  # the server deletes asynchronously
WIDTHS = {True: "[64,128,256]", False: "[128,256,384]"}  # 7 and 23 million weights


def run(*, quick: bool) -> dict[str, Any]:
    """Medians of the pause, the whole save and their ratio; MB/s of both uploads in turns, and their ratio."""
    windows = 4 if quick else 8  # even, so that either upload comes first equally often
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "weed").mkdir()
        server = SeaweedServer(folder / "weed").start()
        try:
            os.environ |= server.environment
            uri = f"s3://{server.bucket()}/bench"
            with Ranks(2, folder) as ranks:
                pauses, wholes, num_weights = ranks.run(saves, str(folder), uri, WIDTHS[quick], windows)[0]
            (ours, our_cpu_s), (rays, rays_cpu_s), megabytes = uploads(folder, uri, windows)
        finally:
            server.kill()
    pause, whole = statistics.median(pauses), statistics.median(wholes)
    ratio, faster = pause / whole, statistics.median(o / r for o, r in zip(ours, rays, strict=True))
    figures = {
        "weights, million": round(num_weights / 1e6, 1),
        "pause, s": round(pause, 3),
        "save and upload, s": round(whole, 2),
        "pause / save and upload": round(ratio, 3),
        "upload, MB": round(megabytes),
        "our upload, MB/s": round(statistics.median(ours)),
        "Ray's copy, MB/s": round(statistics.median(rays)),
        "our upload / Ray's copy": round(faster, 2),
        "client's CPU time, Ray's copy / ours": round(statistics.median(rays_cpu_s) / statistics.median(our_cpu_s), 2),
    }
    floor = {"pause / save and upload": "<= 0.3", "our upload / Ray's copy": ">= 1.5"}
    return {"figures": figures, "floor": floor, "target": {"pause / save and upload": "<= 0.1"},
            "holds": ratio <= 0.3 and faster >= 1.5}  # fmt: skip


def saves(folder: str, uri: str, widths: str, windows: int) -> tuple[list[float], list[float], int]:
    """On a rank: seconds that a save pauses training, seconds until it is published, and the number of weights."""
    import torch

    from emoji_ldm.model.ema import WeightAverages
    from emoji_ldm.train.async_checkpoint import AsyncCheckpointer
    from emoji_ldm.train.engines.distributed import current_context
    from emoji_ldm.train.engines.training_engine import build_engine
    from emoji_ldm.train.metrics.metrics_recorder import MetricsRecorder
    from emoji_ldm.train.training_args import RunContext, build_training_args
    from tests.unit.train import tiny

    class Exporting(tiny.TinyTask):
        """Writes the weights, as a pipeline does."""

        def export(self, weights: Any, folder: Path) -> dict[str, Any]:
            (folder / "pipeline").mkdir(parents=True)
            save_file(dict(weights), folder / "pipeline" / "weights.safetensors")
            return {}

    world = current_context(torch.device("cpu"))
    config = tiny.config(f"train.block_out_channels={widths}", "train.num_heads=4", "train.zero_stage=1",
                         "train.batch_size=2", "train.keep_last=1")  # fmt: skip
    place = RunContext(config, Store(uri), Path(folder) / f"scratch-{world.rank}")
    task, plan = Exporting(config, tiny.latent_set(), tiny.frozen()), build_training_args(config, "train")
    engine = build_engine(task.module, plan, world)
    averages = WeightAverages(engine.master_shards(), plan.ema_decay)
    saver = AsyncCheckpointer(engine, averages, task, MetricsRecorder(plan, place, world, []))
    pauses, wholes = [], []
    for step in range(windows + 1):
        world.barrier()
        began = time.monotonic()
        saver.save(step, render_previews=False)
        pauses.append(time.monotonic() - began)
        saver._wait()
        wholes.append(time.monotonic() - began)
    saver.finish()
    return pauses[1:], wholes[1:], int(task.manifest_facts["num_parameters"])


Windows = tuple[list[float], list[float]]  # MB/s, and seconds of the client's CPU time


def uploads(folder: Path, uri: str, windows: int) -> tuple[Windows, Windows, float]:
    """Our upload and Ray's copy of the newest checkpoint's files, alternating which comes first; and their MB."""
    from ray.train.v2._internal.execution.storage import _upload_to_fs_path

    from emoji_ldm.dataset import checkpoints

    store, local = Store(uri), folder / "files"
    store.download(local, checkpoints.newest_checkpoint(store, "tiny", "unet").path)
    megabytes = sum(path.stat().st_size for path in local.rglob("*") if path.is_file()) / 1e6
    ours: Windows = ([], [])
    rays: Windows = ([], [])
    sides = [
        ("ours", ours, lambda to: store.upload(local, to)),
        ("ray", rays, lambda to: _upload_to_fs_path(str(local), store.filesystem, store.path(to))),
    ]
    for number in range(windows + 1):
        for name, (speeds, cpu_s), upload in sides if number % 2 else reversed(sides):
            began, spent = time.monotonic(), time.process_time()
            upload(f"{name}-{number}")
            speeds.append(megabytes / (time.monotonic() - began))
            cpu_s.append(time.process_time() - spent)
        for name, *_ in sides:
            store.delete(f"{name}-{number}")
        time.sleep(SETTLE_S)
    return (ours[0][1:], ours[1][1:]), (rays[0][1:], rays[1][1:]), megabytes
