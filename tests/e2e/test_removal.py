"""`cluster down` on a real cluster: it leaves the volume and the Secrets, and `up` finds the data again."""

import json

import pytest

from emoji_ldm.kubernetes.kubectl import NAMESPACE
from emoji_ldm.store import Store
from tests.e2e import helper_pods
from tests.e2e.conftest import OVERLAY, emoji_ldm, forwarded_store, kubectl, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.usefixtures("installed")]
# Of Kubernetes, and of the helpers where other tests have run before.
OTHERS = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default",
          *(f"NetworkPolicy/{name}" for name in helper_pods.POLICIES)}  # fmt: skip


def left():
    """What is left in the namespace, as KIND/NAME, but for events, which expire by themselves."""
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events") and "metrics.k8s.io" not in kind]
    found = json.loads(kubectl("get", ",".join(kinds), "-o", "json"))["items"]
    return {f"{one['kind']}/{one['metadata']['name']}" for one in found} - OTHERS


def test_down_leaves_nothing_but_volume_and_secrets_and_up_finds_the_data(monkeypatch, record):
    with forwarded_store(monkeypatch):
        Store("s3://emoji-ldm/e2e-kept").write(b"kept", "x")
    status, said, seconds = emoji_ldm("cluster", "down", "--overlay", OVERLAY, "--yes")
    assert status == 0, said
    record("cluster down, s", seconds)
    try:
        # Pods of the service may take their whole time to end.
        until(lambda: {name.partition("/")[0] for name in left()} == {"PersistentVolumeClaim", "Secret"}, 240)
        for kind in ("clusterqueues", "priorityclasses", "validatingadmissionpolicies"):
            words = ("get", kind, "-l", f"app.kubernetes.io/part-of={NAMESPACE}", "-o", "name")
            assert not helper_pods.call(*words, check=False).strip()
    finally:
        status, said, seconds = emoji_ldm("cluster", "up", "--overlay", OVERLAY)
    assert status == 0, said
    record("cluster up, after down, s", seconds)
    with forwarded_store(monkeypatch):
        assert Store("s3://emoji-ldm/e2e-kept").read("x") == b"kept"
