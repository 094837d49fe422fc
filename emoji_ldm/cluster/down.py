"""`emoji-ldm cluster down`: take an overlay away, and say what stays."""

from __future__ import annotations

import sys

from emoji_ldm.cluster.kubectl import NAMESPACE, Kubectl, Thing
from emoji_ldm.cluster.overlay import SUBMITTED, Overlay
from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import say

# Ray first: while the operator tidies up, its Pods still need Redis, policies and accounts.
RAY = ("RayCronJob", "RayJob", "RayService", "RayCluster")
MADE = "ray.io/originated-from-crd"  # by KubeRay, for a job or service
KEPT = ("Namespace", "Secret", "CustomResourceDefinition", "PersistentVolumeClaim")
WAIT = ("--ignore-not-found", "--wait=true", "--timeout=360s")  # KubeRay gives the cleaning of Redis five minutes


def run(kubectl: Kubectl, overlay: Overlay, *, yes: bool, volumes: bool) -> int:
    """Delete the overlay's objects and all jobs that were submitted.

    Raises:
        ConfigError: Nobody is there to be asked, and --yes is not given.
        ClusterError: The cluster refuses.
    """
    where = kubectl.where()
    if not (yes or _agreed(where, overlay.name, volumes)):
        say("nothing was deleted")
        return 1
    known = kubectl.kinds
    there = [thing for thing in overlay.things
             if (thing["apiVersion"], thing["kind"]) in known and thing["kind"] not in KEPT]  # fmt: skip
    if "rayjobs.ray.io" in known.values():
        label = f"{SUBMITTED}=true"
        kubectl.run("delete", "rayjobs.ray.io", "--namespace", NAMESPACE, "--selector", label, *WAIT)
    _delete(kubectl, [thing for thing in there if thing["kind"] in RAY])
    if "rayclusters.ray.io" in known.values():  # of the service: it goes at once, its cluster cleans Redis first
        kubectl.run("delete", "rayclusters.ray.io", "--namespace", NAMESPACE, "--selector", MADE, *WAIT)
    _delete(kubectl, [thing for thing in there if thing["kind"] not in RAY])
    say(f"overlay {overlay.name} is gone from {where}")
    if volumes:
        kubectl.run("delete", "namespace", NAMESPACE, *WAIT)
        say(f"and namespace {NAMESPACE} with its volumes and Secrets")
    else:
        _tell_kept(kubectl)
    return 0


def _agreed(where: str, overlay: str, volumes: bool) -> bool:
    what = f"overlay {overlay} on {where}, and its running jobs"
    also = " AND ALL DATA OF ITS STORE" if volumes else ""
    if not sys.stdin.isatty():
        raise ConfigError(f"down deletes {what}{also}; nobody is here to be asked: give --yes")
    sys.stderr.write(f"delete {what}{also}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(kubectl: Kubectl, things: list[Thing]) -> None:
    if things:
        kubectl.run("delete", "--filename", "-", *WAIT, given=things)


def _tell_kept(kubectl: Kubectl) -> None:
    kept = kubectl.items("persistentvolumeclaims,secrets")
    volumes = sorted(thing["metadata"]["name"] for thing in kept if thing["kind"] == "PersistentVolumeClaim")
    own = sorted(thing["metadata"]["name"] for thing in kept if thing["kind"] == "Secret")
    say(f"kept in namespace {NAMESPACE}: volumes {', '.join(volumes) or 'none'}; Secrets {', '.join(own) or 'none'}")
    say("next: emoji-ldm cluster up brings all back; emoji-ldm cluster down --volumes deletes these too")
