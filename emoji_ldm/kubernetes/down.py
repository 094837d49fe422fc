"""`emoji-ldm cluster down`: take an overlay away, and say what stays."""

from __future__ import annotations

import sys

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl, KubeObject
from emoji_ldm.kubernetes.overlay import SUBMIT_LABEL, Overlay
from emoji_ldm.progress import print_status

# Ray first: while the operator tidies up, its Pods still need Redis, policies and accounts.
RAY_KINDS = ("RayCronJob", "RayJob", "RayService", "RayCluster")
ORIGINATED_LABEL = "ray.io/originated-from-crd"  # by KubeRay, for a job or service
KEPT_KINDS = ("Namespace", "Secret", "CustomResourceDefinition", "PersistentVolumeClaim")
WAIT = ("--ignore-not-found", "--wait=true", "--timeout=360s")  # KubeRay gives the cleaning of Redis five minutes


def run(kubectl: Kubectl, overlay: Overlay, *, yes: bool, volumes: bool) -> int:
    """Delete the overlay's objects and all jobs that were submitted.

    Raises:
        ConfigError: Nobody is there to be asked, and --yes is not given.
        ClusterError: The cluster refuses.
    """
    where = kubectl.describe_context()
    if not (yes or _confirmed(where, overlay.name, volumes)):
        print_status("nothing was deleted")
        return 1
    known = kubectl.api_resources
    there = [obj for obj in overlay.objects
             if (obj["apiVersion"], obj["kind"]) in known and obj["kind"] not in KEPT_KINDS]  # fmt: skip
    if "rayjobs.ray.io" in known.values():
        label = f"{SUBMIT_LABEL}=true"
        kubectl.run("delete", "rayjobs.ray.io", "--namespace", NAMESPACE, "--selector", label, *WAIT)
    _delete(kubectl, [obj for obj in there if obj["kind"] in RAY_KINDS])
    if "rayclusters.ray.io" in known.values():  # of the service: it goes at once, its cluster cleans Redis first
        kubectl.run("delete", "rayclusters.ray.io", "--namespace", NAMESPACE, "--selector", ORIGINATED_LABEL, *WAIT)
    _delete(kubectl, [obj for obj in there if obj["kind"] not in RAY_KINDS])
    print_status(f"overlay {overlay.name} is gone from {where}")
    if volumes:
        kubectl.run("delete", "namespace", NAMESPACE, *WAIT)
        print_status(f"and namespace {NAMESPACE} with its volumes and Secrets")
    else:
        _tell_kept(kubectl)
    return 0


def _confirmed(where: str, overlay: str, volumes: bool) -> bool:
    what = f"overlay {overlay} on {where}, and its running jobs"
    also = " AND ALL DATA OF ITS STORE" if volumes else ""
    if not sys.stdin.isatty():
        raise ConfigError(f"down deletes {what}{also}; nobody is here to be asked: give --yes")
    sys.stderr.write(f"delete {what}{also}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(kubectl: Kubectl, objects: list[KubeObject]) -> None:
    if objects:
        kubectl.run("delete", "--filename", "-", *WAIT, input_objects=objects)


def _tell_kept(kubectl: Kubectl) -> None:
    kept = kubectl.list_objects("persistentvolumeclaims,secrets")
    volumes = sorted(obj["metadata"]["name"] for obj in kept if obj["kind"] == "PersistentVolumeClaim")
    own = sorted(obj["metadata"]["name"] for obj in kept if obj["kind"] == "Secret")
    print_status(
        f"kept in namespace {NAMESPACE}: volumes {', '.join(volumes) or 'none'}; Secrets {', '.join(own) or 'none'}"
    )
    print_status("next: emoji-ldm cluster up brings all back; emoji-ldm cluster down --volumes deletes these too")
