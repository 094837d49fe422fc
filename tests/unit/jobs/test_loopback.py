"""Where a local Ray listens; tests/jobs/serve/test_serve.py asks the real one."""

import os

import pytest

from emoji_ldm.config import RayConfig
from ray_jobs.cli.loopback import VARIABLE, local_ray_on_loopback


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (VARIABLE, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_local_ray_takes_the_loopback_address_and_later_commands_decide_anew():
    with pytest.raises(KeyboardInterrupt), local_ray_on_loopback(RayConfig()):
        assert os.environ[VARIABLE] == "0"
        raise KeyboardInterrupt
    assert VARIABLE not in os.environ


@pytest.mark.parametrize(("address", "variables"), [("auto", {}), (None, {"RAY_ADDRESS": "10.0.0.1:6379"})])
def test_a_cluster_that_is_joined_keeps_its_address(address, variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with local_ray_on_loopback(RayConfig(address=address)):
        assert VARIABLE not in os.environ


def test_what_the_user_has_set_counts(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    with local_ray_on_loopback(RayConfig()):
        assert os.environ[VARIABLE] == "1"
    assert os.environ[VARIABLE] == "1"
