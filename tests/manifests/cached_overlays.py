"""Rendered overlays for tests that only read them, cached per process. They must not be changed."""

import functools

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rendering import render
from tests.manifests.render import K8S


@functools.cache
def cached_objects(overlay):
    """The objects."""
    return render(K8S, overlay)


@functools.cache
def all_pods(overlay):
    """Every Pod that they lead to, with the containers that operators add."""
    return list(pods(cached_objects(overlay)))


def object_named(overlay, kind, name):
    return next(obj for obj in cached_objects(overlay) if obj["kind"] == kind and obj["metadata"]["name"] == name)


def container_of(obj, name):
    """The container of this name in the one Pod that the object leads to."""
    (pod,) = pods([obj])
    return next(container for container in pod.containers if container["name"] == name)
