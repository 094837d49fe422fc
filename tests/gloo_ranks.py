"""Real ranks over gloo without Ray: long-lived processes that run one function after another in lockstep."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIMEOUT_S = 480  # the first call imports DeepSpeed, which takes minutes on a loaded machine


class Ranks:
    """A process group of `size` processes; close it, or use it in a `with` block.

    Functions must be importable (top level of a module) and their arguments and results must pickle.
    """

    def __init__(self, size: int, folder: Path) -> None:
        """Start the processes, which rendezvous in `folder`. Each imports torch and DeepSpeed once."""
        folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, str(folder / "rendezvous"), theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What `function(*args)` returns on each rank, rank 0 first; raises RuntimeError with the rank's traceback."""
        self.start(function, *args)
        return self.join()

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        """Start the function and return, so that the caller can interfere while it runs."""
        for pipe in self.pipes:
            pipe.send((function, args))

    def join(self) -> list[Any]:
        """Results of the function that was started, rank 0 first; EOFError if a rank died."""
        results = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(TIMEOUT_S), f"rank {rank} did not answer within {TIMEOUT_S} s"
            done, value = pipe.recv()
            if not done:
                raise RuntimeError(f"rank {rank}: {value}")
            results.append(value)
        return results

    def kill(self, *ranks: int) -> None:
        """Kill ranks, all by default, with SIGKILL."""
        for rank in ranks or range(len(self.processes)):
            os.kill(self.processes[rank].pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill all processes."""
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank: int, size: int, rendezvous: str, pipe: Connection) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "HF_HUB_OFFLINE": "1"}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*args)))
        except BaseException:  # noqa: BLE001 (raised again in the caller)
            pipe.send((False, traceback.format_exc()))
