"""Expressions of rules and boards: what they name, and whether that is exported by what is pinned."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import ray
import yaml

from ray_jobs.execution import job_metrics
from ray_jobs.serving import service_metrics

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "k8s" / "components" / "monitoring"
LISTS = Path(__file__).parent / "metrics"
RAY = Path(ray.__file__).parent
BINARIES = ("core/src/ray/gcs/gcs_server", "core/src/ray/raylet/raylet", "_raylet.so")
SOURCES = ("_private", "autoscaler", "core", "dashboard", "data", "serve", "train", "util")
ENDINGS = re.compile(r"_(total|bucket|sum|count)$")  # that exporters add to what code calls a metric


def rules() -> list[dict]:
    """Every rule of the component, recorded figures and alerts."""
    files = sorted((MONITORING / "rules").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["spec"]["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def boards() -> dict[str, dict]:
    """Every board by the name of its file."""
    return {file.name: json.loads(file.read_text()) for file in sorted((MONITORING / "boards").glob("*.json"))}


def panels(board: dict) -> Iterator[dict]:
    """Panels of a board, those inside folded rows too."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def plain(expr: str) -> str:
    """An expression with Grafana's variables filled in, as Prometheus would get it."""
    spans = re.sub(r"\[\$\{?\w+\}?", "[5m", expr)
    return re.sub(r"\$\{?\w+(:\w+)?\}?", "1", spans)


def names(expr: str) -> set[str]:
    """The metrics that an expression reads; ValueError if it cannot be parsed."""
    return set(_names(promql_parser.parse(plain(expr))))


def _names(node: object) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        name = node.name or next(one.value for one in node.matchers.matchers if one.name == "__name__")
        either = re.fullmatch(r"(.*)\((\w+(?:\|\w+)*)\)(.*)", name)  # a pattern such as ray_serve_(http|grpc)_x
        yield from (either[1] + part + either[3] for part in either[2].split("|")) if either else [name]
    for part in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if (below := getattr(node, part, None)) is not None:
            yield from _names(below)
    for below in getattr(node, "args", None) or ():
        yield from _names(below)


def is_exported(name: str) -> bool:
    """Whether the pinned Ray, this project or one of the lists in metrics/ has it."""
    return name in listed() or name in _ours() or (name.startswith(("ray_", "autoscaler_")) and _is_rays(name))


@functools.cache
def listed() -> frozenset[str]:
    """Metrics of what cannot be asked here; the first line of each list says where it comes from."""
    lines = [line for file in LISTS.glob("*.txt") for line in file.read_text().splitlines()]
    return frozenset(line for line in lines if line and not line.startswith("#"))


@functools.cache
def _ours() -> frozenset[str]:
    replica, client, bulk = (
        service_metrics.ReplicaMetrics(),
        service_metrics.ClientMetrics(),
        service_metrics.BulkMetrics(),
    )
    bulk_metrics = [*bulk.gauges.values(), *bulk.counters.values()]
    jobs = [*job_metrics.stage_counters().values(), *job_metrics.train_gauges().values()]
    serving = [*vars(replica).values(), *replica.outcomes.values(), *vars(client).values()]
    metrics = [one for one in [*serving, *bulk_metrics, *jobs] if hasattr(one, "info")]
    return frozenset(name for metric in metrics for name in _exported(metric))


def _exported(metric: object) -> list[str]:
    """What Ray's agent calls a metric of an application."""
    name, kind = f"ray_{metric.info['name']}", type(metric).__name__
    if kind == "Histogram":
        return [f"{name}_{ending}" for ending in ("bucket", "sum", "count")]
    return [f"{name}_total"] if kind == "Counter" else [name]


def _is_rays(name: str) -> bool:
    own = name.removeprefix("ray_").removeprefix("autoscaler_")
    return not _words().isdisjoint({own, ENDINGS.sub("", own)})


@functools.cache
def _words() -> frozenset[str]:
    """Every name that the wheel could mean a metric by: words between quotes in Python, between zeros in libraries."""
    from ray.data._internal import stats
    from ray.data._internal.execution.interfaces.op_runtime_metrics import NodeMetrics, OpRuntimeMetrics

    # Ray Data puts these names together in ray/data/_internal/stats.py.
    words = {f"data_{metric.name}" for metric in OpRuntimeMetrics.get_metrics()}
    words |= {f"{word}_{statistic}" for word in words for statistic in stats.DISTRIBUTION_METRIC_STATISTICS}
    words |= {f"data_{field.name}_per_node" for field in dataclasses.fields(NodeMetrics)}
    for binary in BINARIES:
        words |= {word.decode() for word in re.findall(rb"\0([a-z][a-z0-9_]{3,80})(?=\0)", (RAY / binary).read_bytes())}
    for file in (file for folder in SOURCES for file in (RAY / folder).rglob("*.py")):
        if "metrics/dashboards" not in str(file):  # the boards themselves prove nothing
            for word in re.findall(r"""["'`]([\w{}]+)["'`]""", file.read_text()):
                words |= {word.replace("{protocol_name}", protocol) for protocol in ("http", "grpc")}
    return frozenset(words)
