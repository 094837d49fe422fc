"""Random requests and their arrival times, the same for every serving method, and the clients that send them."""

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
HANG_TIMEOUT_S = 300.0  # a request without an answer by then hangs

_LOOP = asyncio.new_event_loop()  # a single loop for all methods, since Ray's queues belong to one

Ask = Callable[[GenerationRequest], Awaitable[bytes]]
Trace = Sequence[tuple[float, GenerationRequest]]  # (seconds after the start, request)


@dataclass(frozen=True)
class Answer:
    """The result of one request."""

    request: GenerationRequest
    asked_s: float  # after the start
    latency_s: float
    png: bytes = b""
    error: BaseException | None = None

    @property
    def ended_s(self) -> float:
        """Seconds from the start to the answer."""
        return self.asked_s + self.latency_s


def random_requests(count: int, steps: Sequence[int], seed: int) -> list[GenerationRequest]:
    """Requests with each number of steps and each guidance scale equally often, shuffled."""
    rng = random.Random(seed)
    lengths = [steps[index % len(steps)] for index in range(count)]
    guidance = [GUIDANCE[index // len(steps) % len(GUIDANCE)] for index in range(count)]
    found = [
        GenerationRequest(rng.choice(PROMPTS), seed=rng.randrange(2**31), steps=length, guidance_scale=scale)
        for length, scale in zip(lengths, guidance, strict=True)
    ]
    rng.shuffle(found)
    return found


def poisson_trace(requests: Sequence[GenerationRequest], per_s: float, seed: int) -> Trace:
    """Requests that arrive as a Poisson process, `per_s` in a second: an open loop of independent clients."""
    rng, now, trace = random.Random(seed), 0.0, []
    for request in requests:
        now += rng.expovariate(per_s)
        trace.append((now, request))
    return trace


def replay_trace(ask: Ask, trace: Trace) -> list[Answer]:
    """Send requests at the times of a trace, however long answers take; answers in the order of the trace."""

    async def send(at_s: float, request: GenerationRequest) -> Answer:
        await asyncio.sleep(max(0.0, started + at_s - time.perf_counter()))
        return await _answer(ask, request, started, at_s)

    async def all_requests() -> list[Answer]:
        return await asyncio.gather(*(send(at_s, request) for at_s, request in trace))

    started = time.perf_counter()
    return _LOOP.run_until_complete(all_requests())


def closed_loop(ask: Ask, requests: Sequence[GenerationRequest], num_clients: int) -> list[Answer]:
    """Send requests by `num_clients` clients, each of which sends the next as soon as it has an answer."""

    async def client() -> list[Answer]:
        return [await _answer(ask, request, started, time.perf_counter() - started) for request in left]

    async def all_clients() -> list[Answer]:
        return [
            answer for answers in await asyncio.gather(*(client() for _ in range(num_clients))) for answer in answers
        ]

    started, left = time.perf_counter(), iter(requests)
    return _LOOP.run_until_complete(all_clients())


async def _answer(ask: Ask, request: GenerationRequest, started: float, asked_s: float) -> Answer:
    """The answer to a request, timed from the moment at which it should have been sent."""
    try:
        png, error = await asyncio.wait_for(ask(request), HANG_TIMEOUT_S), None
    except Exception as problem:  # noqa: BLE001  errors are among what is measured
        png, error = b"", problem
    return Answer(request, asked_s, time.perf_counter() - started - asked_s, png, error)


def steps_per_s(answers: Sequence[Answer], warm: int, cold: int) -> float:
    """Row-steps per second while the method is saturated: from the `warm`-th answer to the `cold`-th last one.

    Steps are counted, not images: short images are answered first, so any window holds too many of them.
    """
    ended = sorted(answers, key=lambda answer: answer.ended_s)
    assert not any(answer.error for answer in ended), next(answer.error for answer in ended if answer.error)
    first, last = ended[warm - 1].ended_s, ended[-cold - 1].ended_s
    return sum(answer.request.steps for answer in ended if first < answer.ended_s <= last) / (last - first)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
