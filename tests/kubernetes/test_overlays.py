"""The overlays themselves, installed, used and taken away with a real kubectl."""

from pathlib import Path

import pytest

from emoji_ldm.kubernetes.lint.rendering import render
from tests.kubernetes.apiserver import plural

K8S = Path(__file__).parents[2] / "k8s"


@pytest.fixture
def manifests():
    return K8S


@pytest.mark.parametrize("overlay", ["kind", pytest.param("dev", marks=pytest.mark.long)])
def test_an_overlay_comes_up_runs_a_stage_and_goes(cluster, api, overlay):
    api.kinds |= {(obj["apiVersion"], plural(obj["kind"])): obj["kind"] for obj in render(K8S, overlay)}
    status, _, said = cluster("up", overlay=overlay)
    assert status == 0, said
    assert api.of("RayJob") == [] and len(api.of("RayCronJob")) == 1
    assert "service serve: ready" in said, "the packaged model answers until there is a checkpoint"
    assert {secret["metadata"]["name"] for secret in api.of("Secret")} >= {"emoji-ldm-store", "emoji-ldm-token"}
    status, _, said = cluster("submit", "train", "train.steps=3", "--detach", overlay=overlay)
    assert status == 0, said
    job = api.of("RayJob")[0]
    assert job["metadata"]["name"].startswith("train-") and job["spec"]["entrypoint"].endswith(" train.steps=3")
    assert "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"] or overlay == "dev"
    assert cluster("down", "--yes", overlay=overlay)[0] == 0
    assert {kind for _, kind, _, _ in api.objects} == {"Namespace", "Secret"}


@pytest.mark.long  # the findings themselves are tests of the check
def test_a_site_that_is_not_filled_in_is_not_installed(cluster, api):
    status, _, said = cluster("up", overlay="eks")
    assert status == 2 and "nothing was applied" in said and "k8s/overlays/eks/" in said
    assert api.objects == {}
