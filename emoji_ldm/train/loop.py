"""The training loop: resume, step, log, checkpoint; every rank walks it in lockstep.

1. resume: the newest complete checkpoint of the run, else step 0
2. step: draw on the host (one step ahead), loss, backward, AdamW, moving average
3. log: losses stay on the device until then; a loss that is not finite ends the run
4. checkpoint: state of every rank, the exported model, and last of all the manifest
"""

from __future__ import annotations

import math
import resource
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import JobError
from emoji_ldm.model.ema import Ema
from emoji_ldm.train import checkpoint, order
from emoji_ldm.train.engine import build_engine
from emoji_ldm.train.journal import Journal
from emoji_ldm.train.plan import Place, Plan, Task
from emoji_ldm.train.schedule import lr_at
from emoji_ldm.train.world import World, current

Summary = dict[str, Any]


def fit(task: Task, plan: Plan, place: Place, device: torch.device | None = None) -> Summary:
    """Train until `plan.steps`; needs no Ray. Call it once per rank, inside a process group if there are several.

    Returns:
        On every rank: steps, num_parameters, peak_memory_mb; on rank 0 also loss_first, loss_last,
        images_per_s, checkpoint (URI) and what the export measured.

    Raises:
        ConfigError: The batch cannot be shared by the ranks, or DeepSpeed is needed and missing.
        JobError: The loss is not finite, or another driver took the run over.
        ModelError: The run's checkpoint is of another network.
    """
    world = current(device)
    slots = order.slots_of(world.rank, world.size, plan.batch_size, field=f"{plan.section}.batch_size")
    training = _Training(task, plan, place, world)
    with ThreadPoolExecutor(1) as ahead:
        pending: Future[Any] | None = None
        for step in range(training.first, plan.steps):
            drawn = (pending or ahead.submit(task.draw, step, slots)).result()
            pending = ahead.submit(task.draw, step + 1, slots)
            training.step(step, drawn)
            training.after(step + 1)
    return training.finish()


class _Training:
    """The state of one rank between steps; `done` always counts the steps behind it."""

    def __init__(self, task: Task, plan: Plan, place: Place, world: World) -> None:
        self.task, self.plan, self.place, self.world = task, plan, place, world
        state = checkpoint.newest(place, plan, world)
        self.first = self.logged = state.step if state else 0
        if state:
            checkpoint.load_weights(task.module, state, plan.section)
        self.engine = build_engine(task.module, plan, world)
        self.ema = Ema(self.engine.shards(), plan.ema_decay)
        checkpoint.load_optimizer(self.engine, self.ema, state)
        self.journal = Journal(place, plan, state.lines() if state else []) if world.leads else None
        self.losses: list[Tensor] = []
        self.norm: Tensor | float = 0.0
        self.facts: Summary = {}
        self.began = self.ticked = time.monotonic()

    def step(self, step: int, drawn: Any) -> None:
        """One optimiser step; nothing here waits for the device."""
        loss = self.task.loss(self.engine.forward, drawn)
        lr = lr_at(step, peak=self.plan.lr, warmup_steps=self.plan.warmup_steps, steps=self.plan.steps)
        self.norm = self.engine.step(loss, lr)
        self.ema.update(self.engine.shards(), step + 1)
        self.losses.append(loss.detach())

    def after(self, done: int) -> None:
        """What is due after `done` steps."""
        last = done == self.plan.steps
        save = last or done % self.plan.checkpoint_every == 0
        show = self.plan.sample_every > 0 and (last or done % self.plan.sample_every == 0)
        if save or show or done % self.plan.log_every == 0:
            self.log(done)
        if save or show:
            folder, facts = self.export(done, show=show)
            if save:
                self.save(done, folder, facts)

    def log(self, done: int) -> None:
        """Average the losses since the last log over steps and ranks; every rank sees the same numbers."""
        losses = self.world.mean(torch.stack(self.losses)).tolist()
        norm = float(self.norm)
        for step, loss in enumerate(losses, start=self.logged + 1):
            if not math.isfinite(loss):
                raise JobError(self._not_finite(step, loss))
        if not math.isfinite(norm):
            raise JobError(self._not_finite(done, norm))
        now = time.monotonic()
        rate = len(losses) * self.plan.batch_size / max(now - self.ticked, 1e-9)
        if self.journal:
            lr = lr_at(done - 1, peak=self.plan.lr, warmup_steps=self.plan.warmup_steps, steps=self.plan.steps)
            self.journal.log({
                "step": done, "loss": sum(losses) / len(losses), "lr": lr, "grad_norm": norm,
                "images_per_s": rate, "time_s": self.journal.spent_s + now - self.began,
            })  # fmt: skip
        self.logged, self.ticked, self.losses = done, now, []

    def export(self, done: int, *, show: bool) -> tuple[Path, Summary]:
        """Write the averaged model to a scratch folder, and draw samples with it (rank 0)."""
        folder = self.place.scratch / f"export-{self.plan.kind}"
        weights = checkpoint.gather_ema(self.engine, self.ema, self.world)
        facts: Summary = {}
        if self.world.leads:
            facts = self.task.export(weights, folder)
            png = self.task.preview(folder) if show else None
            if png and self.journal:
                self.journal.show(png, done)
        return folder, facts

    def save(self, done: int, exported: Path, facts: Summary) -> None:
        """Bring every rank's state and the exported model to the store; then, and only then, the manifest."""
        checkpoint.may_publish(self.place, self.plan, self.world)
        name = self.world.share(checkpoints.folder_name(done) if self.world.leads else None)
        path = f"checkpoints/{self.place.config.run}/{self.plan.kind}/{name}"
        state = self.place.scratch / f"state-{self.world.rank}"
        checkpoint.save(self.engine, self.ema, self.world, state)
        if self.journal:
            (state / "losses.jsonl").write_text(self.journal.text())
            self.journal.flush()
            self.place.store.upload(exported, path)
        self.place.store.upload(state, path, "state")
        self.world.barrier()
        self.facts = {"step": done, "num_workers": self.world.size, **facts}
        if self.world.leads:
            published = checkpoint.publish(self.place, self.plan, self.task, self.facts, path)
            self.facts["checkpoint"] = published.uri
        self.place.report({"step": done})
        self.ticked = time.monotonic()  # the rate is that of steps, not of uploads

    def finish(self) -> Summary:
        """The numbers of this training."""
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.world.device.type == "cuda":
            peak_mb = torch.cuda.max_memory_allocated(self.world.device) / 2**20
        done = {"steps": self.plan.steps, "num_parameters": self.task.facts["num_parameters"]}
        done |= {name: value for name, value in self.facts.items() if name not in ("step", "num_workers")}
        if self.journal:
            lines = self.journal.lines
            rates = sorted(line["images_per_s"] for line in lines)
            done |= {"loss_first": lines[0]["loss"], "loss_last": lines[-1]["loss"],
                     "images_per_s": rates[len(rates) // 2], "time_s": lines[-1]["time_s"]}  # fmt: skip
            self.journal.close()
        return {**done, "peak_memory_mb": round(peak_mb)}

    def _not_finite(self, step: int, value: float) -> str:
        section = self.plan.section
        return (
            f"{section}: the loss or its gradient is {value} at step {step}; the last checkpoint stays. "
            f"Lower {section}.lr (now {self.plan.lr:g}), or use precision=fp32"
        )
