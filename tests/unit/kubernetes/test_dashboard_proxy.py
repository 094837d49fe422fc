"""The dashboard of the standing cluster, through a forwarded port and with its token."""

import base64
import os
import time

import pytest

pytestmark = pytest.mark.usefixtures("unchecked")


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


def test_the_output_of_the_forwarded_port_never_fills_its_pipe(tmp_path):
    """kubectl writes a line per connection; 64 KiB that nobody reads would stop the port, and the command with it."""
    import subprocess

    from emoji_ldm.kubernetes import dashboard_proxy

    done = tmp_path / "done"
    line = "echo 'Handling connection for 8265'; echo 'lost connection' >&2"
    noise = f"i=0; while [ $i -lt 5000 ]; do {line}; i=$((i+1)); done"

    class Kubectl:
        def get(self, *_):
            return {"data": {"auth_token": base64.b64encode(b"t").decode()}}

        def popen(self, *_, **options):
            script = f"echo 'Forwarding from 127.0.0.1:1 -> 8265'; {noise}; touch {done}; sleep 60"
            return subprocess.Popen(["sh", "-c", script], text=True, **options)

    with dashboard_proxy.open_dashboard(Kubectl()):
        deadline = time.monotonic() + 20
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert done.exists()
