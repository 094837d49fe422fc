"""`emoji-ldm cluster logs`: of which job they are, and what is said where there are none."""

from tests.kubernetes.job_plays import begins


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
