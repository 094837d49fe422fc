"""`emoji-ldm submit` on Kubernetes with a real kubectl: what is created, and what is refused before that."""

import shlex
import subprocess

import pytest

from tests.kubernetes.conftest import SMALL, obj, write

pytestmark = pytest.mark.usefixtures("unchecked")


def test_overrides_reach_the_command_as_they_were_written(ready, api):
    """The entrypoint passes through the submitter's shell; `ray job submit` quotes it again for the cluster's."""
    words = ["crawl.tags=[Blobs, it's]", "crawl.site=https://example.org/a?b=1&c=$HOME;d"]
    assert ready("submit", "crawl", *words, "--detach")[0] == 0
    entrypoint = api.of("RayJob")[0]["spec"]["entrypoint"]
    submitter = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {entrypoint}"], text=True).splitlines()
    cluster = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {shlex.join(submitter)}"], text=True).splitlines()
    assert cluster[-2:] == words
    assert cluster[:2] == ["emoji-ldm", "crawl"]


@pytest.mark.parametrize(("words", "code", "text"), [
    (["trian"], 2, "has no job 'trian'; it has: crawl, train; did you mean 'train'?"),
    (["train", "train.stepss=7"], 2, "did you mean 'steps'"),
    (["train", "--name", "Train_1"], 2, "at most 47 lower-case letters"),
    (["train", "--name", "t" * 48], 2, "at most 47 lower-case letters"),
    (["train", "--standing", "--detach"], 2, "--standing takes neither"),
    (["train", "--retry", "failed"], 2, "--retry is refused: jobs of the manifests read their configuration"),
])  # fmt: skip
def test_invalid_submissions_are_refused_before_anything_is_created(ready, api, words, code, text):
    status, _, said = ready("submit", *words)
    assert (status, api.of("RayJob")) == (code, [])
    assert text in said and said.count("\n") == 1 and said.startswith("error: ")


def test_the_config_of_the_job_is_validated_and_a_missing_one_is_reported_in_one_line(ready, api, manifests):
    other = obj("ConfigMap", "another", data={"emoji-ldm.yaml": "no: config of ours\n"})
    files = obj("ConfigMap", "files", binaryData={"a": "AA=="})
    write(manifests / "overlays" / "small", [other, files, *SMALL])
    assert ready("submit", "train", "--detach")[0] == 0
    write(manifests / "overlays" / "small", [one for one in SMALL if one["kind"] != "ConfigMap"])
    status, _, said = ready("submit", "train", "--detach")
    assert status == 2 and said == "error: job train of overlay small mounts no ConfigMap with emoji-ldm.yaml\n"


def test_a_name_that_exists_is_reported_in_one_line(ready, api):
    ready("submit", "train", "--name", "mine", "--detach")
    status, _, said = ready("submit", "train", "--name", "mine", "--detach")
    assert status == 1 and said == 'error: rayjobs.ray.io "mine" already exists; choose another name\n'


def test_without_an_installed_overlay_the_command_that_installs_it_is_named(cluster):
    status, _, said = cluster("submit", "train")
    assert status == 1 and "the overlay is not installed" in said and "emoji-ldm cluster up" in said


def test_a_missing_permission_to_create_jobs_is_reported(ready, api):
    api.denied.add(("create", "rayjobs"))
    status, _, said = ready("submit", "train")
    assert status == 1
    assert "you are not allowed to do this" in said and 'User "ana" cannot create resource "rayjobs"' in said


def test_who_may_only_run_stages_submits_with_the_installed_configuration(cluster, api):
    assert cluster("up")[0] == 0
    api.denied = {("patch", "configmaps")}
    status, _, said = cluster("submit", "train", "--detach")
    assert status == 0, said
