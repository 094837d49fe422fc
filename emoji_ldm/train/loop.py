"""The training loop: resume, step, log, validate, checkpoint; all ranks run it in lockstep.

1. resume from the newest complete checkpoint of the run, else begin at step 0
2. step: prepare the batch on the host (one step ahead), loss and backward per micro-batch, AdamW, moving averages
3. log: losses stay on the device until a log line is due, so that the host does not wait for the device at each step
4. validate and save when they are due

*Lockstep* means that every decision depends on the step number or is taken together: a rank that saved, stopped or
failed on its own would leave the others waiting in a collective.
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
from emoji_ldm.model.torch_compat import copy_tensors
from emoji_ldm.train import resume
from emoji_ldm.train.async_checkpoint import AsyncCheckpointer
from emoji_ldm.train.engines.distributed import DistributedContext, configure_torch, current_context
from emoji_ldm.train.engines.file_backed import move_state_to_files
from emoji_ldm.train.engines.optimizer import lr_at
from emoji_ldm.train.engines.training_engine import TrainingEngine, build_engine
from emoji_ldm.train.metrics.metrics_recorder import MetricsRecorder
from emoji_ldm.train.metrics.step_profiler import StepProfiler
from emoji_ldm.train.metrics.utilization import FlopsCounter
from emoji_ldm.train.preflight import check_disk_space
from emoji_ldm.train.resume_note import resume_note
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext, TrainingArgs, TrainingTask

Summary = dict[str, Any]


def fit(task: TrainingTask, args: TrainingArgs, context: RunContext, device: torch.device | None = None) -> Summary:
    """Train until `args.steps`; needs no Ray. Call it once per rank, inside a process group if there are several.

    Returns:
        On every rank: steps, num_parameters, peak_memory_mb; on rank 0 also the figures of log and export
        (see `MetricsRecorder.summary`) and checkpoint (URI).

    Raises:
        ConfigError: The batch cannot be divided among the ranks, or an option needs something that is missing.
        JobError: Too many steps had to be skipped, or another driver took the run over.
        ModelError: The run's checkpoint is of another network, or there should be a complete one but is none.
    """
    ranks = current_context(device)
    # A wrong option may show on one rank only (a compiler missing on its node): all ranks have to learn of it.
    micro_batches = ranks.run_on_all(lambda: _plan_micro_batches(args, ranks))
    training = TrainLoop(task, args, context, ranks, micro_batches)
    # These are closed in reverse order: first the thread that prepares batches, then a save in flight, whose last notes
    # still reach the log.
    with (
        closing(training.metrics), closing(training.checkpointer), closing(training.profiler),
        ThreadPoolExecutor(1, "prepare") as executor,
    ):  # fmt: skip
        pending: Future[list[Any]] | None = None
        for step in range(training.first_step, args.steps):
            training.profiler.begin_step(step)
            training.metrics.communication.begin_step(busy=training.profiler.is_active)
            began = time.monotonic()
            # The time spent here is the share of the step for which the device may have had nothing to do.
            batch = (pending or executor.submit(training.prepare_batches, step)).result()
            waited_s = time.monotonic() - began
            # The next batch is prepared while the device works on this one.
            pending = executor.submit(training.prepare_batches, step + 1)
            training.step(step, batch, waited_s)
            training.metrics.communication.end_step()
            training.note(training.profiler.end_step(step + 1, waited_s))
            training.run_due_actions(step + 1)
        return training.finish()


def _plan_micro_batches(args: TrainingArgs, ranks: DistributedContext) -> list[range]:
    """Set torch up for this process; the positions in the global batch of each of its forward passes."""
    configure_torch(args, ranks)
    slots = sampler.rank_slots(ranks.rank, ranks.world_size, args.batch_size, field=f"{args.section}.batch_size")
    return sampler.split_micro_batches(slots, args.micro_batch_size, field=f"{args.section}.micro_batch_size")


class TrainLoop:
    """The state of one rank between steps."""

    def __init__(
        self,
        task: TrainingTask,
        args: TrainingArgs,
        context: RunContext,
        ranks: DistributedContext,
        micro_batches: Sequence[range],
    ) -> None:
        self.task, self.args, self.context, self.ranks = task, args, context, ranks
        self.micro_batches = micro_batches
        self.engine = build_engine(task.module, args, ranks)
        # Averages and optimiser start from the initial weights; `resume_training` overwrites all of them if there is a
        # checkpoint.
        self.averages = WeightAverages(self.engine.master_shards(), args.ema_decay, args.ema_widths)
        if args.offload_folder:
            move_state_to_files(self.engine, self.averages, args.offload_folder)
        # The check precedes the resume, so that a full disk is reported before minutes are spent on reading.
        check_disk_space(context, args, ranks, task.manifest_facts)
        state = resume.resume_training(self.engine, self.averages, context, args, ranks, task.manifest_facts)
        self.first_step = state.step
        # Compiled code is one operation to the counter.
        self._flops_counted = args.compile
        self.metrics = MetricsRecorder(args, context, ranks, state.log_lines)
        # The old log is read for it, so it comes before the first line of the new one.
        self.note(ranks.run_on_all(lambda: resume_note(context, args, state.step, state.note) if ranks.is_main else ""))
        self.profiler = StepProfiler(context, args, is_main=ranks.is_main)
        self.checkpointer = AsyncCheckpointer(self.engine, self.averages, task, self.metrics)

    def note(self, text: str) -> None:
        """Add a line for the user to the next line of the log; an empty text adds none."""
        self.metrics.notes += [text] if text else []

    def prepare_batches(self, step: int) -> list[Any]:
        """The samples of each micro-batch of a step."""
        return [self.task.prepare_batch(step, slots) for slots in self.micro_batches]

    def step(self, step: int, batches: Sequence[Any], waited_s: float) -> None:
        """One optimiser step; nothing here waits for the device."""
        losses = []
        for number, batch in enumerate(batches, 1):
            loss = self._loss(batch)
            self.engine.backward(loss, last=number == len(batches))
            # A loss that kept its graph would keep the activations in memory until the next log line.
            losses.append(loss.detach())
        norm = self.engine.step(lr_at(step, self.args), self.metrics.max_grad_norm)
        # A skipped step is averaged as well, since only the device knows that it was skipped.
        self.averages.update(self.engine.master_shards(), step + 1)
        self.metrics.record(torch.stack(losses).mean(), norm, waited_s)

    def _loss(self, batch: Any) -> Tensor:
        """The loss of a micro-batch; the FLOPs of the first one are counted, for the utilisation in the log."""
        if self._flops_counted:
            return self.task.loss(self.engine.forward, batch)
        self._flops_counted = True
        counter = FlopsCounter(self.task.module)
        with counter:
            loss = self.task.loss(self.engine.forward, batch)
        self.metrics.set_flops(counter.step_flops() * len(self.micro_batches))
        return loss

    def run_due_actions(self, done: int) -> None:
        """Log, validate and save if they are due after `done` steps."""
        last, args = done == self.args.steps, self.args
        preview = args.sample_every is not None and (last or done % args.sample_every == 0)
        # A notice that this node goes away reaches all ranks at the same step: see `PreemptionNotice`.
        save = last or preview or done % args.checkpoint_every == 0 or self.context.preemption_notice()
        check = args.validate_every is not None and (last or done % args.validate_every == 0)
        if save or check or done % args.log_every == 0:
            # Here the host waits for the device anyway, so the exchange of errors among ranks costs little.
            self.checkpointer.check()
            # The line precedes the save, since a checkpoint contains the log up to its step.
            line = self.metrics.summarize_window(done)
            measured = validate(self.task, self.engine, self.averages, self.ranks, self.micro_batches) if check else {}
            self.metrics.log(line, measured)
        if save:
            began = time.monotonic()
            self.checkpointer.save(done, render_previews=preview)
            self.metrics.saving_s += time.monotonic() - began
            self.metrics.reset_clock()

    def finish(self) -> Summary:
        """Wait for the last checkpoint; the figures of this training."""
        facts = self.checkpointer.finish()
        known = self.task.manifest_facts
        sizes = {name: known[name] for name in ("num_parameters", "num_weights") if name in known}
        return {"steps": self.args.steps, **sizes, **facts, **self.metrics.summary()}


@torch.no_grad()
def validate(
    task: TrainingTask, engine: TrainingEngine, averages: WeightAverages, ranks: DistributedContext,
    micro_batches: Sequence[range],
) -> dict[str, float]:  # fmt: skip
    """`validation_loss` and `validation_loss_ema`, the mean over validation images; a collective.

    Each image counts once, with noise of its own, so that ranks and micro-batches change nothing but rounding. The
    second figure is that of the moving average, and absent if none is kept. Empty if there are no validation images.
    """

    def measure() -> float | None:
        batches = (batch for slots in micro_batches for batch in task.validation_batches(slots))
        return _mean_loss(task, engine, ranks, batches)

    loss = measure()
    if loss is None:
        return {}
    measured = {"validation_loss": loss}
    if averages.tensors:
        # Under ZeRO the average exists as shards only. If it takes the place of the masters, it reaches the module by
        # the same gather as the weights.
        with swapped_weights(engine, averages.tensors[AVERAGE_NAMES[0]]):
            measured["validation_loss_ema"] = measure() or 0.0
    return measured


@contextmanager
def swapped_weights(engine: TrainingEngine, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let the module compute with shard-shaped `tensors` in place of its weights; costs a copy of the local shards."""
    shards = engine.master_shards()
    # The fp32 masters are copied, because they cannot be restored from working weights in bf16.
    own = [shard.clone() for shard in shards]
    _write_shards(engine, shards, tensors)
    try:
        yield
    finally:
        _write_shards(engine, shards, own)


def _write_shards(engine: TrainingEngine, shards: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    copy_tensors(shards, tensors)
    engine.sync_working_weights()


def _mean_loss(
    task: TrainingTask, engine: TrainingEngine, ranks: DistributedContext, batches: Iterable[Any]
) -> float | None:
    """The mean over batches, prepared one at a time, and ranks; None without any."""
    # The sum is in float64, so that it hardly depends on how ranks and micro-batches group it.
    losses = [task.loss(engine.forward, batch).double() for batch in batches]
    return float(ranks.all_reduce_mean(torch.stack(losses).mean())) if losses else None
