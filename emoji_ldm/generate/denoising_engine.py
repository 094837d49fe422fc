"""The denoising engine: advances any set of rows of one latent shape by one step each.

A *row* is one image on its way from noise to latents. It owns all of its state: the noisy sample, its position in its
own schedule, its noise stream. A *tick* stacks rows, runs the U-Net once for all of them and advances each row by one
step of its own schedule, with coefficients gathered from `step_coefficients`. So rows with different samplers, numbers
of steps and guidance scales share a forward pass, and a row may join, pause or leave between any two ticks without a
neighbour noticing. This is what continuous batching (see `continuous_batching`) is built on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emoji_ldm.generate.init_latents import InitialLatents, NoiseStream
from emoji_ldm.generate.latency_model import StepTimer
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel
from emoji_ldm.generate.step_coefficients import NOISE, PREVIOUS_X0, SamplingSchedule
from emoji_ldm.generate.unet_runner import UNetRunner


@dataclass(eq=False)
class DenoisingRow:
    """One image that is being denoised; tensors are on the model's device."""

    schedule: SamplingSchedule
    initial: InitialLatents
    positive: Tensor  # text states of the prompt, (rows, width)
    # Of the negative prompt; None if the guidance scale is 1, or if the network takes it as an input.
    negative: Tensor | None
    guidance: float
    noise: NoiseStream
    previews: frozenset[int] = frozenset()  # indices of the steps after which a preview is wanted
    index: int = 0  # steps done
    x: Tensor = field(init=False)  # (C, h, w) float32, in the scale of the row's scheduler; finally the scaled latents
    previous_x0: Tensor = field(init=False)  # (C, h, w) float32
    needs_previous_x0: bool = field(init=False)  # whether any step of the schedule reads `previous_x0`
    needs_noise: list[bool] = field(init=False)  # per step: whether it adds fresh noise

    def __post_init__(self) -> None:
        self.x, self.previous_x0 = self.initial.x, torch.zeros_like(self.initial.x)
        self.needs_previous_x0 = bool((self.schedule.columns[:, PREVIOUS_X0] != 0).any())
        self.needs_noise = (self.schedule.columns[:, NOISE] != 0).tolist()

    @property
    def steps_left(self) -> int:
        """Steps that are still to be done."""
        return len(self.schedule) - self.index


Preview = tuple[DenoisingRow, Tensor]  # a row and its current x0, (C, h, w)


class DenoisingEngine:
    """Advances rows of one model; not thread-safe."""

    def __init__(self, model: LatentDiffusionModel, batch_size: int, *, deterministic: bool = True) -> None:
        """Fix the batch shapes: a tick advances up to `batch_size` rows."""
        self.model, self.batch_size = model, batch_size
        self.unet = UNetRunner(model.unet, batch_size, deterministic=deterministic, architecture=model.architecture)
        self.timer = StepTimer(on_gpu=model.device.type == "cuda")
        # One stacked set per shape, not one in all: buckets of several shapes take turns, and each keeps its stacked
        # state while another one runs.
        self._batches: dict[torch.Size, _StackedRows] = {}
        self._own_size = math.prod(model.latent_shape)

    @torch.inference_mode()
    def tick(self, rows: Sequence[DenoisingRow]) -> list[Preview]:
        """Advance `rows` by one step each.

        On a GPU this returns before the step has ended, at most two steps ahead of the device.

        Args:
            rows: Up to `max_rows` unfinished rows of one latent shape.

        Returns:
            Rows that want a preview after this step, each with its x0.
        """
        shape = rows[0].x.shape
        num_guided = sum(row.negative is not None for row in rows)
        with self.timer.step(rows[0].noise.shape, len(rows), self.num_unet_rows(len(rows), num_guided, shape)):
            # Usually the same rows move tick after tick, so their stacked state is kept until the set changes. Rows
            # compare by identity (`eq=False`), so this comparison touches no tensor.
            batch = self._batches.get(shape)
            if batch is None or batch.rows != rows:
                self._unstack(shape)
                batch = self._batches[shape] = _StackedRows(
                    list(rows), self.unet, self.max_rows(shape), has_guidance_input=self.model.has_guidance_input
                )
            previews = batch.tick()
            # `steps_left` is that of the row nearest to its end, so the rows' own tensors are up to date as soon as one
            # of them is finished: callers read its `x` right after this tick.
            if not batch.steps_left:
                self._unstack(shape)
        return previews

    def evict(self, shape: Iterable[int]) -> None:
        """Free the stacked state of a latent shape that has no rows any more."""
        # Nothing is written back: the rows that were stacked have ended or failed, and nobody reads them again.
        self._batches.pop(torch.Size(shape), None)

    def max_rows(self, shape: Iterable[int]) -> int:
        """How many rows of a latent shape fit one tick: larger latents take the place of several."""
        # Activations take memory in proportion to the latent's size. Small latents get no more rows than batch_size,
        # which is the limit that the user set.
        return max(1, min(self.batch_size, self.batch_size * self._own_size // math.prod(shape)))

    def num_unet_rows(self, num_rows: int, num_guided: int, shape: Iterable[int]) -> int:
        """U-Net rows that a tick computes for this many rows of a latent shape, padding included."""
        return sum(self.unet.pass_sizes(num_rows + num_guided, self.max_rows(shape)))

    def _unstack(self, shape: torch.Size) -> None:
        """Copy the state of the stacked rows of a shape back to the rows."""
        batch = self._batches.pop(shape, None)
        if batch is not None:
            batch.write_back()


class _StackedRows:
    """The state of a set of rows as batched tensors, valid for as many ticks as each of them has left.

    The rows' own `x` and `previous_x0` are stale until `write_back`.
    """

    def __init__(self, rows: list[DenoisingRow], unet: UNetRunner, max_rows: int, *, has_guidance_input: bool) -> None:
        self.has_guidance_input = has_guidance_input
        self.rows, self.unet, self.max_rows = rows, unet, max_rows
        self.steps_left, self.steps_done = min(row.steps_left for row in rows), 0
        # Guided rows come first. The U-Net's batch is then [all prompts, negative prompts of the guided rows], and both
        # halves of the guided rows are plain slices of its output.
        self.order = sorted(rows, key=lambda row: row.negative is None)
        self.x = torch.stack([row.x for row in self.order])
        self.previous_x0 = torch.stack([row.previous_x0 for row in self.order])
        self.needs_previous_x0 = any(row.needs_previous_x0 for row in rows)
        # Work that no row of the batch needs is skipped for all of its ticks.
        self.stochastic = any(row.schedule.stochastic for row in rows)
        self._stack_unet_inputs()
        self._stack_coefficients()
        self._stack_masks()

    def _stack_unet_inputs(self) -> None:
        # Only guided rows have a second U-Net row; `source_rows` maps each U-Net row to the row whose sample it takes.
        negatives = [row.negative for row in self.order if row.negative is not None]
        states = [*(row.positive for row in self.order), *negatives]
        source_rows = [*range(len(self.order)), *range(len(negatives))]
        self.pass_sizes = self.unet.pass_sizes(len(source_rows), self.max_rows)
        # Padding repeats the first row, whose values the network can handle; its output is dropped.
        padding = sum(self.pass_sizes) - len(source_rows)
        self.states = torch.stack(states + states[:1] * padding)
        self.source_rows = _to_device_of(torch.tensor(source_rows + [0] * padding), self.x)
        scales = torch.tensor([row.guidance for row in self.order])[source_rows + [0] * padding]
        self.guidance_input = [_to_device_of(scales, self.x)] if self.has_guidance_input else []
        guidance = torch.tensor([row.guidance for row in self.order if row.negative is not None])
        self.guidance = _to_device_of(guidance[:, None, None, None], self.x)

    def _stack_coefficients(self) -> None:
        """Gather the coefficients of all coming ticks at once: a transfer per tick would stall a GPU."""
        spans = [(row.schedule, slice(row.index, row.index + self.steps_left)) for row in self.order]
        columns = torch.stack([schedule.columns[span] for schedule, span in spans], dim=-1)
        self.columns = _to_device_of(columns[..., None, None, None], self.x)  # (ticks, 9, N, 1, 1, 1)
        timesteps = torch.stack([schedule.timesteps[span] for schedule, span in spans], dim=-1)
        self.timesteps = _to_device_of(timesteps, self.x)[:, self.source_rows]  # (ticks, U-Net rows)

    def _stack_masks(self) -> None:
        """Stack what inpainting rows keep; rows without a mask get one of ones, which keeps nothing."""
        initials = [row.initial for row in self.order]
        self.mask = None
        if any(initial.mask is not None for initial in initials):
            zeros, ones = torch.zeros_like(self.x[0]), torch.ones_like(self.x[0, :1])
            self.mask = torch.stack([ones if initial.mask is None else initial.mask for initial in initials])
            self.image_latents = torch.stack(
                [zeros if initial.image_latents is None else initial.image_latents for initial in initials]
            )
            self.eps = torch.stack([zeros if initial.noise is None else initial.noise for initial in initials])

    def tick(self) -> list[Preview]:
        """One step of every row, as `step_coefficients` defines it."""
        coefficients = self.columns[self.steps_done].unbind()
        scale, keep, add, previous_x0, noise, x0_keep, x0_add, signal, noise_level = coefficients
        before, output = self.x, self._guided_output((scale * self.x)[self.source_rows])
        # New tensors instead of in-place updates: previews and rows that were written back hold views of the old ones,
        # which the decode thread may still read.
        self.x = keep * before + add * output
        previewed = [position for position, row in enumerate(self.order) if row.index in row.previews]
        # x0 is computed only where somebody reads it.
        x0 = x0_keep * before + x0_add * output if self.needs_previous_x0 or previewed else before
        if self.needs_previous_x0:
            self.x, self.previous_x0 = self.x + previous_x0 * self.previous_x0, x0
        if self.stochastic:
            self.x = self.x + noise * self._fresh_noise()
        if self.mask is not None:
            # The region to keep gets the noise that the row started with, as in diffusers: a fresh one at each step
            # would make its border inconsistent with what was denoised so far.
            kept = signal * self.image_latents + noise_level * self.eps
            self.x = self.mask * self.x + (1 - self.mask) * kept
        # Only now, as `_fresh_noise` and the previews above refer to the step that was running.
        for row in self.order:
            row.index += 1
        self.steps_done, self.steps_left = self.steps_done + 1, self.steps_left - 1
        return [(self.order[position], x0[position]) for position in previewed]

    def _guided_output(self, x: Tensor) -> Tensor:
        """Output `(N, C, h, w)` with classifier-free guidance (Ho & Salimans, 2022, equation 6).

        With guidance scale s = 1 + w: `negative + s * (positive - negative)`.
        """
        inputs = (x, self.timesteps[self.steps_done], self.states, *self.guidance_input)
        output = self.unet(inputs, self.pass_sizes)
        num_rows, num_guided = len(self.order), len(self.guidance)
        negative, positive = output[num_rows : num_rows + num_guided], output[:num_guided]
        return torch.cat([negative + self.guidance * (positive - negative), output[num_guided:num_rows]])

    def _fresh_noise(self) -> Tensor:
        """Noise `(N, C, h, w)` from each row's own stream; a row whose step needs none draws none and gets zeros."""
        # Drawn on the CPU and copied as one tensor, so that a seed gives the same noise on every device.
        fresh = torch.zeros(self.x.shape)
        for position, row in enumerate(self.order):
            if row.needs_noise[row.index]:
                fresh[position] = row.noise.next()
        return _to_device_of(fresh, self.x)

    def write_back(self) -> None:
        """Copy the current state to the rows' own attributes."""
        for row, x, previous_x0 in zip(self.order, self.x, self.previous_x0, strict=True):
            row.x, row.previous_x0 = x, previous_x0


def _to_device_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Copy a CPU tensor to the device of another one, without waiting for that device."""
    if like.device.type == "cpu":
        return tensor
    # Only copies from pinned memory are asynchronous; from pageable memory the host would wait for the copy.
    return tensor.contiguous().pin_memory().to(like.device, non_blocking=True)
