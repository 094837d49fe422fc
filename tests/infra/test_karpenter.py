"""The node pools of overlay eks, held against what runs on them and what Terraform names."""

from fractions import Fraction

import pytest

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.kubernetes.lint.pods import pods, ray_cluster, ray_job
from emoji_ldm.kubernetes.lint.quantities import duration_s, quantity
from emoji_ldm.kubernetes.lint.rendering import render
from emoji_ldm.kubernetes.lint.schema import schema_problems
from tests.infra.terraform import FOLDER, ROOT, blocks

K8S = ROOT / "k8s"
NAME = dict(blocks(FOLDER, "variable"))["name"]["default"]
SPOT = "gpu-spot"


@pytest.fixture(scope="module")
def things():
    try:
        return render(K8S, "eks")
    except EmojiLdmError as error:
        pytest.skip(str(error))


def of_kind(things, kind):
    return {obj["metadata"]["name"]: obj["spec"] for obj in things if obj["kind"] == kind}


@pytest.fixture
def pools(things):
    return of_kind(things, "NodePool")


def test_pools_and_classes_pass_the_real_definitions_with_their_cel_rules(things):
    found = [obj for obj in things if obj["apiVersion"].startswith("karpenter")]
    assert len(found) == 6
    for obj in found:
        assert list(schema_problems(obj, K8S / "schemas", "1.35")) == []


def test_a_start_up_taint_without_an_effect_is_named(things):
    (pool,) = [t for t in things if t["kind"] == "NodePool" and t["metadata"]["name"] == "cpu"]
    spec = {**pool["spec"]["template"]["spec"], "startupTaints": [{"key": "a"}]}
    broken = {**pool, "spec": {**pool["spec"], "template": {**pool["spec"]["template"], "spec": spec}}}
    assert any("effect" in text for _, text in schema_problems(broken, K8S / "schemas", "1.35"))


def test_there_is_a_pool_for_every_flavor_with_its_label_and_taints(things, pools):
    flavors = of_kind(things, "ResourceFlavor")
    assert set(pools) == set(flavors)
    for name, pool in pools.items():
        assert flavors[name]["nodeLabels"].items() <= pool["template"]["metadata"]["labels"].items()
        assert flavors[name].get("nodeTaints", []) == pool["template"]["spec"].get("taints", [])


def test_quotas_of_the_queues_fit_the_limits_of_the_pools(things, pools):
    total: dict[tuple[str, str], Fraction] = {}
    for queue in of_kind(things, "ClusterQueue").values():
        for flavor in [flavor for group in queue["resourceGroups"] for flavor in group["flavors"]]:
            for resource in flavor["resources"]:
                key = flavor["name"], resource["name"]
                total[key] = total.get(key, Fraction(0)) + quantity(resource["nominalQuota"])
    for (pool, resource), asked in total.items():
        limit = pools[pool]["limits"].get(resource)
        assert limit is None or asked <= quantity(limit), f"{pool}: queues promise {asked} {resource}, limit {limit}"


def test_a_node_outlives_the_idle_time_of_ray_s_autoscaler(things, pools):
    idle = [
        part["idleTimeoutSeconds"]
        for obj in things
        if (cluster := ray_cluster(obj))
        for part in (cluster.get("autoscalerOptions", {}), *cluster.get("workerGroupSpecs", []))
        if "idleTimeoutSeconds" in part
    ]
    assert idle
    assert all(duration_s(pool["disruption"]["consolidateAfter"]) >= max(idle) for pool in pools.values())


def test_a_draining_node_waits_for_the_longest_job_but_a_spot_node_for_its_two_minutes(things, pools):
    jobs = [job for obj in things if (found := ray_job(obj)) for job in found[1:]]
    longest = max(job.get("activeDeadlineSeconds", 0) for job in jobs)
    assert longest
    for name, pool in pools.items():
        waits = duration_s(pool["template"]["spec"]["terminationGracePeriod"])
        assert waits == 120 if name == SPOT else waits > longest


def test_pods_that_may_not_be_disturbed_never_run_on_spot(things):
    for pod in pods(things):
        if pod.spec.get("nodeSelector", {}).get("emoji-ldm/pool") == SPOT:
            annotations = pod.template.get("metadata", {}).get("annotations", {})
            assert "karpenter.sh/do-not-disrupt" not in annotations, pod.owner


def test_only_spot_nodes_are_spot(pools):
    for name, pool in pools.items():
        wanted = {entry["key"]: entry["values"] for entry in pool["template"]["spec"]["requirements"]}
        assert wanted["karpenter.sh/capacity-type"] == (["spot"] if name == SPOT else ["on-demand"])
        assert wanted["kubernetes.io/arch"] == ["amd64"]


def test_machines_bear_the_names_that_terraform_gives_and_hide_their_credentials(things):
    for machine in of_kind(things, "EC2NodeClass").values():
        assert machine["role"] == f"{NAME}-node"
        for terms in ("subnetSelectorTerms", "securityGroupSelectorTerms"):
            assert machine[terms] == [{"tags": {"karpenter.sh/discovery": NAME}}]
        assert machine["metadataOptions"]["httpTokens"] == "required"
        assert machine["metadataOptions"]["httpPutResponseHopLimit"] == 1
        assert all(disk["ebs"]["encrypted"] for disk in machine["blockDeviceMappings"])
        assert not machine["amiSelectorTerms"][0]["alias"].endswith("@latest")
