"""What is simulated: pools of nodes with prices, queues with quotas, rates of the control plane, and the work to do.

A scenario is a small YAML file; every number in it says where it comes from, and can be overridden from the command
line. Shapes of Pods and quotas come from an overlay's manifests where the scenario names one (see `manifests`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emoji_ldm.errors import ConfigError

NOTICE_S = 120.0  # before EC2 takes a spot machine back
PRESETS = Path(__file__).parent
Amount = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Part(BaseModel):
    """A part of a scenario; unknown fields are refused, and what is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PoolSpec(Part):
    """Machines of one kind; named as its Kueue flavor and its Karpenter NodePool."""

    instance: str
    cpu: float = Field(gt=0)
    memory_gib: float = Field(gt=0)
    gpus: int = Field(default=0, ge=0)
    price_usd_h: float = Field(ge=0)
    spot: bool = False
    limit: int = Field(ge=0)  # nodes at most
    static: int = Field(default=0, ge=0)  # nodes that are always there; then none is made or taken back
    startup_s: float = Field(default=90, ge=0)  # until a new node takes Pods
    idle_s: float = Field(default=300, ge=0)  # Karpenter's consolidateAfter, with WhenEmpty
    loss_per_h: float = Field(default=0, ge=0)  # of spot nodes, per node
    zones: int = Field(default=3, ge=1)


class Rates(Part):
    """How quick the control plane is. Defaults: see `published`, which checks them, and the comments."""

    reconcile_concurrency: int = Field(default=10, ge=1)  # KubeRay's --reconcile-concurrency as our Helm values set it
    cluster_s: Seconds = 0.179  # of a reconciler per RayCluster made or deleted; from 1,000 RayClusters in 258 s
    pod_s: Seconds = 0.020  # of a reconciler per Pod: kuberay#3907, 100 Pods in 1.97 s
    api_pods_per_s: Positive = 50.0  # all reconcilers: kuberay#3907, 10,000 Pods in 200 s at concurrency 10
    admit_s: Seconds = 0.0224  # Kueue per admitted workload: 15,000 in 351 s
    bind_per_s: Positive = 100.0  # kube-scheduler; assumption
    provision_batch_s: Seconds = 10.0  # Karpenter's BATCH_MAX_DURATION
    startup_jitter: float = Field(default=0.2, ge=0, le=1)  # of a node's startup_s, up or down; assumption
    pull_gb_s: Positive = 0.1  # one node's image pull with unpacking; assumption
    registry_gb_s: Positive = 20.0  # all nodes together; assumption
    images_gb: dict[str, Amount] = {
        "cpu": 1.2,
        "gpu": 9.0,
        "browser": 1.8,
    }  # assumption: the images were not built here
    start_s: Seconds = 10.0  # from the image to a Ray process that answers; assumption
    join_s: Seconds = 3.0  # of a worker, once the head answers; assumption
    autoscaler_s: Positive = 5.0  # AUTOSCALER_UPDATE_INTERVAL_S of Ray
    pods_ready_s: Seconds = 300.0  # Kueue's waitForPodsReady.timeout
    recovery_s: Seconds = 300.0  # waitForPodsReady.recoveryTimeout
    backoff_s: Seconds = 60.0  # requeuingStrategy.backoffBaseSeconds; doubled each time
    backoff_max_s: Seconds = 3600.0
    backoff_limit: int | None = Field(default=None, ge=0)  # then the workload is deactivated


class QueueSpec(Part):
    """A ClusterQueue: quotas by flavor and resource ("cpu" in cores, "memory" in GiB, "nvidia.com/gpu")."""

    nominal: dict[str, dict[str, Amount]] = {}
    borrowing: dict[str, dict[str, Amount]] = {}
    lending: dict[str, dict[str, Amount]] = {}
    cohort: str = "emoji-ldm"
    within: Literal["Never", "LowerPriority"] = "LowerPriority"
    reclaim: Literal["Never", "LowerPriority", "Any"] = "Any"
    strict: bool = False  # StrictFIFO
    borrow_over: int | None = None  # borrowWithinCohort: priorities up to this are evicted even to borrow


class GroupSpec(Part):
    """Worker Pods alike."""

    name: str
    flavors: list[str]
    cpu: float = Field(gt=0)
    memory_gib: Amount
    gpus: int = Field(default=0, ge=0)
    image: str = "gpu"
    least: int = Field(ge=0)
    most: int | None = None  # None: as least


class WorkSpec(Part):
    """A RayJob with something to do, or a RayService with a load."""

    name: str
    queue: str
    priority: int = 10_000
    like: str | None = None  # a RayJob or RayService of the overlay whose Pods these are
    workers: int | None = None  # of the first worker group, in place of the manifest's number
    most_workers: int | None = None
    groups: list[GroupSpec] = []
    flavors: list[str] | None = None  # in place of what the manifest allows
    head_flavors: list[str] = ["cpu"]
    total: float | None = Field(default=None, gt=0)  # units of work; None for a service
    unit: str = "items"
    rate: float | None = Field(default=None, gt=0)  # units per second of one worker Pod
    rate_per_cpu: float | None = Field(default=None, gt=0)  # or of one of its cores
    ceiling: float | None = Field(default=None, gt=0)  # units per second of the whole job, whatever its size
    source: str = ""  # of the rate
    measured: bool = False  # here, by a benchmark of ours; else an assumption
    after: list[str] = []  # jobs that must have ended
    copies: int = Field(default=1, ge=1)
    every_s: Seconds = 0.0  # between copies
    arrive_h: float = Field(default=0.0, ge=0)
    elastic: bool = False  # goes on with the workers there are; else all `least` or nothing
    upscaling: Literal["Default", "Conservative"] = "Default"
    idle_timeout_s: Seconds = 60.0
    grace_s: Seconds = 60.0  # terminationGracePeriodSeconds
    checkpoint_s: Positive = 600.0  # between checkpoints or committed shards: what is lost without notice
    restart_s: Seconds = 60.0  # reading the checkpoint after workers changed
    load_per_s: float | None = Field(default=None, ge=0)  # of a service
    swing: float = Field(default=0.0, ge=0, le=1)  # of the load over a day
    busy: float = Field(default=0.7, gt=0, le=1)  # what a replica should be loaded with
    min_available: int = Field(default=0, ge=0)  # of a service's workers, as its PodDisruptionBudget says
    days: float = Field(default=1.0, gt=0)  # that a service is kept

    @property
    def is_service(self) -> bool:
        return self.load_per_s is not None


class StormSpec(Part):
    """Many spot nodes get their notice at once."""

    at_h: float = Field(ge=0)
    share: float = Field(gt=0, le=1)


class Scenario(Part):
    """All of it."""

    about: str = ""
    overlay: str | None = None
    seed: int = 0
    days: float = Field(default=60, gt=0)  # at most
    prices: str = ""  # where they come from, and when
    pools: dict[str, PoolSpec]
    queues: dict[str, QueueSpec] = {}
    rates: Rates = Rates()
    work: list[WorkSpec]
    storms: list[StormSpec] = []


def presets() -> list[str]:
    """Names of the scenarios that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(name: str, overrides: list[str], manifests: Path) -> Scenario:
    """A preset or a file, with `pools.cpu.limit=10`-like overrides; items of `work` are named, not numbered.

    Where it names an overlay, what it does not say itself comes from that overlay in the folder `manifests`.

    Raises:
        ConfigError: There is no such scenario, or a field is wrong: named with its place.
    """
    path = PRESETS / f"{name}.yaml" if name in presets() else Path(name)
    if not path.is_file():
        raise ConfigError(f"no scenario {name!r}: name a file, or one of {', '.join(presets())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: a scenario is a mapping with pools, queues and work")
    for override in overrides:
        _override(values, override)
    from emoji_ldm.cluster.simulate.manifests import fill  # needs the check's reading of overlays

    try:
        values = fill(values, manifests)
    except (KeyError, TypeError, ValueError, AttributeError):
        parse(values, path.name)  # says which field is wrong
        raise
    return parse(values, path.name)


def parse(values: dict[str, Any], where: str = "scenario") -> Scenario:
    """A scenario from plain values.

    Raises:
        ConfigError: The first wrong field.
    """
    try:
        scenario = Scenario.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        given = "" if first["type"] == "missing" else f" (is {first['input']!r})"
        raise ConfigError(f"{where}: {place}: {first['msg'].lower()}{given}") from None
    names = [work.name for work in scenario.work]
    for work in scenario.work:
        unknown = [name for name in work.after if name not in names]
        if unknown or names.count(work.name) > 1:
            raise ConfigError(
                f"{where}: work {work.name}: " + (f"after {unknown[0]}: no such work" if unknown else "named twice")
            )
        if (work.total is None) == (work.load_per_s is None):
            raise ConfigError(f"{where}: work {work.name}: give total (a job) or load_per_s (a service)")
        if (work.rate is None) == (work.rate_per_cpu is None):
            raise ConfigError(f"{where}: work {work.name}: give rate (of a Pod) or rate_per_cpu")
        if idle := _idle(work, scenario.overlay):
            raise ConfigError(f"{where}: work {work.name}: {idle}")
    for name, pool in scenario.pools.items():
        if pool.loss_per_h and not pool.spot:
            raise ConfigError(f"{where}: pools.{name}: loss_per_h is of spot nodes: give spot: true")
    return scenario


def _idle(work: WorkSpec, overlay: str | None) -> str:
    """What was given and would have no effect."""
    shape = [name for name in ("workers", "most_workers", "flavors") if getattr(work, name) is not None]
    if work.like is not None and overlay is None:
        return f"like {work.like}: the scenario names no overlay"
    if shape and work.like is None:
        return f"{', '.join(shape)}: of the Pods of a manifest (`like`); these are in its groups"
    few = next((group for group in work.groups if group.most is not None and group.most < group.least), None)
    return f"group {few.name}: most {few.most} is less than least {few.least}" if few else ""


def _override(values: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign:
        raise ConfigError(f"{override!r}: an override is path=value, such as pools.gpu-spot.price_usd_h=7.5")
    *steps, last = path.split(".")
    place: Any = values
    for step in steps:
        if isinstance(place, list):
            place = next((item for item in place if isinstance(item, dict) and item.get("name") == step), None)
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"{override!r}: there is no {step}")
    if not isinstance(place, dict):
        names = (str(item.get("name")) for item in place if isinstance(item, dict))
        raise ConfigError(f"{override!r}: name one of {', '.join(names)}")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r} is no YAML: {' '.join(str(error).split())}") from None
