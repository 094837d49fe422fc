"""Settings of operators that an overlay needs, read from a Deployment and a ConfigMap as the charts write them."""

import pytest
import yaml

from emoji_ldm.kubernetes.operator_settings import settings_problems
from emoji_ldm.kubernetes.overlay import Overlay
from tests.manifests.render import K8S


class Answers:
    """Stands in for kubectl: the objects of the operator's namespace."""

    def __init__(self, *objects):
        self.objects = objects

    def list_in_namespace(self, _kinds, namespace):
        assert namespace in ("kuberay-system", "kueue-system")
        return list(self.objects)


def kuberay(*arguments):
    containers = [{"name": "operator", "command": ["/manager"], "args": list(arguments)}]
    return {"metadata": {"name": "kuberay-operator"}, "spec": {"template": {"spec": {"containers": containers}}}}


def kueue(**fields):
    config = {"integrations": {"frameworks": ["ray.io/rayjob"]}, **fields}
    return {"metadata": {"name": "kueue-manager-config"}, "data": {"controller_manager_config.yaml": yaml.dump(config)}}


@pytest.fixture(scope="module")
def overlay():
    return Overlay.read(K8S, "kind")


GATES = "--feature-gates=RayCronJob=true,RayServiceIncrementalUpgrade=true"


@pytest.mark.parametrize(("operator", "told"), [
    (kuberay(GATES), []),
    (kuberay(GATES, "--watch-namespace=other,emoji-ldm"), []),
    (kuberay(GATES.replace("Job=true", "Job=false")), ["its feature gate RayCronJob is off"]),
    (kuberay(), ["its feature gate RayCronJob is off", "its feature gate RayServiceIncrementalUpgrade is off"]),
    (kuberay(GATES, "--watch-namespace=other"), ["it does not watch namespace emoji-ldm"]),
])  # fmt: skip
def test_kuberay_needs_its_gates_and_must_watch_the_namespace(overlay, operator, told):
    found = list(settings_problems(Answers(operator), overlay, "kuberay-operator"))
    assert [text.partition(":")[0] for text in found] == told


@pytest.mark.parametrize(("operator", "told"), [
    (kueue(), None),
    (kueue(managedJobsNamespaceSelector={"matchLabels": {"app.kubernetes.io/part-of": "emoji-ldm"}}), None),
    (kueue(managedJobsNamespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "a"}}), "does not select"),
    (kueue(integrations={"frameworks": ["batch/job"]}), "it does not queue RayJobs"),
])  # fmt: skip
def test_kueue_must_queue_ray_jobs_of_the_namespace(overlay, operator, told):
    found = list(settings_problems(Answers(operator), overlay, "kueue"))
    assert len(found) == bool(told)
    assert not told or told in found[0]
