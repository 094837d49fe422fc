"""The description of a simulation: node pools with prices, queues with quotas, control-plane rates, and work.

A scenario is a YAML file whose values can be overridden on the command line. If it names an overlay, Pod sizes, quotas
and limits come from the manifests of that overlay (see `worker_groups`), and the scenario states only what differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.simulation.worker_groups import fill_from_overlay

PRESETS = Path(__file__).parent
# Heads run on demand, because the loss of a head is not modelled.
HEAD_POOL = "cpu"
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
# The names of pools, flavors and Karpenter's NodePools are the same, so one name leads from a quota to a price.
Amounts = dict[str, dict[str, NonNegative]]  # by flavor and resource: cores, GiB, whole GPUs


class ScenarioSection(BaseModel):
    """A section of a scenario; unknown fields and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class NodePoolSpec(ScenarioSection):
    """Machines of one kind; the pool, its Kueue flavor and its Karpenter NodePool share one name."""

    instance: str
    cpu: Positive
    memory_gib: Positive
    gpus: int = Field(default=0, ge=0)
    # The price of a node, not of a Pod: what a Pod does not use is reported as idle.
    price_usd_h: NonNegative
    spot: bool = False
    limit: int = Field(ge=0)  # maximum number of nodes
    static: int = Field(default=0, ge=0)  # size of a fixed fleet, which is never scaled; 0: provisioned on demand
    startup_s: NonNegative = 90  # from the order of a node until it accepts Pods
    idle_s: NonNegative = 300  # Karpenter's consolidateAfter, with WhenEmpty
    loss_per_h: NonNegative = 0  # interruptions per spot node

    @model_validator(mode="after")
    def _only_spot_nodes_are_lost(self) -> Self:
        if self.loss_per_h and not self.spot:
            raise ValueError("only spot nodes have loss_per_h: set spot: true")
        return self


# Each default is a published figure, a default of the component itself, or an assumption, and its comment says which. A
# plan depends most on the assumptions, so they are the ones to measure on a cluster of one's own.
class ControlPlaneRates(ScenarioSection):
    """Speed and timeouts of the control plane. `calibration` derives some defaults from published figures."""

    reconcile_concurrency: int = Field(default=10, ge=1)  # KubeRay's --reconcile-concurrency
    cluster_s: NonNegative = 0.179  # of a reconciler per RayCluster: 1,000 RayClusters in 258 s
    pod_s: NonNegative = 0.020  # of a reconciler per Pod: kuberay#3907, 100 Pods in 1.97 s
    api_pods_per_s: Positive = 50.0  # all reconcilers together: kuberay#3907, 10,000 Pods in 200 s
    admit_s: NonNegative = 0.0234  # Kueue per admitted workload: 15,000 in 351 s
    provision_batch_s: NonNegative = 10.0  # Karpenter's BATCH_MAX_DURATION
    startup_jitter: float = Field(default=0.2, ge=0, le=1)  # share of startup_s, up or down; assumption
    pull_gb_s: Positive = 0.1  # one node's image pull with unpacking; assumption
    registry_gb_s: Positive = 20.0  # all nodes together; assumption
    images_gb: dict[str, NonNegative] = {"cpu": 1.2, "gpu": 9.0, "browser": 1.8}  # assumption
    start_s: NonNegative = 10.0  # from the pulled image to a Ray process that answers; assumption
    join_s: NonNegative = 3.0  # until a worker has joined a head that answers; assumption
    autoscaler_s: Positive = 5.0  # Ray's AUTOSCALER_UPDATE_INTERVAL_S
    pods_ready_s: NonNegative = 300.0  # Kueue's waitForPodsReady.timeout
    recovery_s: NonNegative = 300.0  # waitForPodsReady.recoveryTimeout
    backoff_s: NonNegative = 60.0  # requeuingStrategy.backoffBaseSeconds; doubled each time
    backoff_max_s: NonNegative = 3600.0
    backoff_limit: int | None = Field(default=None, ge=0)  # Kueue deactivates a workload after so many requeues


class ClusterQueueSpec(ScenarioSection):
    """A ClusterQueue: quotas by flavor and resource ("cpu" in cores, "memory" in GiB, "nvidia.com/gpu")."""

    nominal: Amounts = {}
    borrowing: Amounts = {}
    lending: Amounts = {}
    cohort: str = "emoji-ldm"
    strict: bool = False  # StrictFIFO


class WorkerGroupSpec(ScenarioSection):
    """Identical worker Pods."""

    name: str
    flavors: list[str]
    cpu: Positive
    memory_gib: NonNegative
    gpus: int = Field(default=0, ge=0)
    image: str = "gpu"
    min_replicas: int = Field(ge=0)
    max_replicas: int | None = None  # None: min_replicas

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")
        return self


class WorkloadSpec(ScenarioSection):
    """A RayJob with an amount of work, or a RayService with a load."""

    name: str
    queue: str
    priority: int = 10_000
    like: str | None = None  # the RayJob or RayService of the overlay that it is modelled on
    workers: int | None = None  # size of the first worker group, instead of the manifest's
    most_workers: int | None = None
    groups: list[WorkerGroupSpec] = []
    flavors: list[str] | None = None  # instead of those that the manifest allows
    total: Positive | None = None  # units of work; None for a service
    unit: str = "items"
    rate: Positive | None = None  # units per second of one worker Pod
    rate_per_cpu: Positive | None = None  # or of one of its CPU cores
    ceiling: Positive | None = None  # units per second of the whole job, whatever its size
    source: str = ""  # where the rate comes from
    # Whether the rate comes from a benchmark of this project; otherwise it is an assumption, and the report says so.
    measured: bool = False
    after: list[str] = []  # jobs that must have ended
    copies: int = Field(default=1, ge=1)
    # An elastic job works with however many workers it has; any other is a gang, which needs all of them.
    elastic: bool = False
    idle_timeout_s: NonNegative = 60.0
    grace_s: NonNegative = 60.0  # terminationGracePeriodSeconds
    # Between checkpoints or committed shards, which is the most work that a loss can cost.
    checkpoint_s: Positive = 600.0
    restart_s: NonNegative = 60.0  # to read the checkpoint after a worker was replaced
    load_per_s: NonNegative | None = None  # requests per second of a service
    swing: float = Field(default=0.0, ge=0, le=1)  # relative amplitude of the load over a day
    busy: float = Field(default=0.7, gt=0, le=1)  # target utilisation of a replica
    min_available: int = Field(default=0, ge=0)  # of a service's workers, as in its PodDisruptionBudget
    days: Positive = 1.0  # that a service runs

    @property
    def is_service(self) -> bool:
        return self.load_per_s is not None

    @property
    def is_gang(self) -> bool:
        """Whether it works only with all its workers."""
        return not self.elastic and not self.is_service

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        # Fields are checked together here, because a forgotten one would silently give a plan of something else.
        shape = [name for name in ("workers", "most_workers", "flavors") if getattr(self, name) is not None]
        min_workers = sum(group.min_replicas for group in self.groups)
        problems = [
            (self.total is None) == (self.load_per_s is None) and "give total (a job) or load_per_s (a service)",
            (self.rate is None) == (self.rate_per_cpu is None) and "give rate (of a Pod) or rate_per_cpu",
            shape and self.like is None and f"{', '.join(shape)}: needs the Pods of a manifest (`like`)",
            not self.groups and "give its groups, or `like` and an overlay",
            self.is_service and self.min_available > min_workers
            and f"min_available {self.min_available} is more than its {min_workers} workers",
        ]  # fmt: skip
        if found := [problem for problem in problems if problem]:
            raise ValueError(f"work {self.name}: {found[0]}")
        return self


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
    rates: ControlPlaneRates = ControlPlaneRates()
    work: list[WorkloadSpec]
    storms: list[SpotStorm] = []

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        names = [work.name for work in self.work]
        for work in self.work:
            if problem := self._unknown_name(work, names):
                raise ValueError(f"work {work.name}: {problem}")
        return self

    def _unknown_name(self, work: WorkloadSpec, names: list[str]) -> str:
        """The first name that the work refers to and that does not exist, as a message, or ''."""
        if names.count(work.name) > 1:
            return "named twice"
        if missing := [name for name in work.after if name not in names]:
            return f"after {missing[0]}: no such work"
        if work.like is not None and self.overlay is None:
            return f"like {work.like}: the scenario names no overlay"
        if work.queue not in self.queues:
            return f"no queue {work.queue!r} (there are: {', '.join(self.queues) or 'none'})"
        # Every run has a head, whatever the pools of its workers.
        if HEAD_POOL not in self.pools:
            return f"no pool {HEAD_POOL!r} for its head"
        for group in work.groups:
            if missing := [flavor for flavor in group.flavors if flavor not in self.pools]:
                return f"group {group.name}: no pool {missing[0]!r}"
            if group.image not in self.rates.images_gb:
                return f"group {group.name}: no size of image {group.image!r} in rates.images_gb"
        return ""


def presets() -> list[str]:
    """The names of the scenarios in this package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(name: str, overrides: list[str], manifests: Path) -> Scenario:
    """Load a preset or a file, with overrides such as `pools.cpu.limit=10` or `work.train.rate=3` (by name).

    Raises:
        ConfigError: There is no such scenario, or a field is wrong; the message names the field.
    """
    path = PRESETS / f"{name}.yaml" if name in presets() else Path(name)
    if not path.is_file():
        raise ConfigError(f"no scenario {name!r}: name a file, or one of {', '.join(presets())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: a scenario is a mapping with pools, queues and work")
    for override in overrides:
        _override(values, override)
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


def _override(values: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign:
        raise ConfigError(f"{override!r}: an override is path=value, such as pools.gpu-spot.price_usd_h=7.5")
    *steps, last = path.split(".")
    section: Any = values
    # A step into a list is the name of an item, since positions change whenever a scenario is edited.
    for step in steps:
        if isinstance(section, list):
            section = next((item for item in section if isinstance(item, dict) and item.get("name") == step), None)
        elif isinstance(section, dict):
            section = section.setdefault(step, {})
        if not isinstance(section, dict | list):
            raise ConfigError(f"{override!r}: there is no {step}")
    if not isinstance(section, dict):
        names = (str(item.get("name")) for item in section if isinstance(item, dict))
        raise ConfigError(f"{override!r}: name one of {', '.join(names)}")
    try:
        # The value is YAML, so that numbers, booleans and lists have the types that they have in a file.
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r} is not YAML: {' '.join(str(error).split())}") from None
