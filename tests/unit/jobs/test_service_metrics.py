"""Figures for Prometheus, of the bulk runner."""

from types import SimpleNamespace

from emoji_ldm.serve.bulk.job_runner import RunnerStats
from ray_jobs.serving.service_metrics import BulkMetrics


def test_counters_of_the_bulk_runner_go_on_and_gauges_tell_what_is():
    bulk, told = BulkMetrics(), []
    for name in bulk.gauges:
        bulk.gauges[name] = SimpleNamespace(set=lambda value, name=name: told.append((name, value)))
    for name in bulk.counters:
        bulk.counters[name] = SimpleNamespace(inc=lambda value, name=name: told.append((name, value)))
    bulk.update(RunnerStats(jobs=2, in_flight=5, window=8.0, drawn=10, refusals=0, failures=1))
    bulk.update(RunnerStats(jobs=1, in_flight=0, window=8.0, drawn=15, refusals=0, failures=1))
    assert told == [("jobs", 2), ("in_flight", 5), ("window", 8.0), ("drawn", 10), ("failures", 1),
                    ("jobs", 1), ("in_flight", 0), ("window", 8.0), ("drawn", 5)]  # fmt: skip
