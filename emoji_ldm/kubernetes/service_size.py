"""Changes the number of workers of a running service, which KubeRay does not.

KubeRay compares a RayService with its RayCluster without `replicas`, `minReplicas` and `maxReplicas`, because the
autoscaler writes the first. Other limits in the manifests would therefore take effect only with the next cluster, at an
upgrade that may be weeks away. So `cluster up` writes them into the clusters that the service has.
"""

from __future__ import annotations

import json
from typing import Any

from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.overlay import Overlay

ORIGIN = "ray.io/originated-from-cr-name"  # label of a RayCluster: the RayService or RayJob that it belongs to


def resize_clusters(kubectl: Kubectl, overlay: Overlay) -> list[str]:
    """Write the limits of every RayService into its clusters; returns the names of those that were changed."""
    services = overlay.of_kinds("RayService")
    clusters = kubectl.list_objects("rayclusters.ray.io") if services else []
    changed = []
    for service in services:
        config = service["spec"].get("rayClusterConfig") or {}
        wanted = {group["groupName"]: group for group in config.get("workerGroupSpecs") or ()}
        for cluster in clusters:
            metadata = cluster["metadata"]
            owner = [one for one in metadata.get("ownerReferences") or () if one.get("kind") == "RayService"]
            if (metadata.get("labels") or {}).get(ORIGIN) != service["metadata"]["name"] or not owner:
                continue
            groups = cluster["spec"].get("workerGroupSpecs") or ()
            patch = [step for index, group in enumerate(groups)
                     for step in _resized(index, group, wanted.get(group["groupName"], {}))]  # fmt: skip
            if patch:
                kubectl.run("patch", "raycluster", metadata["name"], "--namespace", kubectl.namespace, "--type=json",
                            "--patch", json.dumps(patch))  # fmt: skip
                changed.append(str(metadata["name"]))
    return changed


def _resized(index: int, group: dict[str, Any], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a JSON patch that give a worker group other limits, and a number of Pods within them."""
    limits: dict[str, Any] = {name: wanted[name] for name in ("minReplicas", "maxReplicas")
              if name in wanted and group.get(name) != wanted[name]}  # fmt: skip
    if not limits:
        return []
    least, most = ({**group, **limits}.get(name) for name in ("minReplicas", "maxReplicas"))
    replicas = max(group.get("replicas") or 0, least or 0)
    limits["replicas"] = replicas if most is None else min(replicas, most)
    return [{"op": "add", "path": f"/spec/workerGroupSpecs/{index}/{name}", "value": value}
            for name, value in limits.items()]  # fmt: skip
