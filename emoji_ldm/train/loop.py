"""The loss on images held out, with the same noise each time: of the weights, and of their moving average.

The training loop: resume, step, log, checkpoint; every rank walks it in lockstep.

1. resume: the newest complete checkpoint of the run, else step 0
2. step: draw on the host (one step ahead), loss and backward per micro-batch, AdamW, moving averages
3. log: losses stay on the device until then; a step with a bad gradient was skipped, and is told
4. validate and save when they are due
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.model.ema import AVERAGE_NAMES, WeightAverages
from emoji_ldm.train import resume
from emoji_ldm.train.async_checkpoint import AsyncCheckpointer
from emoji_ldm.train.engines.device import configure_torch
from emoji_ldm.train.engines.distributed import DistributedContext, current_context
from emoji_ldm.train.engines.optimizer import lr_at
from emoji_ldm.train.engines.training_engine import TrainingEngine, build_engine
from emoji_ldm.train.metrics.training_metrics import MetricsRecorder
from emoji_ldm.train.preflight import check_disk_space
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext, TrainingArgs, TrainingTask


@torch.no_grad()
def validate(
    task: TrainingTask, engine: TrainingEngine, averages: WeightAverages, world: DistributedContext, parts: Sequence[range]
) -> dict[str, float]:  # fmt: skip
    """`validation_loss` and `validation_loss_ema`, the mean over the images held out; a collective.

    Each image counts once, with noise of its own, so that ranks and micro-batches change nothing but rounding.
    The latter is left out where no average is kept. Empty if nothing is held out.
    """

    def measured() -> float | None:
        return _mean_loss(task, engine, world, (drawn for part in parts for drawn in task.held_out(part)))

    own = measured()
    if own is None:
        return {}
    found = {"validation_loss": own}
    if averages.tensors:
        with swapped_weights(engine, averages.tensors[AVERAGE_NAMES[0]]):
            found["validation_loss_ema"] = measured() or 0.0
    return found


@contextmanager
def swapped_weights(engine: TrainingEngine, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let the module compute with shard-shaped `tensors` in place of its weights; costs a copy of the local shards."""
    shards = engine.shards()
    own = [shard.clone() for shard in shards]
    _write_shards(engine, shards, tensors)
    try:
        yield
    finally:
        _write_shards(engine, shards, own)


def _write_shards(engine: TrainingEngine, shards: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(shards), list(tensors))
    engine.refresh()


def _mean_loss(
    task: TrainingTask, engine: TrainingEngine, world: DistributedContext, batches: Iterable[Any]
) -> float | None:
    """The mean over batches, drawn one at a time, and ranks; None without any."""
    losses = [task.loss(engine.forward, drawn).double() for drawn in batches]
    return float(world.mean(torch.stack(losses).mean())) if losses else None


Summary = dict[str, Any]


def fit(task: TrainingTask, plan: TrainingArgs, place: RunContext, device: torch.device | None = None) -> Summary:
    """Train until `plan.steps`; needs no Ray. Call it once per rank, inside a process group if there are several.

    Returns:
        On every rank: steps, num_parameters, peak_memory_mb; on rank 0 also what the log and the export measured
        (see `Watch.summary`) and checkpoint (URI).

    Raises:
        ConfigError: The batch cannot be shared by the ranks, or an option needs what is missing here.
        JobError: Too many steps had to be skipped, or another driver took the run over.
        ModelError: The run's checkpoint is of another network, or none is whole where there should be one.
    """
    world = current_context(device)
    parts = world.agree(lambda: _plan_micro_batches(plan, world))
    training = TrainLoop(task, plan, place, world, parts)
    with closing(training.watch), closing(training.saver), ThreadPoolExecutor(1, "draw") as ahead:
        pending: Future[list[Any]] | None = None
        for step in range(training.first, plan.steps):
            began = time.monotonic()
            drawn = (pending or ahead.submit(training.draw, step)).result()
            waited_s = time.monotonic() - began
            pending = ahead.submit(training.draw, step + 1)
            training.step(step, drawn, waited_s)
            training.after(step + 1)
        return training.finish()


def _plan_micro_batches(plan: TrainingArgs, world: DistributedContext) -> list[range]:
    """Ready this process; the slots of its forward passes."""
    configure_torch(plan, world)
    slots = sampler.rank_slots(world.rank, world.size, plan.batch_size, field=f"{plan.section}.batch_size")
    return sampler.split_micro_batches(slots, plan.micro_batch_size, field=f"{plan.section}.micro_batch_size")


class TrainLoop:
    """The state of one rank between steps; `done` always counts the steps behind it."""

    def __init__(
        self,
        task: TrainingTask,
        plan: TrainingArgs,
        place: RunContext,
        world: DistributedContext,
        parts: Sequence[range],
    ) -> None:
        self.task, self.plan, self.place, self.world, self.parts = task, plan, place, world, parts
        self.engine = build_engine(task.module, plan, world)
        self.averages = WeightAverages(self.engine.shards(), plan.ema_decay, plan.ema_widths)
        check_disk_space(place, plan, world, task.facts)
        state = resume.resume_training(self.engine, self.averages, place, plan, world, task.facts)
        self.first = state.step
        self.watch = MetricsRecorder(plan, place, world, state.lines)
        self.watch.notes += [state.note] if state.note else []
        self.saver = AsyncCheckpointer(self.engine, self.averages, task, self.watch)

    def draw(self, step: int) -> list[Any]:
        """What each micro-batch of a step sees."""
        return [self.task.draw(step, part) for part in self.parts]

    def step(self, step: int, drawn: Sequence[Any], waited_s: float) -> None:
        """One optimiser step; nothing here waits for the device."""
        losses = []
        for number, part in enumerate(drawn, 1):
            loss = self.task.loss(self.engine.forward, part)
            self.engine.accumulate(loss, last=number == len(drawn))
            losses.append(loss.detach())
        norm = self.engine.step(lr_at(step, self.plan), self.watch.limit)
        self.averages.update(self.engine.shards(), step + 1)
        self.watch.record(torch.stack(losses).mean(), norm, waited_s)

    def after(self, done: int) -> None:
        """What is due after `done` steps."""
        last, plan = done == self.plan.steps, self.plan
        show = plan.sample_every is not None and (last or done % plan.sample_every == 0)
        save = last or show or done % plan.checkpoint_every == 0 or self.place.leaving()
        check = plan.validate_every > 0 and (last or done % plan.validate_every == 0)
        if save or check or done % plan.log_every == 0:
            self.saver.check()
            line = self.watch.sum_up(done)
            measured = validate(self.task, self.engine, self.averages, self.world, self.parts) if check else {}
            self.watch.log(line, measured)
        if save:
            self.saver.save(done, show=show)
            self.watch.resume_clock()

    def finish(self) -> Summary:
        """The numbers of this training."""
        facts = self.saver.finish()
        sizes = {name: self.task.facts[name] for name in ("num_parameters", "num_weights") if name in self.task.facts}
        return {"steps": self.plan.steps, **sizes, **facts, **self.watch.summary()}
