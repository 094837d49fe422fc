"""What the KubeRay operator demands but no schema says: each rule has a case that breaks it."""

import copy
import re

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.manifests.render import ROOTS, name_of, ray_cluster, rendered
from tests.manifests.rules import broken_rules

NAME_LIMIT = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
HEAD = "headGroupSpec.template.spec"
WORKER = "workerGroupSpecs.0.template.spec.containers.0"
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def pick(kind, name):
    return copy.deepcopy(next(thing for thing in rendered("base") if name_of(thing) == f"{kind}/{name}"))


@pytest.mark.parametrize("root", ROOTS)
def test_our_ray_objects_keep_every_rule(root):
    assert {name_of(thing): found for thing in rendered(root) if (found := broken_rules(thing))} == {}


@pytest.mark.parametrize("root", ROOTS)
def test_names_leave_room_for_what_the_operator_appends(root):
    for thing in rendered(root):
        if limit := NAME_LIMIT.get(thing["kind"]):
            name = thing["metadata"]["name"]
            assert len(name) <= limit
            assert DNS_1035.fullmatch(name)


CASES = {
    "job without shutdown": ("RayJob", "train", "shutdownAfterJobFinishes", False),
    "unknown submission mode": ("RayJob", "train", "submissionMode", "K8SJobMode"),
    "sidecar with a submitter": ("RayJob", "train", "submissionMode", "SidecarMode"),
    "no deadline": ("RayJob", "train", "activeDeadlineSeconds", None),
    "no token": ("RayJob", "train", "rayClusterSpec.authOptions", {"mode": "disabled"}),
    "no version": ("RayJob", "train", "rayClusterSpec.rayVersion", None),
    "job by selector": ("RayJob", "train", "clusterSelector", {"ray.io/cluster": "emoji-ldm"}),
    "autoscaler v1": ("RayCluster", "emoji-ldm", "autoscalerOptions.version", "v1"),
    "head restarts under v2": ("RayCluster", "emoji-ldm", f"{HEAD}.restartPolicy", "Always"),
    "worker restarts under v2": ("RayCluster", "emoji-ldm", "workerGroupSpecs.0.template.spec.restartPolicy", "Always"),
    "tasks on the head": ("RayCluster", "emoji-ldm", "headGroupSpec.rayStartParams.num-cpus", "2"),
    "no such start option": ("RayCluster", "emoji-ldm", "headGroupSpec.rayStartParams.num-cpu", "0"),
    "start option no string": ("RayCluster", "emoji-ldm", "headGroupSpec.rayStartParams.num-cpus", 0),
    "group called head": ("RayCluster", "emoji-ldm", "workerGroupSpecs.0.groupName", "head"),
    "fewer at most than at least": ("RayCluster", "emoji-ldm", "workerGroupSpecs.0.minReplicas", 9),
    "unnamed dashboard": ("RayCluster", "emoji-ldm", f"{HEAD}.containers.0.ports.1.name", "web"),
    "unnamed serve port": ("RayService", "serve", f"rayClusterConfig.{HEAD}.containers.0.ports.3.name", "x"),
    "sidecar not hardened": ("RayService", "serve", "rayClusterConfig.autoscalerOptions.securityContext", None),
    "misspelt resource": ("RayJob", "train", f"rayClusterSpec.{WORKER}.resources.limits.nvidia.com/gpus", "1"),
    "bad quantity": ("RayJob", "train", f"rayClusterSpec.{WORKER}.resources.limits.memory", "32GB"),
    "session folder": ("RayJob", "train", f"rayClusterSpec.{HEAD}.containers.0.volumeMounts.1.mountPath", "/x"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_rule_is_noticed(case):
    kind, name, path, value = CASES[case]
    thing = pick(kind, name)
    path = path.replace("nvidia.com/", "nvidia~")
    *steps, last = [int(step) if step.isdigit() else step.replace("nvidia~", "nvidia.com/") for step in path.split(".")]
    place = thing["spec"]
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert broken_rules(thing)


def test_autoscaled_groups_can_grow_and_job_groups_have_one_size():
    for thing in rendered("base"):
        for group in (ray_cluster(thing) or {}).get("workerGroupSpecs", []):
            if thing["kind"] == "RayJob":
                assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
                assert (group["replicas"] == 0) == (name_of(thing) == "RayJob/report")
            else:
                assert group["maxReplicas"] > group["minReplicas"]


@pytest.mark.parametrize("root", ROOTS)
def test_ray_s_autoscaler_reads_our_groups_as_we_mean_them(root):
    for thing in rendered(root):
        if ray_cluster(thing):
            types = _derive_autoscaling_config_from_ray_cr(thing | {"spec": ray_cluster(thing)})["available_node_types"]
            group = ray_cluster(thing)["workerGroupSpecs"][0]
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            resources = types[group["groupName"]]["resources"]
            assert types["headgroup"]["resources"]["CPU"] == 0
            assert (resources["CPU"], resources.get("GPU", 0)) == (
                int(limits["cpu"]),
                int(limits.get("nvidia.com/gpu", 0)),
            )
