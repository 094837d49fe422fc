"""The training loop: resume, step, log, checkpoint; every rank walks it in lockstep.

1. resume: the newest complete checkpoint of the run, else step 0
2. step: draw on the host (one step ahead), loss and backward per micro-batch, AdamW, moving averages
3. log: losses stay on the device until then; a step with a bad gradient was skipped, and is told
4. validate and save when they are due
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import torch

from emoji_ldm.model.ema import Averages
from emoji_ldm.train import checkpoint, order
from emoji_ldm.train.device import settle
from emoji_ldm.train.engine import build_engine
from emoji_ldm.train.plan import Place, Plan, Task
from emoji_ldm.train.room import check_room
from emoji_ldm.train.saver import Saver
from emoji_ldm.train.schedule import lr_at
from emoji_ldm.train.validation import validate
from emoji_ldm.train.watch import Watch
from emoji_ldm.train.world import World, current

Summary = dict[str, Any]


def fit(task: Task, plan: Plan, place: Place, device: torch.device | None = None) -> Summary:
    """Train until `plan.steps`; needs no Ray. Call it once per rank, inside a process group if there are several.

    Returns:
        On every rank: steps, num_parameters, peak_memory_mb; on rank 0 also what the log and the export measured
        (see `Watch.summary`) and checkpoint (URI).

    Raises:
        ConfigError: The batch cannot be shared by the ranks, or an option needs what is missing here.
        JobError: Too many steps had to be skipped, or another driver took the run over.
        ModelError: The run's checkpoint is of another network, or none is whole where there should be one.
    """
    world = current(device)
    parts = world.agree(lambda: _parts(plan, world))
    training = _Training(task, plan, place, world, parts)
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


def _parts(plan: Plan, world: World) -> list[range]:
    """Ready this process; the slots of its forward passes."""
    settle(plan, world)
    slots = order.slots_of(world.rank, world.size, plan.batch_size, field=f"{plan.section}.batch_size")
    return order.parts_of(slots, plan.micro_batch_size, field=f"{plan.section}.micro_batch_size")


class _Training:
    """The state of one rank between steps; `done` always counts the steps behind it."""

    def __init__(self, task: Task, plan: Plan, place: Place, world: World, parts: Sequence[range]) -> None:
        self.task, self.plan, self.place, self.world, self.parts = task, plan, place, world, parts
        self.engine = build_engine(task.module, plan, world)
        self.averages = Averages(self.engine.shards(), plan.ema_decay, plan.ema_widths)
        check_room(place, plan, world, task.facts)
        state = checkpoint.resume(self.engine, self.averages, place, plan, world, task.facts)
        self.first = state.step
        self.watch = Watch(plan, place, world, state.lines)
        self.watch.notes += [state.note] if state.note else []
        self.saver = Saver(self.engine, self.averages, task, self.watch)

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
