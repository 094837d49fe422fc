"""Pools and queues that a site adds: another type of GPU, or a team's own queue, said once in the site file.

    pools:
      gpu-h100:
        like: gpu-on-demand      # the pool that it copies: its taints, its nodes, and its part in the queues
        gpus: [h100]             # the names of GPUs by which Karpenter chooses machines
        limit: {nvidia.com/gpu: "16"}
        quotas: {train: {cpu: "64", memory: 512Gi, nvidia.com/gpu: "8"}}  # by queue; 0 in the others
        jobs: [train]            # their workers of the other pool run here instead
    queues:
      team-b: {like: batch, jobs: [caption, latents]}

A pool consists of a flavor of Kueue, a flavor in each queue, and where Karpenter makes the nodes, a NodePool. All of
them, and the Pods that go there, must name it alike, which is why it is written down in one place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.rendering import KubeObject

POOL, GPU_NAME = "emoji-ldm/pool", "karpenter.k8s.aws/instance-gpu-name"
QUEUE = "kueue.x-k8s.io/queue-name"
Quantities = dict[str, str | int]
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$")]


class NewPool(BaseModel):
    """A pool that copies another one; see the top of this module."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    like: str
    gpus: tuple[str, ...] = ()
    limit: Quantities = {}
    quotas: dict[str, Quantities] = {}
    jobs: tuple[str, ...] = ()


class NewQueue(BaseModel):
    """A queue that copies another one, without quota of its own: it borrows until `quotas` gives it some."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    like: str
    jobs: tuple[str, ...] = ()


def add_pool(objects: list[KubeObject], name: str, pool: NewPool) -> list[KubeObject]:
    """The objects and those of a new pool; the objects that are given change in place.

    Raises:
        ConfigError: There is no pool to copy, the name is taken, or a value changes nothing.
    """
    copies = [_renamed(obj, name) for obj in objects
              if obj["kind"] in ("ResourceFlavor", "NodePool") and obj["metadata"]["name"] == pool.like]  # fmt: skip
    _require(bool(copies), f"pools.{name}.like: there is no pool {pool.like!r} (there are: {_pools(objects)})")
    _require(name not in _pools(objects).split(", "), f"pools.{name}: there is a pool of this name")
    nodes = [obj for obj in copies if obj["kind"] == "NodePool"]
    _require(bool(nodes) or not (pool.gpus or pool.limit), f"pools.{name}: this overlay makes no nodes (NodePool)")
    for node in nodes:
        found = [one for one in node["spec"]["template"]["spec"]["requirements"] if one["key"] == GPU_NAME]
        _require(bool(found) or not pool.gpus, f"pools.{name}.gpus: nodes of {pool.like} are not chosen by their GPU")
        if pool.gpus:
            found[0]["values"] = list(pool.gpus)
        node["spec"]["limits"] = {**node["spec"].get("limits", {}), **{key: str(n) for key, n in pool.limit.items()}}
    _add_flavor(objects, name, pool)
    for job in pool.jobs:
        _require(
            _move_workers(objects, job, pool.like, name), f"pools.{name}.jobs: {job} has no workers in {pool.like}"
        )
    return [*objects, *copies]


def add_queue(objects: list[KubeObject], name: str, queue: NewQueue) -> list[KubeObject]:
    """The objects and those of a new queue; the objects that are given change in place.

    Raises:
        ConfigError: There is no queue to copy, or no such job.
    """
    copies = [copy.deepcopy(obj) for obj in objects
              if obj["kind"] in ("ClusterQueue", "LocalQueue") and obj["metadata"]["name"] == queue.like]  # fmt: skip
    _require(len(copies) == 2, f"queues.{name}.like: there is no queue {queue.like!r}")
    for obj in copies:
        obj["metadata"]["name"] = name
        if obj["kind"] == "LocalQueue":
            obj["spec"]["clusterQueue"] = name
        for item in (one for flavor in _flavors(obj) for one in flavor["resources"]):
            item["nominalQuota"] = "0"
            item.pop("lendingLimit", None)
    for job in queue.jobs:
        found = [obj for obj in objects if obj["kind"] == "RayJob" and obj["metadata"]["name"] == job]
        _require(bool(found), f"queues.{name}.jobs: there is no job {job!r}")
        found[0]["metadata"]["labels"][QUEUE] = name
    return [*objects, *copies]


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise ConfigError(f"the site file changes nothing with {problem}")


def _pools(objects: list[KubeObject]) -> str:
    return ", ".join(
        sorted({obj["metadata"]["name"] for obj in objects if obj["kind"] in ("ResourceFlavor", "NodePool")})
    )


def _renamed(obj: KubeObject, name: str) -> KubeObject:
    """A copy of a pool's object under another name, and with that name in the label of its nodes."""
    new = copy.deepcopy(obj)
    new["metadata"]["name"] = name
    for one in (
        new["spec"].get("nodeLabels"),
        ((new["spec"].get("template") or {}).get("metadata") or {}).get("labels"),
    ):
        if one and POOL in one:
            one[POOL] = name
    return new


def _flavors(queue: KubeObject) -> Iterator[dict[str, Any]]:
    for group in queue["spec"].get("resourceGroups") or []:
        yield from group["flavors"]


def _add_flavor(objects: list[KubeObject], name: str, pool: NewPool) -> None:
    """Add the flavor to every queue that has the one it copies, with its quota or none."""
    queues = {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == "ClusterQueue"}
    for queue in pool.quotas:
        _require(queue in queues, f"pools.{name}.quotas: there is no queue {queue!r}")
    for queue, obj in queues.items():
        for group in obj["spec"].get("resourceGroups") or []:
            known = {flavor["name"] for flavor in group["flavors"]}
            amounts = pool.quotas.get(queue, {})
            for resource in amounts:
                where = f"pools.{name}.quotas.{queue}.{resource}"
                _require(resource in group["coveredResources"], f"{where}: the queue has no such quota")
            if pool.like in known:
                quotas = [{"name": one, "nominalQuota": str(amounts.get(one, 0))} for one in group["coveredResources"]]
                group["flavors"].append({"name": name, "resources": quotas})


def _move_workers(objects: list[KubeObject], job: str, old: str, new: str) -> bool:
    """Let a job's workers of one pool select another; whether there were any."""
    found = False
    for obj in objects:
        if obj["kind"].startswith("Ray") and obj["metadata"]["name"] == job:
            for selector in _selectors(obj["spec"]):
                if selector.get(POOL) == old:
                    selector[POOL], found = new, True
    return found


def _selectors(value: object) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("nodeSelector"), dict):
            yield value["nodeSelector"]
        for item in value.values():
            yield from _selectors(item)
    elif isinstance(value, list):
        for item in value:
            yield from _selectors(item)
