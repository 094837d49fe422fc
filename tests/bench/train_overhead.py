"""The training loop under Ray Train against the same loop in plain ranks; data wait, and the cost of the extras.

Both train the same U-Net on the same latents with two gloo ranks of one thread each, at the same time, but in turns:
one is stopped while the other does some steps, so that other work on this machine affects both alike.

There are three kinds of turns. In the first, the plain ranks run. In the second, Ray's ranks run while Ray's own
processes (GCS, raylet, agent, controller, other actors) are stopped: this measures what the loop loses to threads,
settings and sockets in Ray's workers. In the third, all of Ray runs: this measures the loss on a machine without spare
cores, where a step waits for the rank whose core Ray's processes take. The floor applies to both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch

from emoji_ldm.config import Config, load
from emoji_ldm.store import Store
from emoji_ldm.train.engines.optimizer import guard_step
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import RunContext, build_training_args
from ray_jobs.execution import ray_runtime, trainer
from tests.gloo_ranks import Ranks
from tests.interleaved_trainings import (
    ALL,
    LOOP,
    OVERRUN_STEPS,
    TURN_STEPS,
    WARMUP_STEPS,
    InterleavedTrainings,
    TrainingProcesses,
    log_step_times,
)
from tests.unit.train import tiny

WINDOW = 10  # steps between log lines
LATENTS = (4, 16, 16)


def run(*, quick: bool) -> dict[str, Any]:
    """Images/s under Ray Train and in plain ranks, in turns; shares of the step time of data waits and extras."""
    os.environ |= trainer.MALLOC_SETTINGS  # as in our workers under Ray
    os.environ[trainer.PREEMPTION_WATCHER] = "0"  # as on a single node
    # As for the plain ranks; otherwise other work on this machine would slow one of them only.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own name)
    rounds = 6 if quick else 16
    with tempfile.TemporaryDirectory() as name, Ranks(2, Path(name, "ranks")) as ranks:
        own, other = settings(Path(name, "plain"), rounds), settings(Path(name, "ray"), 2 * rounds)
        cost = 100 * ranks.run(extras, own, 5)[0]
        ranks.start(train, own)
        turns = InterleavedTrainings(side(own), side(other), rounds)
        with turns.beside():
            ray_runtime.connect(other.ray)
            try:
                trainer._fit(other, "train", task, "")
            finally:
                ray.shutdown()
        ranks.join()
        wait = 100 * statistics.median(line["data_wait"] for line in lines(other)[1 : WARMUP_STEPS // WINDOW])
    loop, beside = (statistics.median(turns.ratios(turns.speeds, kind)) for kind in (LOOP, ALL))
    figures = {
        **{f"images/s, {kind}": round(statistics.median(speeds), 1) for kind, speeds in turns.speeds.items()},
        "Ray Train / plain ranks": spread(turns.ratios(turns.speeds, LOOP)),
        "same, beside Ray's own processes": spread(turns.ratios(turns.speeds, ALL)),
        "CPU time of an image, Ray Train / plain": spread(turns.ratios(turns.cpu_s, LOOP)),
        "Ray's own processes, % of a core": round(100 * statistics.median(turns.shares), 1),
        "data wait, % of step time": round(wait, 2),
        "EMA, log and guard, % of step time": round(cost, 2),
    }
    floor = {"Ray Train / plain ranks": ">= 0.97", "same, beside Ray's own processes": ">= 0.97",
             "data wait, % of step time": "< 2", "EMA, log and guard, % of step time": "< 3"}  # fmt: skip
    return {"figures": figures, "floor": floor, "holds": min(loop, beside) >= 0.97 and wait < 2 and cost < 3}


def settings(folder: Path, turns: int) -> Config:
    """Two workers, half a million weights (0.1 to 0.2 s a step), no checkpoint before the last step."""
    return load(None, [
        *tiny.TINY, f"store={folder}", "train.block_out_channels=[32,64]", "train.num_heads=4", "train.num_workers=2",
        "train.zero_stage=1", "train.batch_size=16",
        f"train.steps={WARMUP_STEPS + turns * (TURN_STEPS + OVERRUN_STEPS)}",
        f"train.log_every={WINDOW}", "train.checkpoint_every=100000", "ray.object_store_mb=100",
    ])  # fmt: skip


def task(place: RunContext) -> Any:
    """The tiny task with latents of the size of emoji, which logs when each step starts."""
    torch.set_num_threads(1)
    made = tiny.task(place.config, tiny.latent_set(64, LATENTS))
    made.prepare_batch = log_step_times(made.prepare_batch, pace(place.config))
    return made


def side(config: Config) -> TrainingProcesses:
    """A training, observed by its step log."""
    return TrainingProcesses(pace(config), config.train.batch_size)


def pace(config: Config) -> Path:
    """The folder in which ranks log the start of each step."""
    return Path(config.store, "pace")


def train(config: Config) -> None:
    """On a plain rank: the loop."""
    from emoji_ldm.train.loop import fit

    with tempfile.TemporaryDirectory() as scratch:
        place = RunContext(config, Store(config.store), Path(scratch))
        fit(task(place), build_training_args(config, "train"), place, torch.device("cpu"))


def extras(config: Config, windows: int) -> float:
    """On a plain rank: share of a step's time that averages, guard and log lines take, each timed where it is called.

    The difference between windows with and without them would be smaller than the noise of other work on the machine.
    """
    from emoji_ldm.train.engines import deepspeed_engine
    from emoji_ldm.train.engines.distributed import current_context
    from emoji_ldm.train.loop import TrainLoop

    plan, world, spent = build_training_args(config, "train"), current_context(torch.device("cpu")), [0.0]

    def timed(act: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any) -> Any:
            began = time.perf_counter()
            done = act(*args)
            spent[0] += time.perf_counter() - began
            return done

        return timing

    share = plan.batch_size // world.world_size
    with tempfile.TemporaryDirectory() as scratch, patch.object(deepspeed_engine, "guard_step", timed(guard_step)):
        fresh = config.model_copy(update={"run": "extras"})
        place = RunContext(fresh, Store(config.store), Path(scratch))
        training = TrainLoop(task(place), plan, place, world, [range(world.rank * share, (world.rank + 1) * share)])
        for of, names in ((training.averages, ("update",)), (training.metrics, ("record", "summarize_window", "log")),
                          (training.checkpointer, ("check",))):  # fmt: skip
            for name in names:
                setattr(of, name, timed(getattr(of, name)))
        ratios, drawn = [], training.prepare_batches(0)
        for done in range(WINDOW, (2 * windows + 1) * WINDOW, WINDOW):
            world.barrier()
            began, spent[0] = time.perf_counter(), 0.0
            for step in range(done - WINDOW, done):
                training.step(step, drawn, 0.0)
            world.barrier()  # the faster rank waits for the other one anyway
            training.checkpointer.check()
            training.metrics.log(training.metrics.summarize_window(done), {})
            ratios.append(spent[0] / (time.perf_counter() - began))
        training.metrics.summary()
        training.checkpointer.close()
    return statistics.median(ratios[2:])


def spread(ratios: Sequence[float]) -> str:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def lines(config: Config) -> list[training_metrics.MetricsLine]:
    """The log."""
    return training_metrics.read_log(Store(config.store), config.run)
