"""Names of an installation: with another namespace and a prefix, two of them share nothing on one cluster."""

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.rules import violations
from emoji_ldm.kubernetes.site_names import in_namespace, with_prefix
from tests.manifests.cached_overlays import cached_objects
from tests.manifests.render import K8S

CLUSTER_WIDE = ("Namespace", "ClusterQueue", "Cohort", "ResourceFlavor", "NodePool", "EC2NodeClass", "GatewayClass",
                "PriorityClass", "WorkloadPriorityClass", "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding")  # fmt: skip
EXIST = ("priorities exist", "priorities of queues exist", "a local queue has a cluster queue", "pools exist",
         "flavors of queues exist", "policies of bindings exist", "classes of node pools exist",
         "gateway classes exist", "a cohort has more than one queue")  # fmt: skip


def names(objects):
    return {(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in objects}


def test_two_installations_share_no_object():
    for overlay in ("kind", "eks"):
        first = cached_objects(overlay)
        second = with_prefix(in_namespace(first, "team-a"), "team-a")
        assert names(first) & names(second) == set()


def test_only_objects_without_a_namespace_get_the_prefix():
    objects = cached_objects("eks")
    changed = {kind for (kind, _, name) in names(with_prefix(objects, "team-a")) - names(objects)}
    assert changed <= set(CLUSTER_WIDE) - {"Namespace"}
    assert {"ClusterQueue", "NodePool", "PriorityClass"} <= changed


def test_everything_that_is_referred_to_exists_under_its_new_name():
    for overlay in ("kind", "eks"):
        objects = tuple(with_prefix(cached_objects(overlay), "team-a"))
        context = LintContext(objects, overlay, K8S)
        found = [text for obj in objects for rule, _, text in violations(obj, context) if rule.name in EXIST]
        assert found == []
        assert '"emoji-batch"' not in str(objects).replace("'", '"')
