"""A job whose head is killed at any moment: what KubeRay's state machine makes of it, with the values of our manifests.

The real part of it, that a command which is begun again goes on from the store, runs in tests/train and tests/s3.
"""

import random
from pathlib import Path

import pytest

from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.lint.rendering import render
from emoji_ldm.kubernetes.status_rows import build_rows
from tests.kubernetes.rayjob import HEAD_S, RayJob

K8S = Path(__file__).parents[2] / "k8s"
STEPS, EVERY = 1200, 100


@pytest.fixture(scope="module")
def spec():
    jobs = {obj["metadata"]["name"]: obj for obj in render(K8S, "kind") if obj["kind"] == "RayJob"}
    return jobs["train"]["spec"]


def run(spec, kills, horizon=200_000):
    job = RayJob(spec, STEPS, EVERY)
    while not job.over:
        assert job.now < horizon, f"it hangs: {job.status}"
        job.second(killed=job.now + 1 in kills)
    return job


def shown(job):
    """As `emoji-ldm cluster status` shows it."""
    return next(
        build_rows(
            NamespaceState(({"kind": "RayJob", "metadata": {"name": "train"}, "spec": job.spec, "status": job.status},))
        )
    )


def test_a_head_killed_at_a_random_moment_twenty_times_costs_less_than_a_checkpoint_each(spec):
    for seed in range(20):
        job = run(spec, {random.Random(seed).randrange(1, STEPS + HEAD_S + 60)})
        assert (shown(job).state, job.store.step) == ("done", STEPS), f"seed {seed}: {job.status}"
        assert job.clusters == set()
        assert job.store.redone < EVERY


@pytest.mark.parametrize("mean_s", [60, 200, 600])
def test_heads_that_are_killed_again_and_again_end_in_success_or_a_reason_and_leave_no_cluster(spec, mean_s):
    ends = []
    for seed in range(20):
        chance, kills, now = random.Random(seed), set(), 0.0
        while now < 100_000:
            now += chance.expovariate(1 / mean_s)
            kills.add(int(now))
        job = run(spec, kills)
        row = shown(job)
        assert row.state == "done" or (row.state == "failed" and row.reason), f"seed {seed}: {job.status}"
        assert job.clusters == set() and job.made <= spec["backoffLimit"] + 1
        assert (job.store.step == STEPS) == (row.state == "done")
        ends.append(row.state)
    assert "done" in ends if mean_s == 600 else "failed" in ends


def test_a_job_that_never_runs_ends_by_its_deadline(spec):
    job = run({**spec, "backoffLimit": 0}, set(range(1, 100_000, HEAD_S // 2)))
    assert shown(job).state == "failed" and "DeadlineExceeded" in shown(job).reason
