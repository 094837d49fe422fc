"""Opens the dashboard of the standing Ray cluster through a forwarded port, with the token of the cluster."""

from __future__ import annotations

import base64
import collections
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes.kubectl import Kubectl, explain_error

CLUSTER, SECRET, KEY = "emoji-ldm", "emoji-ldm-token", "auth_token"
FORWARDED = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")


def commands(namespace: str) -> dict[str, str]:
    """Commands for later, when the forwarded port is closed; {job} is the id of the Ray job."""
    return {
        "logs": "emoji-ldm cluster logs {job} --follow",
        "stop": f"kubectl -n {namespace} port-forward svc/{CLUSTER}-head-svc 8265, then ray job stop {{job}} "
        "--address http://127.0.0.1:8265",
    }


@contextmanager
def open_dashboard(kubectl: Kubectl) -> Iterator[str]:
    """The address of the dashboard while the block runs; Ray clients of this process use the token meanwhile.

    Raises:
        ClusterError: The token or the standing cluster does not exist, or its dashboard cannot be reached.
    """
    secret = kubectl.get("secret", SECRET)
    token = base64.b64decode(((secret or {}).get("data") or {}).get(KEY, "")).decode()
    if not token:
        raise ClusterError(f"there is no Secret {SECRET} with the key {KEY} in namespace {kubectl.namespace}; "
                           "create it with: emoji-ldm cluster up --overlay NAME")  # fmt: skip
    # Ray reads the token from the environment only, so it is set for the time of the block.
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    # An empty local port lets the system choose a free one, and kubectl prints which. Loopback only: the dashboard runs
    # code, and other machines must not reach it through this one.
    # Errors go to a file: kubectl writes a line for every lost connection, and would stop at a pipe that nobody reads.
    with tempfile.TemporaryFile("w+") as errors:
        process = kubectl.popen("port-forward", f"service/{CLUSTER}-head-svc", ":8265", "--address", "127.0.0.1",
                                stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
        try:
            # The environment is restored afterwards, so that a later command of this process does not send the token
            # elsewhere.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
            yield _forwarded_address(process, errors)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({name: value} if value is not None else {})
            process.terminate()
            process.wait()


def _forwarded_address(process: subprocess.Popen[str], errors: IO[str]) -> str:
    """The local address that kubectl prints once it listens; ClusterError if it ends instead."""
    assert process.stdout is not None
    # kubectl prints the line when it listens, and closes its output without it if it cannot.
    if found := FORWARDED.search(process.stdout.readline()):
        # It prints another line for each connection, and a full pipe would stop all of them. Nobody needs the lines, so
        # a queue of length 0 swallows them.
        threading.Thread(target=collections.deque, args=(process.stdout, 0), daemon=True).start()
        return f"http://{found[1]}"
    process.terminate()
    process.wait()
    errors.seek(0)
    raise ClusterError(f"cannot reach the standing cluster {CLUSTER}: {explain_error(errors.read())}; see: "
                       "emoji-ldm cluster status")  # fmt: skip
