"""Two trainings on one machine that move in turns: one is stopped while the other takes some steps.

Whatever else the machine does, and however it changes, falls on both alike.
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
TURN_STEPS = 24  # steps of a side in a turn, some seconds: other work on the machine comes and goes; of these
SKIPPED_STEPS = 8  # are not timed, since what was stopped has to catch up first; and
OVERRUN_STEPS = 2  # are what it may take more until it is stopped
POLL_S = 0.05
MAX_DAEMON_PERIOD_S = 11.0  # the longest time between two of the same acts of Ray's own processes
TIMEOUT_S = 240.0
PLAIN, LOOP, ALL = "plain ranks", "Ray Train's ranks alone", "Ray Train beside Ray's own processes"


def log_step_times(draw: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`draw` of a task, which is called once a step, that also writes down when."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / str(os.getpid()), os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def told(*args: Any) -> Any:
        os.write(log, f"{time.monotonic()}\n".encode())
        return draw(*args)

    return told


class TrainingProcesses:
    """The ranks of a training, seen from outside."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        """Name it; it need not have begun. Its ranks write there by `telling`."""
        self.folder, self.batch_size = folder, batch_size

    @property
    def ranks(self) -> list[int]:
        """Process ids."""
        return sorted(int(path.name) for path in self.folder.glob("*"))

    def moments(self) -> list[float]:
        """When each step of one of its ranks was begun."""
        return [float(line) for rank in self.ranks[:1] for line in Path(self.folder, str(rank)).read_text().split()]


class InterleavedTrainings:
    """Lets two sides move in turns, from a thread of its own, while the main thread waits for Ray Train's."""

    def __init__(self, plain: TrainingProcesses, other: TrainingProcesses, rounds: int) -> None:
        """Settle how many turns each kind has."""
        self.plain, self.other, self.rounds = plain, other, rounds
        self.speeds: dict[str, list[float]] = {kind: [] for kind in (PLAIN, LOOP, ALL)}  # images/s, turn by turn
        self.cpu_s: dict[str, list[float]] = {kind: [] for kind in (PLAIN, LOOP, ALL)}  # of the ranks, per image
        self.shares: list[float] = []  # of a core, that Ray's own processes took
        self.over, self.error = threading.Event(), list[BaseException]()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Take turns meanwhile, once the plain ranks are warm; in the end all processes move, whatever happened."""
        thread = threading.Thread(target=self._run, daemon=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else what is stopped would stay so for ever
        try:
            self._until(self.plain, WARMUP_STEPS)
            _send(signal.SIGSTOP, self.plain.ranks)
            thread.start()
            yield
        finally:
            self.over.set()
            if thread.ident:
                thread.join()
            _send(signal.SIGCONT, [*self.plain.ranks, *self.other.ranks, *self._daemons()])
        if self.error:
            raise self.error[0]

    @staticmethod
    def ratios(values: Mapping[str, Sequence[float]], kind: str) -> list[float]:
        """Over the plain ranks in the same round."""
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
        if kind == ALL:  # all that is overdue with them comes first; what they do every few seconds is part of a turn
            _send(signal.SIGCONT, daemons)
            self.over.wait(random.uniform(1, MAX_DAEMON_PERIOD_S))
        before, spent, spent_besides, began = len(side.moments()), _cpu_s(side.ranks), _cpu_s(daemons), time.monotonic()
        _send(signal.SIGCONT, side.ranks)
        self._until(side, before + TURN_STEPS)
        _send(signal.SIGSTOP, side.ranks)
        first, *moments = side.moments()[before + SKIPPED_STEPS :]
        self.speeds[kind].append(side.batch_size * len(moments) / (moments[-1] - first))
        self.cpu_s[kind].append((_cpu_s(side.ranks) - spent) / (side.batch_size * (len(side.moments()) - before)))
        if kind == ALL:
            self.shares.append((_cpu_s(daemons) - spent_besides) / (time.monotonic() - began))

    def _until(self, side: TrainingProcesses, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while len(side.moments()) < count:
            if self.over.wait(POLL_S) or time.monotonic() > deadline:
                raise RuntimeError("a training ended, or hangs, before all turns were taken")

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
    spent = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            spent += times.user + times.system
    return spent
