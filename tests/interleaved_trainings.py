"""Two trainings on one machine that run in turns: each is stopped while the other one does some steps.

Other work on the machine, however it changes, slows both of them down alike, so that their speeds can be compared.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

WARMUP_STEPS = 30  # steps before anything is timed
TURN_STEPS = 24  # steps of one training in a turn: some seconds, as other work on the machine comes and goes
SKIPPED_STEPS = 8  # of them are not timed, since a process that was stopped has to catch up first
OVERRUN_STEPS = 2  # steps that a training may do after its turn until it is stopped
POLL_S = 0.05
MAX_DAEMON_PERIOD_S = 11.0  # the longest period of the recurring work of Ray's own processes
TIMEOUT_S = 240.0
PLAIN, LOOP, ALL = "plain ranks", "Ray Train's ranks alone", "Ray Train beside Ray's own processes"


def log_step_times(prepare_batch: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """A function that a task calls once a step, wrapped so that the times of its calls are logged."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / str(os.getpid()), os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def logged(*args: Any) -> Any:
        os.write(log, f"{time.monotonic()}\n".encode())
        return prepare_batch(*args)

    return logged


class TrainingProcesses:
    """The ranks of a training, observed by the log of their steps."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        """Observe a training, which need not have started. Its ranks write to `folder` by `log_step_times`."""
        self.folder, self.batch_size = folder, batch_size

    @property
    def ranks(self) -> list[int]:
        """Process ids."""
        return sorted(int(path.name) for path in self.folder.glob("*"))

    def step_times_s(self) -> list[float]:
        """When each step of one of its ranks started, in seconds of the monotonic clock."""
        return [float(line) for rank in self.ranks[:1] for line in Path(self.folder, str(rank)).read_text().split()]


class InterleavedTrainings:
    """Runs two trainings in turns, from a thread of its own, while the main thread waits for Ray Train."""

    def __init__(self, plain: TrainingProcesses, other: TrainingProcesses, rounds: int) -> None:
        """Take the two trainings and the number of turns of each kind."""
        self.plain, self.other, self.rounds = plain, other, rounds
        self.speeds: dict[str, list[float]] = {kind: [] for kind in (PLAIN, LOOP, ALL)}  # images/s, turn by turn
        self.cpu_s: dict[str, list[float]] = {kind: [] for kind in (PLAIN, LOOP, ALL)}  # of the ranks, per image
        self.shares: list[float] = []  # of a core, that Ray's own processes took
        self.stopped, self.error = threading.Event(), list[BaseException]()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Take turns within this context, once the plain ranks are warm. Afterwards all processes run again."""
        thread = threading.Thread(target=self._run, daemon=True)
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # otherwise stopped processes would stay stopped for ever
        try:
            self._until(self.plain, WARMUP_STEPS)
            _send(signal.SIGSTOP, self.plain.ranks)
            thread.start()
            yield
        finally:
            self.stopped.set()
            if thread.ident:
                thread.join()
            _send(signal.SIGCONT, [*self.plain.ranks, *self.other.ranks, *self._daemons()])
        if self.error:
            raise self.error[0]

    @staticmethod
    def ratios(values: Mapping[str, Sequence[float]], kind: str) -> list[float]:
        """Ratios to the plain ranks, round by round."""
        return [one / other for one, other in zip(values[kind], values[PLAIN], strict=True)]

    def _run(self) -> None:
        try:
            self._until(self.other, WARMUP_STEPS)
            for _ in range(self.rounds):
                for kind in self.speeds:
                    self._turn(kind)
        except BaseException as error:  # noqa: BLE001 (raised by `beside`)
            self.error.append(error)
        finally:
            _send(signal.SIGCONT, [*self.plain.ranks, *self.other.ranks, *self._daemons()])

    def _turn(self, kind: str) -> None:
        side, daemons = self.plain if kind == PLAIN else self.other, self._daemons()
        _send(signal.SIGSTOP, [*self.plain.ranks, *self.other.ranks, *daemons])
        if kind == ALL:  # their overdue work comes first; their recurring work is part of the turn
            _send(signal.SIGCONT, daemons)
            self.stopped.wait(random.uniform(1, MAX_DAEMON_PERIOD_S))
        before, cpu_s, daemons_cpu_s, started = (
            len(side.step_times_s()),
            _cpu_s(side.ranks),
            _cpu_s(daemons),
            time.monotonic(),
        )
        _send(signal.SIGCONT, side.ranks)
        self._until(side, before + TURN_STEPS)
        _send(signal.SIGSTOP, side.ranks)
        first, *times_s = side.step_times_s()[before + SKIPPED_STEPS :]
        self.speeds[kind].append(side.batch_size * len(times_s) / (times_s[-1] - first))
        self.cpu_s[kind].append((_cpu_s(side.ranks) - cpu_s) / (side.batch_size * (len(side.step_times_s()) - before)))
        if kind == ALL:
            self.shares.append((_cpu_s(daemons) - daemons_cpu_s) / (time.monotonic() - started))

    def _until(self, side: TrainingProcesses, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while len(side.step_times_s()) < count:
            if self.stopped.wait(POLL_S) or time.monotonic() > deadline:
                raise RuntimeError("a training ended, or hangs, before all turns were done")

    def _daemons(self) -> list[int]:
        """Ray's own processes."""
        ranks = {*self.plain.ranks, *self.other.ranks}
        return [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in ranks]


def _send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that processes have used."""
    seconds = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            seconds += times.user + times.system
    return seconds
