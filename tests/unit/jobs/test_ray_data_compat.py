"""What the start of an actor prints, with a start of our own; tests/jobs/test_ray_runtime.py has Ray's."""

import os
import subprocess
import sys

import pytest

from ray_jobs.execution import ray_data_compat
from ray_jobs.execution.ray_data_compat import ActorPoolMapOperator, silence_false_alarm

ALARM = b"[core_worker.cc] has constructor arguments in the object store, see https://github.com/"


@pytest.fixture
def start(monkeypatch):
    """Make this the start of an actor; it is the real one again after the test."""

    def install(function):
        monkeypatch.setattr(ActorPoolMapOperator, "_start_actor", function)
        silence_false_alarm()
        silence_false_alarm()  # safe to call again
        return ActorPoolMapOperator._start_actor

    return install


def test_only_the_false_alarm_is_left_out(start, capfd):
    def loud(self, labels, name):
        os.write(2, b"before\n" + ALARM + ray_data_compat.FALSE_ALARM + b" for more\n")
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('of C++ and of children\\n')"], check=True)
        return labels, name

    assert start(loud)("self", {}, "one") == ({}, "one")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nof C++ and of children\nafter\n"


def test_a_start_that_fails_has_its_output_and_standard_error_is_open_again(start, capfd):
    def fails(self):
        os.write(2, b"why\n")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        start(fails)("self")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "why\nafter\n"
