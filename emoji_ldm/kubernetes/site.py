"""The site file: the values of one installation, in a file of its own outside of the manifests.

    overlay: eks
    namespace: team-a
    prefix: team-a  # of objects without a namespace, such as queues and priority classes
    images: {emoji-ldm-cpu: registry.example.org/emoji-ldm-cpu@sha256:...}
    config: {store: s3://bucket/store, crawl: {site: https://example.org}}
    environment: {AWS_REGION: eu-central-1, BUCKET: bucket}
    redis_address: redis.example.org:6379
    workers: {train: {gpu-on-demand: {replicas: 4, minReplicas: 4, maxReplicas: 4}}}
    quotas: {batch: {gpu-spot: {nvidia.com/gpu: "16"}}}
    pools: {gpu-h100: {like: gpu-on-demand, gpus: [h100], jobs: [train]}}
    queues: {team-b: {like: batch, jobs: [caption]}}
    runbooks: https://git.example.org/emoji_ldm/infra/runbooks/alerts.md
    allow: [volumes-are-mounted]

The manifests of a release are never edited: the values are written into the rendered objects. Every value must change
something that is there, because a misspelt name that silently changes nothing is found in production.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.site_names import in_namespace, replaced, with_prefix
from emoji_ldm.kubernetes.site_pools import Name, NewPool, NewQueue, Quantities, add_pool, add_queue

CONFIG, ENVIRONMENT = "emoji-ldm.yaml", "store"  # a file of a generated ConfigMap, and the name of another one
HASH_LENGTH = 10  # as long as that of kustomize
ImageName = Literal["emoji-ldm-cpu", "emoji-ldm-gpu", "emoji-ldm-browser"]


class WorkerCount(BaseModel):
    """How many Pods a worker group has."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    replicas: Annotated[int, Field(ge=0)] | None = None
    minReplicas: Annotated[int, Field(ge=0)] | None = None  # the field's name in KubeRay
    maxReplicas: Annotated[int, Field(ge=0)] | None = None


class Site(BaseModel):
    """The values of one installation; see the top of this module."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    overlay: str
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = NAMESPACE
    prefix: Name | None = None
    images: dict[ImageName, Annotated[str, Field(pattern=r"^\S+(@sha256:[0-9a-f]{64}|:[\w.-]+)$")]] = {}
    config: dict[str, Any] = {}
    environment: dict[str, str] = {}
    redis_address: str | None = None
    workers: dict[str, dict[str, WorkerCount]] = {}
    quotas: dict[str, dict[str, Quantities]] = {}
    pools: dict[Name, NewPool] = {}
    queues: dict[Name, NewQueue] = {}
    runbooks: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    allow: tuple[str, ...] = ()

    @staticmethod
    def read(path: Path) -> Site:
        """Read a site file.

        Raises:
            ConfigError: It is missing, is not YAML, or has an unknown field or an invalid value.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError:
            raise ConfigError(f"there is no site file {path}; docs/kubernetes.md has an example") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        try:
            return Site.model_validate(values)
        except ValidationError as error:
            told = (f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors())
            raise ConfigError(f"{path}: {'; '.join(told)}") from None

    def fill(self, objects: list[KubeObject]) -> list[KubeObject]:
        """The objects with the values of the site, still in the namespace of the manifests.

        Raises:
            ConfigError: A value changes nothing: no object has such a field.
        """
        objects = copy.deepcopy(objects)
        for name, image in self.images.items():
            _require(_set_image(objects, name, image), f"images.{name}: no Pod uses it")
        if self.config:
            objects = _merge_config(objects, self.config)
        for key, text in self.environment.items():
            found = [obj for obj in _named(objects, "ConfigMap", ENVIRONMENT) if key in (obj.get("data") or {})]
            _require(bool(found), f"environment.{key}: ConfigMap {ENVIRONMENT} has no such key")
            found[0]["data"][key] = text
        if self.redis_address is not None:
            options = [found for obj in objects if obj["kind"] == "RayService"
                       if (found := obj["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions"))]  # fmt: skip
            _require(bool(options), "redis_address: the service of this overlay uses no Redis")
            options[0]["redisAddress"] = self.redis_address
        if self.runbooks is not None:
            alerts = [one for one in _mappings(objects) if "runbook_url" in one]
            _require(bool(alerts), "runbooks: this overlay has no alerts")
            for one in alerts:
                one["runbook_url"] = f"{self.runbooks}#{one['runbook_url'].partition('#')[2]}"
        for owner, groups in self.workers.items():
            for group, count in groups.items():
                _set_workers(objects, owner, group, count)
        for new, pool in self.pools.items():
            objects = add_pool(objects, new, pool)
        for new, own_queue in self.queues.items():
            objects = add_queue(objects, new, own_queue)
        for queue, flavors in self.quotas.items():
            for flavor, quantities in flavors.items():
                _set_quotas(objects, queue, flavor, quantities)
        return objects

    def move(self, objects: list[KubeObject]) -> list[KubeObject]:
        """The objects in the namespace of the site, and those without one with its prefix."""
        objects = in_namespace(objects, self.namespace)
        return objects if self.prefix is None else with_prefix(objects, self.prefix)


def _require(is_met: bool, problem: str) -> None:
    if not is_met:
        raise ConfigError(f"the site file changes nothing with {problem}")


def _named(objects: list[KubeObject], kind: str, name: str) -> list[KubeObject]:
    return [obj for obj in objects if obj["kind"] == kind and obj["metadata"]["name"] == name]


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a value, itself included."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _mappings(item)


def _set_image(objects: list[KubeObject], name: str, image: str) -> bool:
    found = [one for one in _mappings(objects) if isinstance(one.get("image"), str)
             and one["image"].partition("@")[0].rpartition("/")[2].partition(":")[0] == name]  # fmt: skip
    for container in found:
        container["image"] = image
    return bool(found)


def _merge_config(objects: list[KubeObject], values: dict[str, Any]) -> list[KubeObject]:
    """Merge values into the configuration; its ConfigMap gets another name, so that Pods with the old one are replaced.

    Raises:
        ConfigError: A field does not exist or has an invalid value.
    """
    from emoji_ldm.config.loading import build

    maps = [obj for obj in objects if obj["kind"] == "ConfigMap" and CONFIG in (obj.get("data") or {})]
    _require(bool(maps), f"config: no ConfigMap holds {CONFIG}")
    merged = _merged(yaml.safe_load(maps[0]["data"][CONFIG]) or {}, values)
    build(merged, where="config of the site file")
    maps[0]["data"][CONFIG] = text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)
    old = maps[0]["metadata"]["name"]
    new = f"{old.rpartition('-')[0] or old}-{hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]}"
    return [replaced(obj, lambda path, text: new if text == old and path[-1:] == ("name",) else text)
            if _is_or_mounts(obj, old) else obj for obj in objects]  # fmt: skip


def _is_or_mounts(obj: KubeObject, config_map: str) -> bool:
    own = obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == config_map
    return own or any((one.get("configMap") or {}).get("name") == config_map for one in _mappings(obj)
                      if isinstance(one.get("configMap"), dict))  # fmt: skip


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {key: _merged(old.get(key), new[key]) if key in new else old[key] for key in [*old, *new]}


def _set_workers(objects: list[KubeObject], owner: str, group: str, count: WorkerCount) -> None:
    groups = [one for obj in objects if obj["kind"].startswith("Ray") and obj["metadata"]["name"] == owner
              for part in _mappings(obj["spec"]) for one in part.get("workerGroupSpecs") or ()]  # fmt: skip
    known = ", ".join(sorted(one["groupName"] for one in groups)) or "none"
    found = [one for one in groups if one["groupName"] == group]
    _require(bool(found), f"workers.{owner}.{group}: there is no such worker group (of {owner}: {known})")
    for one in found:
        one.update(count.model_dump(exclude_none=True))


def _set_quotas(objects: list[KubeObject], queue: str, flavor: str, quantities: Quantities) -> None:
    flavors = [one for obj in _named(objects, "ClusterQueue", queue)
               for covered in obj["spec"]["resourceGroups"] for one in covered["flavors"]]  # fmt: skip
    resources = {one["name"]: one for found in flavors if found["name"] == flavor for one in found["resources"]}
    for name, amount in quantities.items():
        _require(name in resources, f"quotas.{queue}.{flavor}.{name}: the queue has no such quota")
        resources[name]["nominalQuota"] = str(amount)
