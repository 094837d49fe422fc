"""The description of a plan: node pools with prices, queues with quotas, work, and how fast Pods start.

A scenario is a YAML file whose values can be overridden on the command line. If it names an overlay, Pod sizes, quotas
and limits come from the manifests of that overlay (see `worker_groups`), and the scenario states only what differs.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emoji_ldm.config.loading import apply_override
from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.simulation.worker_groups import fill_from_overlay

PRESETS = Path(__file__).parent
HEAD_POOL = "cpu"  # every run has a head besides its workers, whatever their pools
PodSize = tuple[int, int, int]  # millicores, MiB, GPUs
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
# The names of pools, flavors and Karpenter's NodePools are the same, so one name leads from a quota to a price.
Amounts = dict[str, dict[str, NonNegative]]  # by flavor and resource: cores, GiB, whole GPUs


class ScenarioSection(BaseModel):
    """A section of a scenario; unknown fields and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SizedSpec(ScenarioSection):
    """What a node has, or what a Pod requests."""

    cpu: Positive
    memory_gib: NonNegative
    gpus: int = Field(default=0, ge=0)

    # Whole numbers: sums of floats would drift, and a node that exactly fits would then refuse a Pod.
    @cached_property
    def size(self) -> PodSize:
        return round(self.cpu * 1000), round(self.memory_gib * 1024), self.gpus


class NodePoolSpec(SizedSpec):
    """Machines of one kind; the pool, its Kueue flavor and its Karpenter NodePool share one name."""

    instance: str
    # The price of a node, not of a Pod: what a Pod does not use is reported as idle.
    price_usd_h: NonNegative
    limit: int = Field(ge=0)  # maximum number of nodes
    startup_s: NonNegative = 180  # from the order of a node until it runs Pods, their image pulled
    idle_s: NonNegative = 300  # Karpenter's consolidateAfter, with WhenEmpty
    loss_per_h: NonNegative | None = None  # interruptions per spot node; None: on demand


# Each default is a published figure or an assumption, and its comment says which. A plan of days hardly depends on
# them; the start of thousands of Pods does.
class StartRates(ScenarioSection):
    """How fast Pods are created and started."""

    reconcile_concurrency: int = Field(default=10, ge=1)  # KubeRay's --reconcile-concurrency
    cluster_s: NonNegative = 0.179  # of a reconciler per RayCluster: 1,000 RayClusters in 269 s (KubeRay v1.1.1)
    api_pods_per_s: Positive = 50.0  # of all reconcilers together: kuberay#3907, 10,000 Pods in 200 s
    start_s: NonNegative = 13.0  # from a node with the image to a Ray process that has joined its cluster; assumption
    restart_s: NonNegative = 60.0  # of a gang, to read its checkpoint after a worker was replaced; assumption


class ClusterQueueSpec(ScenarioSection):
    """A ClusterQueue: quotas by flavor and resource ("cpu" in cores, "memory" in GiB, "nvidia.com/gpu")."""

    nominal: Amounts = {}
    borrowing: Amounts = {}
    lending: Amounts = {}
    cohort: str = "emoji-ldm"
    strict: bool = False  # StrictFIFO


class WorkerGroupSpec(SizedSpec):
    """Identical worker Pods."""

    pool: str
    min_replicas: int = Field(ge=0)
    max_replicas: int | None = None  # None: min_replicas

    @property
    def maximum(self) -> int:
        return self.min_replicas if self.max_replicas is None else self.max_replicas


class WorkloadSpec(ScenarioSection):
    """A RayJob with an amount of work, or a RayService with a load."""

    queue: str
    priority: int = 10_000
    like: str | None = None  # the RayJob or RayService of the overlay that it is modelled on
    workers: int | None = None  # size of its first worker group, instead of the manifest's
    most_workers: int | None = None
    pool: str | None = None  # of its workers, instead of the manifest's
    groups: dict[str, WorkerGroupSpec] = Field(min_length=1)
    total: Positive | None = None  # units of work; None for a service
    load_per_s: NonNegative | None = None  # requests per second of a service; None for a job
    unit: str = "items"
    rate: Positive  # units per second of one worker
    source: str = ""  # where the rate comes from
    # Whether the rate comes from a benchmark of this project; otherwise it is an assumption, and the report says so.
    measured: bool = False
    ceiling: Positive | None = None  # units per second of the whole job, whatever its size
    after: list[str] = []  # jobs that must have ended
    copies: int = Field(default=1, ge=1)
    # An elastic job works in shards with however many workers it has; any other is a gang, which needs all of them.
    elastic: bool = False
    shard_s: Positive = 60.0  # of a worker of an elastic job, between the results that it commits
    grace_s: NonNegative = 60.0  # terminationGracePeriodSeconds
    swing: float = Field(default=0.0, ge=0, le=1)  # relative amplitude of the load over a day
    busy: float = Field(default=0.7, gt=0, le=1)  # target utilisation of a replica
    days: Positive = 1.0  # that a service runs

    @property
    def is_service(self) -> bool:
        return self.load_per_s is not None

    @property
    def is_gang(self) -> bool:
        """Whether it works only with all its workers."""
        return not self.elastic and not self.is_service


class SpotStorm(ScenarioSection):
    """A share of all spot nodes receives its interruption notice at the same time."""

    at_h: NonNegative
    share: float = Field(gt=0, le=1)


class Scenario(ScenarioSection):
    """A complete scenario."""

    about: str = ""
    overlay: str | None = None
    seed: int = 0
    days: Positive = 60  # simulated time at most
    prices: str = ""  # source and date of the prices
    pools: dict[str, NodePoolSpec]
    queues: dict[str, ClusterQueueSpec] = {}
    rates: StartRates = StartRates()
    work: dict[str, WorkloadSpec]
    storms: list[SpotStorm] = []

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        # A forgotten or misspelt field would silently give a plan of something else.
        for name, work in self.work.items():
            if problem := next(filter(None, self._problems(work)), None):
                raise ValueError(f"work {name}: {problem}")
        return self

    def _problems(self, work: WorkloadSpec) -> list[str | bool]:
        """What is wrong with a piece of work; items that are not true are not wrong."""
        shape = [name for name in ("workers", "most_workers", "pool") if getattr(work, name) is not None]
        pools = {HEAD_POOL, *(group.pool for group in work.groups.values())}
        return [
            (work.total is None) == (work.load_per_s is None) and "give total (a job) or load_per_s (a service)",
            (bool(shape) and work.like is None) and f"{', '.join(shape)}: needs the Pods of a manifest (`like`)",
            (work.like is not None and self.overlay is None) and f"like {work.like}: the scenario names no overlay",
            ("shard_s" in work.model_fields_set and not work.elastic) and "shard_s: only elastic jobs work in shards",
            work.queue not in self.queues
            and f"no queue {work.queue!r} (there are: {', '.join(self.queues) or 'none'})",
            *(f"after {name}: no such work" for name in work.after if name not in self.work),
            *(
                f"no pool {name!r} for its Pods (there are: {', '.join(self.pools)})"
                for name in pools - set(self.pools)
            ),
            *(self._group_problem(name, group) for name, group in work.groups.items() if group.pool in self.pools),
        ]

    def _group_problem(self, name: str, group: WorkerGroupSpec) -> str:
        pool = self.pools[group.pool]
        if group.maximum < group.min_replicas:
            return f"group {name}: max_replicas {group.maximum} is less than min_replicas {group.min_replicas}"
        if any(wanted > there for wanted, there in zip(group.size, pool.size, strict=True)):
            return f"group {name}: its Pods are larger than any node of pool {group.pool} ({pool.instance})"
        return ""


def presets() -> list[str]:
    """The names of the scenarios in this package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(name: str, overrides: list[str], manifests: Path) -> Scenario:
    """Load a preset or a file, with overrides such as `pools.cpu.limit=10` or `work.train.rate=3`.

    Raises:
        ConfigError: There is no such scenario, or a field is wrong; the message names the field.
    """
    path = PRESETS / f"{name}.yaml" if name in presets() else Path(name)
    if not path.is_file():
        raise ConfigError(f"no scenario {name!r}: name a file, or one of {', '.join(presets())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ConfigError(f"{path.name}: a scenario is a mapping with pools, queues and work")
        for override in overrides:
            apply_override(values, override)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    try:
        # The overlay is read before validation, because it supplies required fields.
        values = fill_from_overlay(values, manifests)
    except (KeyError, TypeError, ValueError, AttributeError):
        # The overlay could not be read into such values. If a field of the scenario is wrong, `parse` names it; if not,
        # the error is a defect of this module.
        parse(values, path.name)
        raise
    return parse(values, path.name)


def parse(values: dict[str, Any], where: str = "scenario") -> Scenario:
    """Validate a scenario given as plain values.

    Raises:
        ConfigError: A field is wrong; the message names the first one.
    """
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        # Only the first: one misplaced section makes many fields wrong, and the others would hide the cause.
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f" (is {first['input']!r})"
        raise ConfigError(f"{where}: {field + ': ' if field else ''}{message[0].lower()}{message[1:]}{given}") from None
