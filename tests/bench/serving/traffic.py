"""Draws and the moments at which they are asked for: the same for every rig."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from emoji_ldm.generate.request import GenerationRequest

GUIDANCE = (1.0, 3.0, 7.5)
PROMPTS = tuple(f"a {mood} {thing}" for mood in ("happy", "sad", "angry", "sleepy", "tiny") for thing in
                ("cat", "blob", "robot", "heart", "star", "ghost", "frog", "cake"))  # fmt: skip
HANGS_S = 300.0  # who is not answered by then hangs

_LOOP = asyncio.new_event_loop()  # one for all: Ray's queues belong to a loop

Ask = Callable[[GenerationRequest], Awaitable[bytes]]
Trace = Sequence[tuple[float, GenerationRequest]]  # (seconds after the start, what is asked)


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    draw: GenerationRequest
    asked_s: float  # after the start
    took_s: float
    png: bytes = b""
    error: BaseException | None = None

    @property
    def ended_s(self) -> float:
        """Seconds from the start to the answer."""
        return self.asked_s + self.took_s


def draws(count: int, steps: Sequence[int], seed: int) -> list[GenerationRequest]:
    """Draws with each number of steps, and each guidance, equally often (as far as `count` divides), shuffled."""
    chance = random.Random(seed)
    lengths = [steps[index % len(steps)] for index in range(count)]
    guidance = [GUIDANCE[index // len(steps) % len(GUIDANCE)] for index in range(count)]
    found = [
        GenerationRequest(chance.choice(PROMPTS), seed=chance.randrange(2**31), steps=length, guidance_scale=scale)
        for length, scale in zip(lengths, guidance, strict=True)
    ]
    chance.shuffle(found)
    return found


def poisson(wanted: Sequence[GenerationRequest], per_s: float, seed: int) -> Trace:
    """The draws as independent visitors ask for them, `per_s` of them in a second."""
    chance, now, trace = random.Random(seed), 0.0, []
    for draw in wanted:
        now += chance.expovariate(per_s)
        trace.append((now, draw))
    return trace


def play(ask: Ask, trace: Trace) -> list[Answer]:
    """Ask at the trace's moments, however long answers take; the answers in the order of the trace."""

    async def visit(at_s: float, draw: GenerationRequest) -> Answer:
        await asyncio.sleep(max(0.0, began + at_s - time.perf_counter()))
        return await _answer(ask, draw, began, at_s)

    async def all_visits() -> list[Answer]:
        return await asyncio.gather(*(visit(at_s, draw) for at_s, draw in trace))

    began = time.perf_counter()
    return _LOOP.run_until_complete(all_visits())


def crowd(ask: Ask, wanted: Sequence[GenerationRequest], visitors: int) -> list[Answer]:
    """Ask as `visitors` that each ask again as soon as they are answered."""

    async def visitor() -> list[Answer]:
        return [await _answer(ask, draw, began, time.perf_counter() - began) for draw in left]

    async def everybody() -> list[Answer]:
        return [answer for answers in await asyncio.gather(*(visitor() for _ in range(visitors))) for answer in answers]

    began, left = time.perf_counter(), iter(wanted)
    return _LOOP.run_until_complete(everybody())


async def _answer(ask: Ask, draw: GenerationRequest, began: float, asked_s: float) -> Answer:
    """What comes of a request, timed from the moment at which it should have been asked."""
    try:
        png, error = await asyncio.wait_for(ask(draw), HANGS_S), None
    except Exception as problem:  # noqa: BLE001  what went wrong is what is measured
        png, error = b"", problem
    return Answer(draw, asked_s, time.perf_counter() - began - asked_s, png, error)


def steps_per_s(answers: Sequence[Answer], warm: int, cold: int) -> float:
    """Row-steps per second while the rig is full: from the `warm`-th answer to the `cold`-th last one.

    Work, not pictures, is counted: short pictures are answered first, so that any window has too many of them.
    """
    ended = sorted(answers, key=lambda answer: answer.ended_s)
    assert not any(answer.error for answer in ended), next(answer.error for answer in ended if answer.error)
    first, last = ended[warm - 1].ended_s, ended[-cold - 1].ended_s
    return sum(answer.draw.steps for answer in ended if first < answer.ended_s <= last) / (last - first)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
