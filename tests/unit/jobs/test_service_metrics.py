"""Prometheus metrics of the bulk runner."""

from types import SimpleNamespace

from emoji_ldm.serve.bulk.job_runner import RunnerStats
from ray_jobs.serving.service_metrics import BulkMetrics


def test_counters_of_the_bulk_runner_grow_and_gauges_show_the_current_state():
    bulk, values = BulkMetrics(), []
    for name in bulk.gauges:
        bulk.gauges[name] = SimpleNamespace(set=lambda value, name=name: values.append((name, value)))
    for name in bulk.counters:
        bulk.counters[name] = SimpleNamespace(inc=lambda value, name=name: values.append((name, value)))
    bulk.update(RunnerStats(jobs=2, in_flight=5, window=8.0, drawn=10, refusals=0, failures=1))
    bulk.update(RunnerStats(jobs=1, in_flight=0, window=8.0, drawn=15, refusals=0, failures=1))
    assert values == [("jobs", 2), ("in_flight", 5), ("window", 8.0), ("drawn", 10), ("failures", 1),
                    ("jobs", 1), ("in_flight", 0), ("window", 8.0), ("drawn", 5)]  # fmt: skip
