"""How the values of a site file are written into the rendered objects.

Every function raises ConfigError if the value changes nothing, because no object has such a field.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.site_names import replaced
from emoji_ldm.kubernetes.site_pools import Quantities

CONFIG, ENVIRONMENT = "emoji-ldm.yaml", "store"  # a file of a generated ConfigMap, and the name of another one
HASH_LENGTH = 10  # as long as that of kustomize
RAY_CONTAINER = "ray-worker"
DISCOVERY = "karpenter.sh/discovery"


class Workers(BaseModel):
    """How many Pods a worker group has, and how large Ray's container in each is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    replicas: Annotated[int, Field(ge=0)] | None = None
    minReplicas: Annotated[int, Field(ge=0)] | None = None  # the field's name in KubeRay
    maxReplicas: Annotated[int, Field(ge=0)] | None = None
    resources: Quantities = {}  # requests and limits alike, such as {cpu: 16, memory: 128Gi}; 0 leaves one out


class Volume(BaseModel):
    """The volume of each Pod of a StatefulSet."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: str | None = None
    storage_class: str | None = None


class Nodes(BaseModel):
    """The machines that Karpenter starts: the names of the Terraform stack that they belong to, and their image."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stack: str | None = None  # variable `name` of infra/terraform
    image: str | None = None  # alias of an AMI with its version, such as al2023@v20260728


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


def set_image(objects: list[KubeObject], name: str, image: str) -> None:
    """Give all containers of an image of the project another one."""
    found = [one for one in _mappings(objects) if isinstance(one.get("image"), str)
             and one["image"].partition("@")[0].rpartition("/")[2].partition(":")[0] == name]  # fmt: skip
    _require(bool(found), f"images.{name}: no Pod uses it")
    for container in found:
        container["image"] = image


def set_environment(objects: list[KubeObject], variables: Mapping[str, str]) -> None:
    """Set variables of all Pods; new ones too, unless their name looks like a misspelt one that is there."""
    maps = _named(objects, "ConfigMap", ENVIRONMENT)
    _require(bool(maps), f"environment: there is no ConfigMap {ENVIRONMENT}")
    data = maps[0].setdefault("data", {})
    known = list(data)
    for key, text in variables.items():
        close = [] if key in known else difflib.get_close_matches(key, known, 1, cutoff=0.7)
        _require(not close, f"environment.{key}: did you mean {', '.join(close)}?")
        data[key] = text


def set_redis_address(objects: list[KubeObject], address: str) -> None:
    """Another Redis for the state of the service's head."""
    options = [found for obj in objects if obj["kind"] == "RayService"
               if (found := obj["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions"))]  # fmt: skip
    _require(bool(options), "redis_address: the service of this overlay uses no Redis")
    options[0]["redisAddress"] = address


def set_runbooks(objects: list[KubeObject], url: str) -> None:
    """Let all alerts lead to runbooks at another address."""
    alerts = [one for one in _mappings(objects) if "runbook_url" in one]
    _require(bool(alerts), "runbooks: this overlay has no alerts")
    for one in alerts:
        one["runbook_url"] = f"{url}#{one['runbook_url'].partition('#')[2]}"


def merge_config(objects: list[KubeObject], values: dict[str, Any]) -> list[KubeObject]:
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


def set_workers(objects: list[KubeObject], owner: str, group: str, workers: Workers) -> None:
    """Number and size of the Pods of a worker group, of a job or the service."""
    groups = [one for obj in objects if obj["kind"].startswith("Ray") and obj["metadata"]["name"] == owner
              for part in _mappings(obj["spec"]) for one in part.get("workerGroupSpecs") or ()]  # fmt: skip
    known = ", ".join(sorted(one["groupName"] for one in groups)) or "none"
    found = [one for one in groups if one["groupName"] == group]
    _require(bool(found), f"workers.{owner}.{group}: there is no such worker group (of {owner}: {known})")
    for one in found:
        one.update(workers.model_dump(exclude_none=True, exclude={"resources"}))
        for container in one["template"]["spec"]["containers"]:
            if container["name"] == RAY_CONTAINER:
                for part in ("requests", "limits"):
                    sizes = {**container["resources"].get(part, {}), **workers.resources}
                    container["resources"][part] = {name: str(amount) for name, amount in sizes.items() if amount != 0}


def set_volume(objects: list[KubeObject], name: str, volume: Volume) -> None:
    """Size and storage class of a StatefulSet's volumes; neither can be changed once they exist."""
    claims = [claim["spec"] for obj in _named(objects, "StatefulSet", name)
              for claim in obj["spec"].get("volumeClaimTemplates") or ()]  # fmt: skip
    known = ", ".join(sorted(obj["metadata"]["name"] for obj in objects if obj["kind"] == "StatefulSet")) or "none"
    _require(bool(claims), f"volumes.{name}: there is no such StatefulSet with a volume (there are: {known})")
    for claim in claims:
        if volume.size is not None:
            claim["resources"]["requests"]["storage"] = volume.size
        if volume.storage_class is not None:
            claim["storageClassName"] = volume.storage_class


def annotate_account(objects: list[KubeObject], name: str, annotations: Mapping[str, str]) -> None:
    """Annotate a service account, by which a cloud gives it a role."""
    accounts = _named(objects, "ServiceAccount", name)
    known = ", ".join(sorted(obj["metadata"]["name"] for obj in objects if obj["kind"] == "ServiceAccount"))
    _require(bool(accounts), f"service_accounts.{name}: there is no such account (there are: {known})")
    accounts[0]["metadata"].setdefault("annotations", {}).update(annotations)


def set_nodes(objects: list[KubeObject], nodes: Nodes) -> None:
    """Image and Terraform stack of the machines that Karpenter starts."""
    classes = [obj["spec"] for obj in objects if obj["kind"] == "EC2NodeClass"]
    _require(bool(classes), "nodes: this overlay starts no machines (EC2NodeClass)")
    for spec in classes:
        if nodes.image is not None:
            spec["amiSelectorTerms"] = [{"alias": nodes.image}]
        if nodes.stack is not None:
            spec["role"] = f"{nodes.stack}-node"
            for part in ("subnetSelectorTerms", "securityGroupSelectorTerms"):
                spec[part] = [{"tags": {DISCOVERY: nodes.stack}}]
            spec["tags"] = {**spec.get("tags", {}), "project": nodes.stack}


def set_quotas(objects: list[KubeObject], queue: str, flavor: str, quantities: Quantities) -> None:
    """Quotas of a flavor in a queue; of a device too that it did not know, such as a part of a GPU."""
    groups = [group for obj in _named(objects, "ClusterQueue", queue) for group in obj["spec"]["resourceGroups"]
              if flavor in {one["name"] for one in group["flavors"]}]  # fmt: skip
    for name, amount in quantities.items():
        known = [covered for group in groups for covered in group["coveredResources"]]
        is_new_device = groups and "/" in name and not difflib.get_close_matches(name, known, 1, cutoff=0.9)
        _require(bool(name in known or is_new_device), f"quotas.{queue}.{flavor}.{name}: the queue has no such quota")
        if name not in known:
            groups[0]["coveredResources"].append(name)
            for one in groups[0]["flavors"]:
                one["resources"].append({"name": name, "nominalQuota": "0"})
        for one in (one for group in groups for one in group["flavors"] if one["name"] == flavor):
            for resource in one["resources"]:
                if resource["name"] == name:
                    resource["nominalQuota"] = str(amount)
