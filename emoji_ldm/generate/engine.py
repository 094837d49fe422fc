"""Rows in flight: each picture has its own steps, sampler, guidance and place in time; a tick moves many of them.

A row keeps all of its state in tensors of its own. A tick stacks rows of one shape, calls the network once and
moves every row by one step of its own schedule. So a row may join, pause and leave between any two ticks, and its
neighbours never notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emoji_ldm.generate.model import Model
from emoji_ldm.generate.network import Network
from emoji_ldm.generate.tables import MEMORY, NOISE, Schedule


@dataclass(eq=False)
class Row:
    """A picture on its way, on the model's device unless told otherwise."""

    schedule: Schedule
    x: Tensor  # (C, h, w), in its scheduler's own scale; at the end the scaled latents
    positive: Tensor  # (tokens, width)
    negative: Tensor | None  # None without guidance
    guidance: float
    generator: torch.Generator | None = None  # on the CPU, where steps need fresh noise
    known: Tensor | None = None  # latents of the picture that inpainting keeps
    mask: Tensor | None = None  # (1, h, w), 1 where the picture is drawn anew
    noise: Tensor | None = None  # what `known` is noised with
    previews: frozenset[int] = frozenset()  # steps whose picture so far is wanted
    memory: Tensor | None = None
    index: int = 0  # steps taken
    remembers: bool = field(init=False)
    fresh: list[bool] = field(init=False)  # per step: whether it needs fresh noise

    def __post_init__(self) -> None:
        self.remembers = bool((self.schedule.columns[:, MEMORY] != 0).any())
        self.fresh = (self.schedule.columns[:, NOISE] != 0).tolist()

    @property
    def left(self) -> int:
        """Steps to go."""
        return len(self.schedule) - self.index


Preview = tuple[Row, Tensor]  # a row and the latents (C, h, w) of its picture as the network sees it so far


class Engine:
    """Moves rows of one model; not safe to use from two threads at once."""

    def __init__(self, model: Model, batch_size: int, *, strict: bool = True) -> None:
        """Settle the shapes: up to `batch_size` rows move in one tick."""
        self.model, self.batch_size = model, batch_size
        self.network = Network(model.unet, batch_size, strict=strict)
        self._batches: dict[torch.Size, _Batch] = {}

    @torch.inference_mode()
    def tick(self, rows: Sequence[Row]) -> list[Preview]:
        """Move `rows`, up to `batch_size` unfinished ones of one shape, by one step each.

        A row that was in the last tick of its shape and is not in this one has its state to itself again.
        """
        shape = rows[0].x.shape
        batch = self._batches.get(shape)
        if batch is None or batch.rows != list(rows) or not batch.left:
            self.release(shape)
            batch = self._batches[shape] = _Batch(rows, self.network)
        previews = batch.tick()
        if not all(row.left for row in rows):
            self.release(shape)
        return previews

    def release(self, shape: torch.Size) -> None:
        """Give the rows of the last tick of this shape their state."""
        batch = self._batches.pop(shape, None)
        if batch is not None:
            batch.release()

    def forget(self, shape: Sequence[int]) -> None:
        """Keep nothing of a shape that no row has any more."""
        self._batches.pop(torch.Size(shape), None)

    def cost_of(self, num_rows: int, num_guided: int) -> int:
        """Network rows that a tick computes for so many rows, padding included."""
        return sum(self.network.passes(num_rows + num_guided))


class _Batch:
    """Rows stacked for as many ticks as all of them have left."""

    def __init__(self, rows: Sequence[Row], network: Network) -> None:
        self.rows, self.network = list(rows), network
        # Guided ones first: the network's rows are all prompts, then the guided rows' negative prompts.
        self.order = sorted(rows, key=lambda row: row.negative is None)
        self.num_guided = sum(row.negative is not None for row in rows)
        self.left, self._done = min(row.left for row in rows), 0
        self.x = torch.stack([row.x for row in self.order])
        self._stack_inputs()
        self._stack_tables()
        self._stack_extras()

    def _stack_inputs(self) -> None:
        count = len(self.order)
        seats = [*range(count), *range(self.num_guided)]
        self.passes = self.network.passes(len(seats))
        padding = [0] * (sum(self.passes) - len(seats))
        negatives = [row.negative for row in self.order[: self.num_guided]]
        states = [*(row.positive for row in self.order), *negatives]
        self.states = torch.stack([state for state in states if state is not None] + [states[0]] * len(padding))  # type: ignore[list-item]
        self._seats = seats + padding
        self.seats = torch.tensor(self._seats).to(self.x.device, non_blocking=True)

    def _stack_tables(self) -> None:
        spans = [slice(row.index, row.index + self.left) for row in self.order]
        columns = torch.stack([row.schedule.columns[span] for row, span in zip(self.order, spans, strict=True)], dim=-1)
        timesteps = torch.stack(
            [row.schedule.timesteps[span] for row, span in zip(self.order, spans, strict=True)], dim=-1
        )
        self.columns = _moved(columns[..., None, None, None], self.x)  # (ticks, 9, N, 1, 1, 1)
        self.timesteps = _moved(timesteps[:, self._seats], self.x)
        guidance = torch.tensor([row.guidance for row in self.order[: self.num_guided]])
        self.guidance = _moved(guidance[:, None, None, None], self.x)

    def _stack_extras(self) -> None:
        """What only some rows need; the others get values that change nothing."""
        self.stochastic = any(row.generator is not None for row in self.order)
        self.memory = None
        if any(row.remembers for row in self.order):
            nothing = torch.zeros_like(self.x[0])
            self.memory = torch.stack([nothing if row.memory is None else row.memory for row in self.order])
        self.mask = None
        if any(row.mask is not None for row in self.order):
            zeros, ones = torch.zeros_like(self.x[0]), torch.ones_like(self.x[0, :1])
            self.mask = torch.stack([ones if row.mask is None else row.mask for row in self.order])
            self.known = torch.stack([zeros if row.known is None else row.known for row in self.order])
            self.noise = torch.stack([zeros if row.noise is None else row.noise for row in self.order])

    def tick(self) -> list[Preview]:
        scale, keep, add, remember, fresh, x0_keep, x0_add, signal, level = self.columns[self._done].unbind()
        output = self._guided((scale * self.x)[self.seats])
        wanted = [place for place, row in enumerate(self.order) if row.index in row.previews]
        x = keep * self.x + add * output
        if self.memory is not None:
            x = x + remember * self.memory
        if self.memory is not None or wanted:
            self.memory, seen = x0_keep * self.x + x0_add * output, self.memory
            previews = [(self.order[place], self.memory[place]) for place in wanted]
            self.memory = self.memory if seen is not None else None
        else:
            previews = []
        if self.stochastic:
            x = x + fresh * self._fresh_noise()
        if self.mask is not None:
            x = self.mask * x + (1 - self.mask) * (signal * self.known + level * self.noise)
        self.x = x
        self._done, self.left = self._done + 1, self.left - 1
        for row in self.order:
            row.index += 1
        return previews

    def _guided(self, x: Tensor) -> Tensor:
        """The network's output `(N, C, h, w)`, guided (Ho & Salimans, 2022, equation 6)."""
        output = self.network((x, self.timesteps[self._done], self.states), self.passes)
        count, guided = len(self.order), self.num_guided
        negative, positive = output[count : count + guided], output[:guided]
        return torch.cat([negative + self.guidance * (positive - negative), output[guided:count]])

    def _fresh_noise(self) -> Tensor:
        """Noise `(N, C, h, w)` of each row's own stream; zeros where the step needs none, and draws none."""
        noise = torch.zeros(self.x.shape)
        for place, row in enumerate(self.order):
            if row.generator is not None and row.fresh[row.index]:
                noise[place] = torch.randn(row.x.shape, generator=row.generator)
        return _moved(noise, self.x)

    def release(self) -> None:
        for place, row in enumerate(self.order):
            row.x = self.x[place]
            if self.memory is not None and row.remembers:
                row.memory = self.memory[place]


def _moved(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor on the device of another one, without waiting for what that device does."""
    if like.device.type == "cpu":
        return tensor
    return tensor.contiguous().pin_memory().to(like.device, non_blocking=True)
