"""The training loop under Ray Train against the same loop in plain ranks; what waits, and what the extras cost.

Both sides train the same U-Net on the same latents with two gloo ranks of one thread each, and are timed by the log
lines the loop writes itself.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch

from emoji_ldm.config import Config, load
from emoji_ldm.store import Store
from emoji_ldm.train import journal
from emoji_ldm.train.plan import Place, plan_of
from ray_jobs import cluster, group
from tests.ranks import Ranks
from tests.unit.train import tiny

WINDOW = 10  # steps between log lines
LATENTS = (4, 16, 16)


def run(*, quick: bool) -> dict[str, Any]:
    """Images/s under Ray Train and in plain ranks, rounds in turn; shares of step time: waits for data, the extras."""
    os.environ |= group.KEEP_PAGES  # as our workers under Ray have it
    os.environ[group.WATCHER] = "0"  # as on one node
    rounds, windows = (1, 5) if quick else (3, 5)
    plain, under_ray, waits, costs = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(rounds):
            with Ranks(2, folder / f"ranks-{number}") as ranks:
                own = settings(folder / f"plain-{number}", windows)
                ranks.run(train, own)
                costs.append(ranks.run(extras, own, windows)[0])
            plain.append(rate(own))
            other = settings(folder / f"ray-{number}", windows)
            cluster.connect(other.cluster)
            try:
                group._fit(other, "train", task, "")
            finally:
                ray.shutdown()
            under_ray.append(rate(other))
            waits.append(statistics.median(line["data_wait"] for line in lines(other)))
    ratio = statistics.median(ours / theirs for ours, theirs in zip(under_ray, plain, strict=True))
    wait, cost = 100 * statistics.median(waits), 100 * statistics.median(costs)
    figures = {
        "images/s under Ray Train": round(statistics.median(under_ray), 1),
        "images/s in plain ranks": round(statistics.median(plain), 1),
        "Ray Train / plain ranks": round(ratio, 3),
        "data wait, % of step time": round(wait, 2),
        "EMA, log and guard, % of step time": round(cost, 2),
    }
    floor = {"Ray Train / plain ranks": ">= 0.97", "data wait, % of step time": "< 2",
             "EMA, log and guard, % of step time": "< 3"}  # fmt: skip
    return {"figures": figures, "floor": floor, "holds": ratio >= 0.97 and wait < 2 and cost < 3}


def settings(folder: Path, windows: int) -> Config:
    """Two workers, half a million weights (0.1 to 0.2 s a step), no checkpoint before the last step."""
    return load(None, [
        *tiny.TINY, f"store={folder}", "train.block_out_channels=[32,64]", "train.num_heads=4", "train.num_workers=2",
        "train.zero_stage=1", "train.batch_size=16", f"train.steps={(windows + 1) * WINDOW}",
        f"train.log_every={WINDOW}", "train.checkpoint_every=100000", "cluster.object_store_mb=100",
    ])  # fmt: skip


def task(place: Place) -> Any:
    """The tiny task with latents of the size of emoji."""
    torch.set_num_threads(1)
    return tiny.task(place.config, tiny.latent_set(64, LATENTS))


def train(config: Config) -> None:
    """On a plain rank: the loop."""
    from emoji_ldm.train.loop import fit

    with tempfile.TemporaryDirectory() as scratch:
        place = Place(config, Store(config.store), Path(scratch))
        fit(task(place), plan_of(config, "train"), place, torch.device("cpu"))


def extras(config: Config, windows: int) -> float:
    """On a plain rank: share of a step's time that averages, guard and log lines take, each timed where it is called.

    The difference between windows with and without them is smaller than what other work on the machine makes of it.
    """
    from emoji_ldm.train import sharded
    from emoji_ldm.train.loop import _Training
    from emoji_ldm.train.world import current

    plan, world, spent = plan_of(config, "train"), current(torch.device("cpu")), [0.0]

    def timed(act: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any) -> Any:
            began = time.perf_counter()
            done = act(*args)
            spent[0] += time.perf_counter() - began
            return done

        return timing

    share = plan.batch_size // world.size
    with tempfile.TemporaryDirectory() as scratch, patch.object(sharded, "guard", timed(sharded.guard)):
        fresh = config.model_copy(update={"run": "extras"})
        place = Place(fresh, Store(config.store), Path(scratch))
        training = _Training(task(place), plan, place, world, [range(world.rank * share, (world.rank + 1) * share)])
        for of, names in ((training.averages, ("update",)), (training.watch, ("record", "sum_up", "log")),
                          (training.saver, ("check",))):  # fmt: skip
            for name in names:
                setattr(of, name, timed(getattr(of, name)))
        ratios, drawn = [], training.draw(0)
        for done in range(WINDOW, (2 * windows + 1) * WINDOW, WINDOW):
            world.barrier()
            began, spent[0] = time.perf_counter(), 0.0
            for step in range(done - WINDOW, done):
                training.step(step, drawn, 0.0)
            world.barrier()  # who is quicker waits for the other one anyway
            training.saver.check()
            training.watch.log(training.watch.sum_up(done), {})
            ratios.append(spent[0] / (time.perf_counter() - began))
        training.watch.summary()
        training.saver.close()
    return statistics.median(ratios[2:])


def rate(config: Config) -> float:
    """Images/s, median over windows without the first."""
    return statistics.median(line["images_per_s"] for line in lines(config))


def lines(config: Config) -> list[journal.Line]:
    """Log lines after the first, in which things warm up."""
    return journal.read(Store(config.store), config.run)[1:]
