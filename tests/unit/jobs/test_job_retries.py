"""A command that fails for good stops the Ray job that KubeRay would try again, and no other."""

from types import SimpleNamespace

import pytest
from ray import job_submission

from emoji_ldm.errors import ConfigError, DatasetError, JobError, MissingInputError, StoreError
from ray_jobs.cli import job_retries
from ray_jobs.cli.command import run_command
from ray_jobs.cli.job_retries import RETRIED


def job(name, status="RUNNING", metadata=None):
    return SimpleNamespace(submission_id=name, status=status, metadata=metadata)


@pytest.fixture
def stopped(monkeypatch):
    """The jobs that were stopped, as a function of those that the cluster has."""
    found, stopped = [], []

    class Client:
        def list_jobs(self):
            return found

        def stop_job(self, name):
            stopped.append(name)

    monkeypatch.setattr(job_submission, "JobSubmissionClient", Client)
    monkeypatch.setattr(job_retries, "STOP_TIMEOUT_S", 0)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")

    def run(error, *jobs):
        found[:], stopped[:] = jobs, []

        def fail():
            raise error

        return run_command(fail, debug=False), list(stopped)

    return run


@pytest.mark.parametrize("error, code", [(ConfigError("x"), 2), (MissingInputError("x"), 1)])
def test_what_does_not_pass_stops_the_job_that_would_be_retried(stopped, error, code):
    assert stopped(error, job("mine", metadata={RETRIED: "true"}), job("old", "FAILED")) == (code, ["mine"])


@pytest.mark.parametrize("error", [StoreError("x"), JobError("x"), DatasetError("x")])
def test_what_may_pass_is_left_to_the_retries(stopped, error):
    assert stopped(error, job("mine", metadata={RETRIED: "true"})) == (1, [])


def test_jobs_without_retries_and_jobs_of_others_are_not_stopped(stopped):
    assert stopped(ConfigError("x"), job("mine")) == (2, [])
    assert stopped(ConfigError("x"), job("mine", metadata={RETRIED: "true"}), job("other")) == (2, [])


def test_outside_of_a_job_nothing_is_asked(stopped, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS")
    assert stopped(ConfigError("x"), job("mine", metadata={RETRIED: "true"})) == (2, [])
