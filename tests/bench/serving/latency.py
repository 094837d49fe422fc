"""T4, T4e, T4b, T5: how long a client waits, on the same Poisson traces for every method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from tests.bench.serving import serving_methods
from tests.bench.serving.figure import Figure, Load, ratios
from tests.bench.serving.serving_methods import ServingMethod
from tests.bench.serving.static_batching import BATCH_SIZE
from tests.bench.serving.throughput import mean_rows, saturated
from tests.bench.serving.traffic import closed_loop, percentile, poisson_trace, random_requests, replay_trace

SHARE = 0.6  # of the images per second that `batch` can generate
WAITS_S = (0.005, 0.010, 0.020)
SHARES_OF_BATCH = (0.25, 1.0)  # longer waits as shares of the time of a full batch, which favours `@serve.batch`


def mixed(load: Load) -> list[Figure]:
    """T4: mixed numbers of steps."""
    wait_s = tuned_s(load, load.steps)
    others = [serving_methods.batch(wait_s), serving_methods.greedy(), serving_methods.ours(True)]
    return [Figure("T4 batch, tuned wait in ms", [1000 * wait_s]),
            *_compare("T4", load, load.steps, others, {"batch": ("<= 0.6", "<= 0.6")})]  # fmt: skip


def equal(load: Load) -> list[Figure]:
    """T4e: equal numbers of steps."""
    steps = load.steps[1:2]
    others = [serving_methods.batch(tuned_s(load, steps)), serving_methods.greedy()]
    return _compare("T4e", load, steps, others, {"batch": ("<= 0.85", "<= 0.9")})


def by_steps(load: Load) -> list[Figure]:
    """T4b: mixed, against a queue for each number of steps."""
    others = [serving_methods.batch_by_steps(tuned_s(load, load.steps), load.steps)]
    return _compare("T4b", load, load.steps, others, {"batch+": ("", "<= 0.8")})


def idle(load: Load) -> list[Figure]:
    """T5: one client at a time, on an idle server."""
    requests = random_requests(load.of(12, 9), load.steps[:1], 5)
    taken: dict[str, list[float]] = {}
    for _ in load.repeats:
        options = {
            method.name: list[float]()
            for method in (serving_methods.one(), serving_methods.ours(False), serving_methods.ours(True))
        }
        for request in requests:
            for method in (serving_methods.one(), serving_methods.ours(False), serving_methods.ours(True)):
                options[method.name] += [answer.latency_s for answer in closed_loop(method.ask, [request], 1)]
        for name, seconds in options.items():
            taken.setdefault(name, []).append(percentile(seconds, 0.5))
    return [
        Figure("T5 ours / one", ratios(taken["ours"], taken["one"]), "<= 1.1"),
        Figure("T5 ours, strict / one", ratios(taken["ours, strict"], taken["one"])),
        Figure("T5 one, ms", [1000 * seconds for seconds in taken["one"]]),
    ]


@cache
def capacity(load: Load, steps: Sequence[int]) -> float:
    """Images per second of a saturated `@serve.batch`."""
    requests = random_requests(load.of(40, 32), steps, 4)
    speed, _ = saturated(serving_methods.batch(WAITS_S[1]), requests)
    return speed * len(requests) / sum(request.steps for request in requests)


@cache
def tuned_s(load: Load, steps: Sequence[int]) -> float:
    """The wait of `@serve.batch` that gives this traffic the lowest 95th percentile."""
    batch_s = BATCH_SIZE / capacity(load, steps)
    trace = poisson_trace(random_requests(load.of(18, 12), steps, 40), SHARE * capacity(load, steps), 40)
    waits = (*WAITS_S, *(share * batch_s for share in SHARES_OF_BATCH))
    return min(
        waits,
        key=lambda wait_s: percentile(
            [a.latency_s for a in replay_trace(serving_methods.batch(wait_s).ask, trace)], 0.95
        ),
    )


def _compare(
    row: str, load: Load, steps: Sequence[int], others: Sequence[ServingMethod], bounds: dict[str, tuple[str, str]]
) -> list[Figure]:
    """Percentiles of our latency over those of the other methods, on the same traces."""
    all_methods, seconds, rows = (
        [*others, serving_methods.ours(False)],
        dict[str, list[list[float]]](),
        dict[str, list[float]](),
    )
    for seed in load.repeats:
        trace = poisson_trace(
            random_requests(load.of(36, 30), steps, 100 + seed), SHARE * capacity(load, steps), 100 + seed
        )
        for method in all_methods:
            before = Counter(method.forwards())
            answers = replay_trace(method.ask, trace)
            assert not any(answer.error for answer in answers)
            seconds.setdefault(method.name, []).append([answer.latency_s for answer in answers])
            rows.setdefault(method.name, []).append(mean_rows(method.forwards() - before))
    figures = []
    for other in others:
        for share, bound in zip((0.5, 0.95), bounds.get(other.name, ("", "")), strict=True):
            own, theirs = ([percentile(found, share) for found in seconds[name]] for name in ("ours", other.name))
            figures.append(Figure(f"{row} p{share * 100:.0f}, ours / {other.name}", ratios(own, theirs), bound))
    return figures + [
        figure
        for name, found in seconds.items()
        for figure in (
            Figure(f"{row} {name}, p100 in s", [max(values) for values in found]),
            Figure(f"{row} {name}, rows per forward", rows[name]),
        )
    ]
