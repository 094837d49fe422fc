"""`python -m tests.train.planned_memory OPTION...`: bytes that were planned for a training, and that it took."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch

from emoji_ldm.model.denoiser import build_denoiser
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.loop import TrainLoop
from emoji_ldm.train.memory_plan import MemoryPlanner
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

SHAPE, WIDTH, NUM_STEPS = (4, 16, 16), 12, 3


def main() -> None:
    torch.set_num_threads(1)
    config = tiny.config("train.num_heads=4", "train.checkpoint_every=100", *sys.argv[1:])
    args, size = build_training_args(config, "train"), config.train.batch_size
    task = tiny.task(config, tiny.latent_set(shape=SHAPE, width=WIDTH))
    with torch.device("meta"):
        module = build_denoiser(config.train, SHAPE, WIDTH).to("meta")

    def forward(count: int) -> torch.Tensor:
        inputs = ((count, *SHAPE), (count,), (count, config.latents.max_tokens, WIDTH))
        return module(*(torch.empty(shape, device="meta") for shape in inputs)).float().sum()

    planned = MemoryPlanner(module, forward, on_gpu=False).plan(args, 1).device_total
    task.prepare_batch(0, range(size))
    process = psutil.Process()
    before = process.memory_info().rss - 4 * sum(one.numel() for one in task.module.parameters())
    seen, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen[0] = max(seen[0], process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        alone = DistributedContext(0, 1, torch.device("cpu"))
        loop = TrainLoop(task, args, tiny.run_context(config, Path(folder)), alone, [range(size)])
        for step in range(NUM_STEPS):
            loop.step(step, loop.prepare_batches(step), 0.0)
    stop.set()
    watcher.join()
    print(json.dumps([planned, seen[0] - before]))


if __name__ == "__main__":
    main()
