"""The standing cluster's dashboard, through a forwarded port and with its token."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl

CLUSTER, SECRET, KEY = "emoji-ldm", "emoji-ldm-token", "auth_token"
FORWARDED = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")
# What to type later, when the forwarded port is gone; {job} is the Ray job's id.
COMMANDS = {
    "logs": "emoji-ldm cluster logs {job} --follow",
    "stop": f"kubectl -n {NAMESPACE} port-forward svc/{CLUSTER}-head-svc 8265, then ray job stop {{job}} "
    "--address http://127.0.0.1:8265",
}


@contextmanager
def open_dashboard(kubectl: Kubectl) -> Iterator[str]:
    """The address of the dashboard while the block runs; Ray's clients in this process have the token meanwhile.

    Raises:
        ClusterError: There is no token, no standing cluster, or its dashboard cannot be reached.
    """
    secret = kubectl.get("secret", SECRET)
    token = base64.b64decode(((secret or {}).get("data") or {}).get(KEY, "")).decode()
    if not token:
        raise ClusterError(f"there is no Secret {SECRET} with the key {KEY} in namespace {NAMESPACE}; "
                           "make it with: emoji-ldm cluster up --overlay NAME")  # fmt: skip
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    process = kubectl.popen("port-forward", f"service/{CLUSTER}-head-svc", ":8265", "--address", "127.0.0.1",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        yield _address(process)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
        process.terminate()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    if found := FORWARDED.search(process.stdout.readline()):
        return f"http://{found[1]}"
    from emoji_ldm.kubernetes.kubectl import explain_error

    process.terminate()
    raise ClusterError(f"cannot reach the standing cluster {CLUSTER}: {explain_error(process.stderr.read())}; see: "
                       "emoji-ldm cluster status")  # fmt: skip
