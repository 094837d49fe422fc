"""`emoji-ldm cluster down`: deletes an overlay and its jobs; data and Secrets stay unless they are asked for."""

from __future__ import annotations

import sys

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.overlay import SUBMIT_LABEL, Overlay
from emoji_ldm.progress import print_status

# Ray kinds are deleted first: while KubeRay cleans up, its Pods still need Redis, network policies and accounts.
RAY_KINDS = ("RayCronJob", "RayJob", "RayService", "RayCluster")
ORIGINATED_LABEL = "ray.io/originated-from-crd"  # on RayClusters that KubeRay created for a job or service
KEPT_KINDS = ("Namespace", "Secret", "CustomResourceDefinition", "PersistentVolumeClaim")
# KubeRay may take five minutes to clean Redis, during which a finalizer keeps the RayCluster.
WAIT = ("--ignore-not-found", "--wait=true", "--timeout=360s")


def run(kubectl: Kubectl, overlay: Overlay, *, yes: bool, volumes: bool) -> int:
    """Delete the objects of the overlay and all submitted jobs; returns 1 if the user declines, otherwise 0.

    Raises:
        ConfigError: There is no terminal to ask for confirmation, and `yes` is not set.
        ClusterError: The cluster refuses a deletion.
    """
    cluster = kubectl.describe_context()
    if not (yes or _confirmed(cluster, overlay.name, volumes)):
        print_status("nothing was deleted")
        return 1
    known = kubectl.api_resources
    # kubectl fails for kinds that the cluster does not serve, such as those of an operator that was removed before.
    existing = [obj for obj in overlay.objects
                if (obj["apiVersion"], obj["kind"]) in known and obj["kind"] not in KEPT_KINDS]  # fmt: skip
    # Submitted jobs are not objects of the overlay: they are found by the label of the template that they were made
    # from.
    if "rayjobs.ray.io" in known.values():
        label = f"{SUBMIT_LABEL}=true"
        kubectl.run("delete", "rayjobs.ray.io", "--namespace", kubectl.namespace, "--selector", label, *WAIT)
    _delete(kubectl, [obj for obj in existing if obj["kind"] in RAY_KINDS])
    # The RayService is gone at once, but its RayCluster stays until KubeRay has cleaned Redis.
    if "rayclusters.ray.io" in known.values():
        options = ("--namespace", kubectl.namespace, "--selector", ORIGINATED_LABEL, *WAIT)
        kubectl.run("delete", "rayclusters.ray.io", *options)
    _delete(kubectl, [obj for obj in existing if obj["kind"] not in RAY_KINDS])
    print_status(f"overlay {overlay.name} was deleted from {cluster}")
    if volumes:
        kubectl.run("delete", "namespace", kubectl.namespace, *WAIT)
        print_status(f"namespace {kubectl.namespace} was deleted with its volumes and Secrets")
    else:
        _print_remaining(kubectl)
    return 0


def _confirmed(cluster: str, overlay: str, volumes: bool) -> bool:
    target = f"overlay {overlay} on {cluster}, and its running jobs"
    data = " AND ALL DATA OF ITS STORE" if volumes else ""
    if not sys.stdin.isatty():
        raise ConfigError(f"down deletes {target}{data}; there is no terminal to ask for confirmation: give --yes")
    sys.stderr.write(f"delete {target}{data}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(kubectl: Kubectl, objects: list[KubeObject]) -> None:
    if objects:
        kubectl.run("delete", "--filename", "-", *WAIT, input_objects=objects)


def _print_remaining(kubectl: Kubectl) -> None:
    kept = kubectl.list_objects("persistentvolumeclaims,secrets")
    volumes = sorted(obj["metadata"]["name"] for obj in kept if obj["kind"] == "PersistentVolumeClaim")
    own = sorted(obj["metadata"]["name"] for obj in kept if obj["kind"] == "Secret")
    names = f"volumes {', '.join(volumes) or 'none'}; Secrets {', '.join(own) or 'none'}"
    print_status(f"kept in namespace {kubectl.namespace}: {names}")
    print_status("next: emoji-ldm cluster up installs it again; emoji-ldm cluster down --volumes deletes these too")
