"""The site file: the values of one installation, in a file of its own outside of the manifests.

    overlay: eks
    namespace: team-a
    prefix: team-a  # of objects without a namespace, such as queues and priority classes
    images: {emoji-ldm-cpu: registry.example.org/emoji-ldm-cpu@sha256:...}
    config: {store: s3://bucket/store, crawl: {site: https://example.org}}
    environment: {AWS_REGION: eu-central-1, BUCKET: bucket}
    redis_address: redis.example.org:6379
    workers: {train: {gpu-on-demand: {replicas: 4, minReplicas: 4, maxReplicas: 4, resources: {memory: 128Gi}}}}
    volumes: {store: {size: 500Gi, storage_class: fast}}
    service_accounts: {train: {eks.amazonaws.com/role-arn: arn:aws:iam::123456789012:role/train}}
    nodes: {stack: emoji-ldm, image: al2023@v20260728}
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
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.site_names import in_namespace, with_prefix
from emoji_ldm.kubernetes.site_pools import Name, NewPool, NewQueue, Quantities, add_pool, add_queue
from emoji_ldm.kubernetes.site_values import (
    Nodes,
    Volume,
    Workers,
    annotate_account,
    merge_config,
    set_environment,
    set_image,
    set_nodes,
    set_quotas,
    set_redis_address,
    set_runbooks,
    set_volume,
    set_workers,
)

PLACEHOLDER = "FILL-ME-IN"  # as in overlay eks and in what Terraform prints
ImageName = Literal["emoji-ldm-cpu", "emoji-ldm-gpu", "emoji-ldm-browser"]


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
    workers: dict[str, dict[str, Workers]] = {}
    volumes: dict[str, Volume] = {}
    service_accounts: dict[str, dict[str, str]] = {}  # annotations, by which a cloud gives an account its role
    nodes: Nodes | None = None
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
            text = path.read_text(encoding="utf-8")
            values = yaml.safe_load(text)
        except OSError:
            raise ConfigError(f"there is no site file {path}; docs/kubernetes.md has an example") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if open_lines := [str(number) for number, line in enumerate(text.splitlines(), 1) if PLACEHOLDER in line]:
            raise ConfigError(f"{path}: {PLACEHOLDER} waits for a value in line {', '.join(open_lines)}")
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
            set_image(objects, name, image)
        if self.config:
            objects = merge_config(objects, self.config)
        if self.environment:
            set_environment(objects, self.environment)
        if self.redis_address is not None:
            set_redis_address(objects, self.redis_address)
        if self.runbooks is not None:
            set_runbooks(objects, self.runbooks)
        for owner, groups in self.workers.items():
            for group, workers in groups.items():
                set_workers(objects, owner, group, workers)
        for owner, volume in self.volumes.items():
            set_volume(objects, owner, volume)
        for account, entries in self.service_accounts.items():
            annotate_account(objects, account, entries)
        if self.nodes is not None:
            set_nodes(objects, self.nodes)
        for new, pool in self.pools.items():
            objects = add_pool(objects, new, pool)
        for new, own_queue in self.queues.items():
            objects = add_queue(objects, new, own_queue)
        for queue, flavors in self.quotas.items():
            for flavor, quantities in flavors.items():
                set_quotas(objects, queue, flavor, quantities)
        return objects

    def move(self, objects: list[KubeObject]) -> list[KubeObject]:
        """The objects in the namespace of the site, and those without one with its prefix."""
        objects = in_namespace(objects, self.namespace)
        return objects if self.prefix is None else with_prefix(objects, self.prefix)
