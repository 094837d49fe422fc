"""How long steps took. A GPU's are known when they are done, which is later than when they were begun.

Rows in flight: each picture has its own steps, sampler, guidance and place in time; a tick moves many of them.

A row keeps all of its state in tensors of its own. A tick stacks rows of one shape, calls the network once and
moves every row by one step of its own schedule. So a row may join, pause and leave between any two ticks, and its
neighbours never notice.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emoji_ldm.generate.init_latents import InitialLatents, NoiseStream
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.request import LatentShape
from emoji_ldm.generate.step_coefficients import MEMORY, NOISE, SamplingSchedule
from emoji_ldm.generate.unet_runner import UNetRunner

MAX_STEPS_AHEAD = 2  # steps that may wait in a GPU's queue


@dataclass(frozen=True)
class TimedStep:
    """A step that is done."""

    shape: LatentShape  # of its rows
    num_rows: int
    cost: int  # network rows
    seconds: float


class StepTimer:
    """Times steps, and keeps those of a GPU from being begun long before they can be done."""

    def __init__(self, *, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self._done: deque[TimedStep] = deque(maxlen=2 * MAX_STEPS_AHEAD)  # nobody need ask
        self._begun: deque[tuple[torch.cuda.Event, torch.cuda.Event, LatentShape, int, int]] = deque()

    @contextmanager
    def step(self, shape: LatentShape, num_rows: int, cost: int) -> Iterator[None]:
        """Around what begins a step."""
        if self.on_gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            first.record()
            yield
            last.record()
            self._begun.append((first, last, shape, num_rows, cost))
            self._keep_pace()
            return
        began = time.perf_counter()
        yield
        self._done.append(TimedStep(shape, num_rows, cost, time.perf_counter() - began))

    def take(self) -> list[TimedStep]:
        """Steps that were done since this was asked last, at most a few."""
        done = list(self._done)
        self._done.clear()
        return done

    def reset(self) -> None:
        """Forget all steps, as they were no pictures'."""
        self._done.clear()
        self._begun.clear()

    def _keep_pace(self) -> None:
        """Wait for the step before last."""
        if len(self._begun) > MAX_STEPS_AHEAD:
            first, last, shape, num_rows, cost = self._begun.popleft()
            last.synchronize()
            milliseconds: float = first.elapsed_time(last)
            self._done.append(TimedStep(shape, num_rows, cost, milliseconds / 1000))


@dataclass(eq=False)
class DenoisingRow:
    """A picture on its way, on the model's device."""

    schedule: SamplingSchedule
    start: InitialLatents
    positive: Tensor  # (tokens, width)
    negative: Tensor | None  # None without guidance
    guidance: float
    noise: NoiseStream  # fresh noise, where steps need some
    previews: frozenset[int] = frozenset()  # steps whose picture so far is wanted
    index: int = 0  # steps taken
    x: Tensor = field(init=False)  # (C, h, w), in its scheduler's own scale; at the end the scaled latents
    memory: Tensor = field(init=False)  # the picture (C, h, w) as the network saw it a step before
    remembers: bool = field(init=False)  # whether a step needs `memory`
    fresh: list[bool] = field(init=False)  # per step: whether it needs fresh noise

    def __post_init__(self) -> None:
        self.x, self.memory = self.start.x, torch.zeros_like(self.start.x)
        self.remembers = bool((self.schedule.columns[:, MEMORY] != 0).any())
        self.fresh = (self.schedule.columns[:, NOISE] != 0).tolist()

    @property
    def left(self) -> int:
        """Steps to go."""
        return len(self.schedule) - self.index


Preview = tuple[DenoisingRow, Tensor]  # a row and the latents (C, h, w) of its picture as the network sees it so far


class DenoisingEngine:
    """Moves rows of one model; not safe to use from two threads at once."""

    def __init__(self, model: LatentDiffusionModel, batch_size: int, *, strict: bool = True) -> None:
        """Settle the shapes: up to `batch_size` rows move in one tick."""
        self.model, self.batch_size = model, batch_size
        self.network = UNetRunner(model.unet, batch_size, strict=strict)
        self.clock = StepTimer(on_gpu=model.device.type == "cuda")
        self._batches: dict[torch.Size, _StackedRows] = {}
        self._cells = math.prod(model.latent_shape)

    @torch.inference_mode()
    def tick(self, rows: Sequence[DenoisingRow]) -> list[Preview]:
        """Move `rows`, up to `most` unfinished ones of one shape, by one step each.

        On a GPU this returns before the step is done, at most two steps ahead.
        """
        shape = rows[0].x.shape
        guided = sum(row.negative is not None for row in rows)
        with self.clock.step(rows[0].noise.shape, len(rows), self.cost(len(rows), guided, shape)):
            batch = self._batches.get(shape)
            if batch is None or batch.rows != rows:
                self._release(shape)
                batch = self._batches[shape] = _StackedRows(list(rows), self.network, self.most(shape))
            previews = batch.tick()
            if not batch.left:
                self._release(shape)
        return previews

    def forget(self, shape: Iterable[int]) -> None:
        """Keep nothing of a shape that no row has any more."""
        self._batches.pop(torch.Size(shape), None)

    def most(self, shape: Iterable[int]) -> int:
        """Rows of a shape that a tick can move: a larger one takes the room of several."""
        return max(1, min(self.batch_size, self.batch_size * self._cells // math.prod(shape)))

    def cost(self, num_rows: int, num_guided: int, shape: Iterable[int]) -> int:
        """Network rows that a tick computes for so many rows of a shape, padding included."""
        return sum(self.network.passes(num_rows + num_guided, self.most(shape)))

    def _release(self, shape: torch.Size) -> None:
        """Give the rows of the last tick of this shape their state."""
        batch = self._batches.pop(shape, None)
        if batch is not None:
            batch.release()


class _StackedRows:
    """Rows stacked for as many ticks as all of them have left; their own tensors are stale until `release`."""

    def __init__(self, rows: list[DenoisingRow], network: UNetRunner, most: int) -> None:
        self.rows, self.network, self.most = rows, network, most
        self.left, self.done = min(row.left for row in rows), 0
        # Guided ones first: the network's rows are all prompts, then the guided rows' negative prompts.
        self.order = sorted(rows, key=lambda row: row.negative is None)
        self.x = torch.stack([row.x for row in self.order])
        self.memory = torch.stack([row.memory for row in self.order])
        self.remembers = any(row.remembers for row in rows)
        self.stochastic = any(row.schedule.stochastic for row in rows)
        self._stack_inputs()
        self._stack_columns()
        self._stack_known()

    def _stack_inputs(self) -> None:
        negatives = [row.negative for row in self.order if row.negative is not None]
        states = [*(row.positive for row in self.order), *negatives]
        seats = [*range(len(self.order)), *range(len(negatives))]
        self.passes = self.network.passes(len(seats), self.most)
        padding = sum(self.passes) - len(seats)  # repeats the first row, which costs and breaks nothing
        self.states = torch.stack(states + states[:1] * padding)
        self.seats = _to_device_of(torch.tensor(seats + [0] * padding), self.x)
        guidance = torch.tensor([row.guidance for row in self.order if row.negative is not None])
        self.guidance = _to_device_of(guidance[:, None, None, None], self.x)

    def _stack_columns(self) -> None:
        spans = [(row.schedule, slice(row.index, row.index + self.left)) for row in self.order]
        columns = torch.stack([schedule.columns[span] for schedule, span in spans], dim=-1)
        self.columns = _to_device_of(columns[..., None, None, None], self.x)  # (ticks, 9, N, 1, 1, 1)
        timesteps = torch.stack([schedule.timesteps[span] for schedule, span in spans], dim=-1)
        self.timesteps = _to_device_of(timesteps, self.x)[:, self.seats]  # (ticks, network rows)

    def _stack_known(self) -> None:
        """Masks, 1 for rows without one, and what they keep."""
        starts = [row.start for row in self.order]
        self.mask = None
        if any(start.mask is not None for start in starts):
            nothing, all_anew = torch.zeros_like(self.x[0]), torch.ones_like(self.x[0, :1])
            self.mask = torch.stack([all_anew if start.mask is None else start.mask for start in starts])
            self.known = torch.stack([nothing if start.known is None else start.known for start in starts])
            self.eps = torch.stack([nothing if start.noise is None else start.noise for start in starts])

    def tick(self) -> list[Preview]:
        scale, keep, add, memory, noise, x0_keep, x0_add, signal, level = self.columns[self.done].unbind()
        before, output = self.x, self._guided((scale * self.x)[self.seats])
        self.x = keep * before + add * output
        looks = [place for place, row in enumerate(self.order) if row.index in row.previews]
        seen = x0_keep * before + x0_add * output if self.remembers or looks else before
        if self.remembers:
            self.x, self.memory = self.x + memory * self.memory, seen
        if self.stochastic:
            self.x = self.x + noise * self._fresh_noise()
        if self.mask is not None:
            self.x = self.mask * self.x + (1 - self.mask) * (signal * self.known + level * self.eps)
        for row in self.order:
            row.index += 1
        self.done, self.left = self.done + 1, self.left - 1
        return [(self.order[place], seen[place]) for place in looks]

    def _guided(self, x: Tensor) -> Tensor:
        """The network's output `(N, C, h, w)`, guided (Ho & Salimans, 2022, equation 6)."""
        output = self.network((x, self.timesteps[self.done], self.states), self.passes)
        count, guided = len(self.order), len(self.guidance)
        negative, positive = output[count : count + guided], output[:guided]
        return torch.cat([negative + self.guidance * (positive - negative), output[guided:count]])

    def _fresh_noise(self) -> Tensor:
        """Noise `(N, C, h, w)` of each row's own stream; zeros where the step needs none, and draws none."""
        fresh = torch.zeros(self.x.shape)
        for place, row in enumerate(self.order):
            if row.fresh[row.index]:
                fresh[place] = row.noise.next()
        return _to_device_of(fresh, self.x)

    def release(self) -> None:
        for row, x, memory in zip(self.order, self.x, self.memory, strict=True):
            row.x, row.memory = x, memory


def _to_device_of(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor on the device of another one, without waiting for what that device does."""
    if like.device.type == "cpu":
        return tensor
    return tensor.contiguous().pin_memory().to(like.device, non_blocking=True)
