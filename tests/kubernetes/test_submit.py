"""`emoji-ldm submit` on Kubernetes and `cluster logs` with a real kubectl: a job from its creation to its end."""

import base64
import os
import re
import shlex
import subprocess
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from emoji_ldm.kubernetes import job_follower
from emoji_ldm.kubernetes.kubectl import ClusterUnreachable, Kubectl
from tests.kubernetes.conftest import SMALL, obj, write

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def ready(cluster, api):
    """The namespace is there, and nothing else."""
    api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "emoji-ldm"}})
    return cluster


def play(api, *steps):
    """Each look at the jobs lets the newest one make a step."""
    left = list(steps)

    def look(api, kind):
        if kind == "RayJob" and left and (jobs := api.of("RayJob")):
            left.pop(0)(api, jobs[-1]["metadata"]["name"])

    api.looks.append(look)


def becomes(deployment, job="", **status):
    fields = {"jobDeploymentStatus": deployment, "jobStatus": job, **status}
    return lambda api, name: api.update("RayJob", name, status=fields)


def begins(attempt, *lines, phase="Running"):
    """A submitter Pod that prints these lines; None ends its log."""

    def step(api, name):
        api.logs[f"{name}-{attempt}"] = list(lines)
        meta = {"name": f"{name}-{attempt}", "labels": {"job-name": name}}
        spec = {"containers": [{"name": "ray-job-submitter"}]}
        api.add({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": phase}})
        api.update("RayJob", name, status={"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})

    return step


def test_a_job_that_succeeds_shows_its_log_and_ends_with_0(ready, api):
    play(api, becomes("Initializing"), begins("a", "step 1", "step 2", None), becomes("Complete", "SUCCEEDED"))
    status, printed, said = ready("submit", "train", "train.steps=7")
    assert status == 0, said
    assert printed == "step 1\nstep 2\n"
    job = api.one("RayJob", re.search(r"job (train-\d{4}-\d{6}) succeeded", said)[1])
    assert job["spec"]["entrypoint"].endswith("emoji-ldm.yaml train.steps=7")
    assert not job["spec"].get("suspend")
    assert "waiting" in said and "running" in said
    assert api.one("ConfigMap", "emoji-ldm"), "the config that it mounts may be newer than what was installed"


def test_a_failed_job_ends_with_the_exit_code_of_its_command(ready, api):
    message = "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):\nboom"
    play(api, begins("a", "boom", None), becomes("Failed", "FAILED", reason="AppFailed", message=message))
    status, printed, said = ready("submit", "train")
    assert status == 3
    assert printed == "boom\n"
    assert "failed: AppFailed: Job entrypoint command failed with exit code 3" in said


def test_a_job_past_its_deadline_ends_with_1(ready, api):
    play(
        api, becomes("Failed", "", reason="DeadlineExceeded", message="The RayJob has passed the activeDeadlineSeconds")
    )
    status, _, said = ready("submit", "train")
    assert status == 1 and "DeadlineExceeded: The RayJob has passed" in said


def test_the_log_of_a_second_attempt_follows_that_of_the_first(ready, api):
    def lost(api, name):
        api.update("RayJob", name, status={"jobDeploymentStatus": "Retrying", "jobStatus": "", "failed": 1})

    play(api, begins("a", "first", None), becomes("Running", "RUNNING"), lost, begins("b", "second", None),
         becomes("Complete", "SUCCEEDED"))  # fmt: skip
    status, printed, said = ready("submit", "train")
    assert status == 0
    assert printed == "first\nsecond\n"
    assert "attempt 2" in said


def test_the_reason_of_a_queued_job_is_printed(ready, api):
    quota = (
        "couldn't assign flavors to pod set trainers: insufficient unused quota for nvidia.com/gpu in flavor gpu-spot"
    )

    def queue(api, name):
        job = api.one("RayJob", name)
        api.update("RayJob", name, spec={"suspend": True}, status={"jobDeploymentStatus": "Suspended"})
        owner = [{"kind": "RayJob", "name": name, "uid": job["metadata"]["uid"]}]
        waits = [{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": quota}]
        api.add({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "spec": {"queueName": "train"},
                 "metadata": {"name": "w", "ownerReferences": owner}, "status": {"conditions": waits}})  # fmt: skip

    play(api, queue, becomes("Complete", "SUCCEEDED"))
    _, _, said = ready("submit", "train")
    assert f"waiting, waiting in queue train: {quota}" in said


def test_ctrl_c_leaves_the_job_running_and_prints_how_to_follow_it(ready, api, monkeypatch):
    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job_follower, "time", SimpleNamespace(sleep=pressed, monotonic=time.monotonic))
    play(api, begins("a", "at work"))
    status, _, said = ready("submit", "train", "--name", "mine")
    assert status == 130
    assert "emoji-ldm cluster logs mine --follow" in said and "delete rayjob mine" in said
    assert api.one("RayJob", "mine")


def test_a_short_outage_of_the_cluster_is_tolerated(ready, api, monkeypatch):
    one, answers = Kubectl.get, iter([None, ClusterUnreachable("no Kubernetes cluster answers: EOF"), None, None])

    def look(self, kind, name):
        if error := next(answers, None):
            raise error
        return one(self, kind, name)

    monkeypatch.setattr(Kubectl, "get", look)
    play(api, begins("a", "at work", None), becomes("Complete", "SUCCEEDED"))
    status, printed, said = ready("submit", "train")
    assert (status, printed) == (0, "at work\n"), said
    assert said.count("no Kubernetes cluster answers: EOF; trying again") == 1


def test_a_long_outage_is_reported_with_the_command_to_follow_again(ready, api, monkeypatch):
    def look(*_):
        raise ClusterUnreachable("no Kubernetes cluster answers: EOF")

    monkeypatch.setattr(Kubectl, "get", look)
    status, _, said = ready("submit", "train", "--name", "mine")
    assert status == 1 and "EOF; job mine may still be running: emoji-ldm cluster logs mine --follow" in said


class FakeKubectl:
    """Replaces kubectl: each log is the output of a shell command."""

    def __init__(self, *scripts):
        self.scripts, self.started = list(scripts), []

    def list_objects(self, *_):
        return [{"metadata": {"name": "a"}, "status": {"phase": "Running"}}]

    def popen(self, *arguments, **options):
        self.started.append(arguments)
        return subprocess.Popen(["sh", "-c", self.scripts.pop(0)], text=True, **options)


def test_a_log_whose_connection_was_lost_resumes_where_it_stopped(monkeypatch):
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    hours = iter(noon + timedelta(hours=number) for number in range(9))
    monkeypatch.setattr(job_follower, "datetime", SimpleNamespace(now=lambda _: next(hours)))
    kubectl = FakeKubectl("sleep 0.2; exit 1", "true")
    log = job_follower._LogStream(kubectl, "mine")
    log.ensure_streaming()
    for _ in range(3):
        log.ensure_streaming()  # the connection works at 13, 14 and 15 o'clock
    log.process.wait()
    log.ensure_streaming()
    log.end(5)
    assert kubectl.started == [("logs", "--follow", "a"), ("logs", "--follow", "a", "--since-time",
                                                           "2026-01-01T14:59:00Z")]  # fmt: skip


def test_an_incomplete_log_is_reported_once_and_not_after_the_user_stopped_following(capsys):
    for timeout_s, times in ((5.0, 1), (0.0, 0)):
        log = job_follower._LogStream(FakeKubectl("echo boom >&2; exit 1"), "mine")
        log.ensure_streaming()
        log.process.wait()
        log.end(timeout_s)
        log.end(0.0)
        assert capsys.readouterr().err.count("the log is incomplete") == times


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


def test_logs_are_of_the_newest_job_or_stage(ready, api):
    for name in ("train-1", "crawl-2"):
        stage = {"emoji-ldm/stage": name.split("-")[0]}
        api.add({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": name, "labels": stage}, "spec": {}})
        begins("a", f"of {name}", None)(api, name)
    assert ready("logs", "train")[1] == "of train-1\n"
    assert ready("logs", "crawl-2")[1] == "of crawl-2\n"
    status, _, said = ready("logs", "nope")
    assert status == 2 and "there is no job 'nope' (there are: train-1, crawl-2)" in said


def test_the_log_of_a_job_of_ray_has_no_tail(ready):
    status, _, said = ready("logs", "raysubmit_1", "--tail", "5")
    assert status == 2 and "leave out --tail" in said


def test_logs_of_a_job_that_waits_say_why(ready, api):
    api.add({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "train-1"}, "spec": {},
             "status": {"jobDeploymentStatus": "Initializing", "message": "no node for the head"}})  # fmt: skip
    status, _, said = ready("logs")
    assert status == 1 and "job train-1 has not written anything: waiting, no node for the head" in said


def test_the_standing_cluster_gets_the_command_and_the_token(ready, api, tmp_path, monkeypatch):
    """The API server of these tests does not support `port-forward`, so a script replaces it."""
    api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "emoji-ldm-token"},
             "data": {"auth_token": base64.b64encode(b"the-token").decode()}})  # fmt: skip
    real = os.environ["PATH"].split(":")[0]
    script = tmp_path / "bin" / "kubectl"
    script.parent.mkdir()
    script.write_text(
        '#!/bin/sh\ncase "$*" in *port-forward*) echo "Forwarding from 127.0.0.1:4567 -> 8265"; exec sleep 60;; esac\n'
        f'exec {real}/kubectl "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    seen = []

    def submit(argv, address, **options):
        seen.append((argv, address, os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]))
        return 5

    monkeypatch.setattr("ray_jobs.cli.job_submission.submit", submit)
    assert ready("submit", "train", "--standing", "train.steps=3")[0] == 5
    argv = ["train", "--config", "/etc/emoji-ldm/emoji-ldm.yaml", "train.steps=3"]
    assert seen == [(argv, "http://127.0.0.1:4567", "token", "the-token")]
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_standing_cluster_without_a_token_is_reported_in_one_line(ready):
    status, _, said = ready("submit", "train", "--standing")
    assert status == 1 and "there is no Secret emoji-ldm-token" in said
