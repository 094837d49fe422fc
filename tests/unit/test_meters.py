"""Figures for Prometheus, of the bulk runner."""

from types import SimpleNamespace

from emoji_ldm.serve.sets.runner import Stats
from ray_jobs.meters import Bulk


def test_counters_of_the_bulk_runner_go_on_and_gauges_tell_what_is():
    bulk, told = Bulk(), []
    for name in bulk.gauges:
        bulk.gauges[name] = SimpleNamespace(set=lambda value, name=name: told.append((name, value)))
    for name in bulk.counters:
        bulk.counters[name] = SimpleNamespace(inc=lambda value, name=name: told.append((name, value)))
    bulk.update(Stats(jobs=2, in_flight=5, window=8.0, drawn=10, refusals=0, failures=1))
    bulk.update(Stats(jobs=1, in_flight=0, window=8.0, drawn=15, refusals=0, failures=1))
    assert told == [("jobs", 2), ("in_flight", 5), ("window", 8.0), ("drawn", 10), ("failures", 1),
                    ("jobs", 1), ("in_flight", 0), ("window", 8.0), ("drawn", 5)]  # fmt: skip
