"""Forward passes of the U-Net at fixed batch shapes, as CUDA graphs on a GPU.

Why shapes decide bits: a library chooses its kernel, and with it the order in which it adds, by the shape of its
inputs. The same row may therefore differ in its last bits between a batch of 3 and a batch of 8, and after 30 denoising
steps also in its pixels. At one and the same shape a row gives the same bits in any slot, with any neighbours.

The deterministic mode relies on that. It cuts the rows into passes of one shape and pads the last one, so that the same
seed gives the same pixels whoever else is in the batch (padding costs up to a pass). The fast mode pads less:

    mode            device   shape of a pass
    deterministic   CPU      batch_size rows; one or two passes, side by side in threads of one core each
    deterministic   GPU      2 * batch_size rows, one pass
    fast            CPU      exactly the rows there are, in one or two passes, whichever was measured to be quicker
    fast            GPU      the next power of two, so that few CUDA graphs cover all sizes

A guided image is two rows, one with its prompt and one with its negative prompt: hence 2 * batch_size.

The fast mode also computes in bf16 on a CPU that multiplies it natively, which about halves the time of larger passes.
Its pixels then differ between CPUs, so the deterministic mode keeps float32.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.model.architectures.architecture import Architecture
from emoji_ldm.model.architectures.unet_architecture import UNetArchitecture

# Samples (n, C, h, w), timesteps (n,), text states (n, rows, width) and, for networks that take it as an input, the
# guidance scale (n,).
UNetInputs = tuple[Tensor, ...]
Forward = Callable[[UNetInputs], Tensor]
DRAWING_NICENESS = 15  # of threads that draw on a CPU for a service; Ray's own choice for its workers


class UNetRunner:
    """Runs one U-Net, or a transformer in its place; not thread-safe."""

    def __init__(
        self, unet: Any, batch_size: int, *, deterministic: bool, architecture: Architecture | None = None
    ) -> None:
        """Prepare for up to `batch_size` images, each with and without its prompt.

        `architecture` says how the network is called; None is that of Stable Diffusion 1 and 2.
        """
        self.unet, self.deterministic, self.batch_size = unet, deterministic, batch_size
        self.architecture = architecture or UNetArchitecture()
        self.device: torch.device = unet.device
        # Read once, as diffusers visits every module of the network for this property.
        self.dtype: torch.dtype = unet.dtype
        self.is_cpu = self.device.type == "cpu"
        self.uses_bf16 = self.is_cpu and self.dtype == torch.float32 and not deterministic and has_native_bf16()
        # A second pass side by side pays off only where torch itself uses one thread; otherwise its threads already
        # occupy the cores.
        use_second_core = self.is_cpu and _num_cores() > 1 and torch.get_num_threads() == 1
        # torch releases the GIL inside its kernels, so a thread is enough to use a second core.
        self._pool = ThreadPoolExecutor(1, "pass", initializer=apply_num_threads) if use_second_core else None
        # Fast mode: the number of rows from which on two passes side by side are quicker. `warmup` measures it.
        self.min_rows_to_split = 2 if use_second_core else self.max_rows + 1
        self._graphs: dict[torch.Size, CapturedForward] = {}

    @property
    def max_rows(self) -> int:
        """The largest number of rows of a forward pass."""
        return 2 * self.batch_size

    def pass_sizes(self, num_rows: int, max_images: int = 0) -> list[int]:
        """Rows of each of the one or two passes that compute `num_rows` rows; what they exceed it by is padding.

        Args:
            num_rows: Rows to compute, up to two per image.
            max_images: Images of this latent shape that fit a tick, which fixes the shape in deterministic mode; 0 is
                `batch_size`.
        """
        max_images = max_images or self.batch_size
        if self.deterministic:
            # A CPU's time is in proportion to the rows, so smaller passes waste less on padding; a GPU runs one pass.
            rows = max_images if self.is_cpu else 2 * max_images
            return [rows] * -(-num_rows // rows)
        # A power of two wastes less than half of the rows, and a captured graph per power is few enough to capture all
        # of them.
        if not self.is_cpu:
            return [min(2 * max_images, 1 << (num_rows - 1).bit_length())]
        return [num_rows] if num_rows < self.min_rows_to_split else [num_rows - num_rows // 2, num_rows // 2]

    def __call__(self, inputs: UNetInputs, pass_sizes: Sequence[int]) -> Tensor:
        """Output `(n, C, h, w)` float32 of rows that are padded to n = `sum(pass_sizes)`."""
        if len(pass_sizes) == 1:
            return self._forward(inputs)
        # `pass_sizes` never returns more than two: a tick has at most two rows per image.
        first, second = zip(*(torch.split(part, list(pass_sizes)) for part in inputs), strict=True)
        if self._pool is None:
            return torch.cat([self._forward(first), self._forward(second)])
        # The results are joined in the order of the rows, whichever pass ends first.
        future = self._pool.submit(self._forward, second)
        return torch.cat([self._forward(first), future.result()])

    @torch.inference_mode()
    def capture(self, shape: tuple[int, int, int], states: Tensor, *, has_guidance_input: bool = False) -> None:
        """On a GPU, capture CUDA graphs for all batch shapes of a latent shape.

        Args:
            shape: `(C, h, w)` of a latent.
            states: `(rows, width)` of any prompt, as an example of the shape.
            has_guidance_input: Whether the network takes the guidance scale as an input.
        """
        # Only the model's own latent shape is captured. Each graph holds memory for its activations, and other shapes
        # are rare enough to run eagerly, with the same kernels and so the same bits.
        for rows in {sum(self.pass_sizes(num_rows)) for num_rows in range(1, self.max_rows + 1)}:
            x = torch.zeros((rows, *shape), device=self.device)
            if self.device.type == "cuda" and x.shape not in self._graphs:
                times = torch.zeros(rows, device=self.device)
                inputs = x, times, states.repeat(rows, 1, 1), *([times] if has_guidance_input else [])
                self._graphs[x.shape] = CapturedForward(self._forward, inputs)

    @torch.inference_mode()
    def _forward(self, inputs: UNetInputs) -> Tensor:
        x, timesteps, states, *guidance = inputs
        if (graph := self._graphs.get(x.shape)) is not None:
            return graph(inputs)
        # Rows keep float32 between steps, so that rounding does not add up, even where the weights are bf16.
        x, states = x.to(self.dtype), states.to(self.dtype)
        # Autocast and not bf16 weights: norms stay in float32, and no second copy of the weights is kept.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.uses_bf16):
            scale = guidance[0] if guidance else None
            output = self.architecture.predict(self.unet, x, timesteps, states, guidance=scale)
        return output.float()


class CapturedForward:
    """A forward pass captured as a CUDA graph at one shape.

    A small U-Net launches hundreds of kernels that each run for microseconds, so launching takes longer than computing.
    Replaying a graph launches all of them with one call. The kernels are those of the eager pass, so the bits are too.
    """

    def __init__(self, forward: Forward, inputs: UNetInputs) -> None:
        """Capture `forward`; `inputs` are examples of the shape."""
        self._inputs = tuple(part.clone() for part in inputs)
        self._graph = torch.cuda.CUDAGraph()
        # Warm up on a side stream, as torch.cuda.graph requires: the first calls choose kernels and allocate memory.
        side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                forward(self._inputs)
        torch.cuda.current_stream().wait_stream(side_stream)
        # "thread_local" lets other threads go on using the GPU during the capture, e.g. with the previous weights.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = forward(self._inputs)

    def __call__(self, inputs: UNetInputs) -> Tensor:
        """The output for other inputs of the same shape."""
        # A graph reads and writes fixed addresses, so inputs are copied in. The output is copied out, since the next
        # replay overwrites it while callers may still hold it.
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output.clone()


def has_native_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself; where it does not, torch converts back and forth, which is slower."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def apply_num_threads() -> None:
    """Apply torch's number of threads to the calling thread.

    Each thread has OpenMP settings of its own, which torch sets late, at its first parallel computation. The number of
    threads decides the order of sums, so a thread must not compute anything before they are set.
    """
    torch.set_num_threads(torch.get_num_threads())


def begin_drawing(device: torch.device) -> None:
    """Prepare the calling thread of a service for drawing: its number of threads, and on a CPU its priority.

    Threads that draw on a CPU take all cores, and a request that is only answered would wait for a slice of time at
    each of its steps. So they let other threads go before, as do the threads that they start. A thread that draws on a
    GPU mostly waits, and has to launch the next kernels without delay.
    """
    apply_num_threads()
    # Linux alone counts priorities by thread; elsewhere the call would lower that of the whole process.
    if device.type == "cpu" and sys.platform == "linux":
        thread = threading.get_native_id()
        # Never raised: that needs a privilege.
        os.setpriority(os.PRIO_PROCESS, thread, max(DRAWING_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def use_deterministic_kernels() -> None:
    """Restrict this process to GPU kernels whose results are the same in every run.

    Call it before the first computation. The settings belong to the process: threads that changed them for the time of
    a call would undo each other's.
    """
    # cuBLAS reads this once, when it starts; without a fixed workspace it may add in another order in every run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # An operation without a deterministic kernel gives a warning, not an error: a model with such a layer stays usable.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # The deterministic mode also fills new tensors, in case they are read uninitialised; ours never are.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Benchmarking picks the kernel that happened to be fastest, which may be another one in the next process.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _num_cores() -> int:
    # In a container or under taskset a process may use fewer cores than the machine has, which cpu_count ignores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
