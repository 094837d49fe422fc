"""Following a job from its creation to its end: states, reasons and logs, through outages and retries."""

import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from emoji_ldm.kubernetes import job_follower
from emoji_ldm.kubernetes.kubectl import ClusterUnreachable, Kubectl
from tests.kubernetes.job_plays import becomes, begins, play

pytestmark = pytest.mark.usefixtures("unchecked")


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


CLIENT_TRACE = """Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/aiohttp/client.py", line 1, in ws_connect
    resp = await self.request(
aiohttp.client_exceptions.ServerDisconnectedError: Server disconnected

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/usr/local/bin/ray", line 8, in <module>
    sys.exit(main())
  File "/usr/lib/python3.11/site-packages/ray/dashboard/modules/job/cli.py", line 1, in logs
    asyncio.run(_tail_logs(client, job_id))
RuntimeError: Failed to connect to Ray at http://head:8265""".splitlines()


def test_a_preempted_job_is_told_in_one_line_and_followed_again(ready, api, monkeypatch):
    monkeypatch.setattr(job_follower, "DIAGNOSE_EVERY_S", 0)

    def suspended(api, name):
        job = api.one("RayJob", name)
        api.update("RayJob", name, spec={"suspend": True}, status={"jobDeploymentStatus": "Suspended", "jobStatus": ""})
        owner = [{"kind": "RayJob", "name": name, "uid": job["metadata"]["uid"]}]
        evicted = [{"type": "Evicted", "status": "True", "message": "Preempted to accommodate a workload of train"}]
        api.add({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "spec": {}, "metadata": {
            "name": "w", "ownerReferences": owner}, "status": {"conditions": evicted}})  # fmt: skip

    def forgotten(api, name):
        api.remove("Workload", "w")  # the reason is another one while the job waits

    def admitted(api, name):
        api.update("RayJob", name, spec={"suspend": False}, status={"jobDeploymentStatus": "Initializing"})

    play(api, begins("a", "step 1", *CLIENT_TRACE, None), becomes("Running", "RUNNING"), suspended, forgotten, admitted,
         begins("b", "step 2", None), becomes("Running", "RUNNING"), becomes("Complete", "SUCCEEDED"))  # fmt: skip
    status, printed, said = ready("submit", "crawl")
    assert status == 0, said
    assert printed == "step 1\nstep 2\n"
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "suspended" in line]
    assert "evicted by Kueue: Preempted to accommodate a workload of train; it goes on from its last commit" in line


def test_a_job_that_kuberay_refuses_ends_at_once(ready, api):
    message = "The RayJob spec is invalid: shutdownAfterJobFinishes cannot be set together with deletionRules"
    play(api, becomes("ValidationFailed", "", reason="ValidationFailed", message=message))
    status, _, said = ready("submit", "train")
    assert status == 1 and f"failed: ValidationFailed: {message}" in said


def test_an_outage_after_the_job_has_ended_cuts_off_no_log(ready, api, monkeypatch):
    real, outages = Kubectl.list_objects, [ClusterUnreachable("no Kubernetes cluster answers: EOF")]

    def list_objects(self, *words):
        ended = [job for job in api.of("RayJob") if job.get("status", {}).get("jobDeploymentStatus") == "Complete"]
        if ended and outages:
            raise outages.pop()
        return real(self, *words)

    monkeypatch.setattr(Kubectl, "list_objects", list_objects)
    play(api, begins("a", "first", None), begins("b", "second", None), becomes("Complete", "SUCCEEDED"))
    status, printed, said = ready("submit", "train")
    assert (status, outages) == (0, []), said
    assert printed == "first\nsecond\n"


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
