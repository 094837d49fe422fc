"""`emoji-ldm cluster status`: one table of everything that runs, and the next command to type."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes import secrets
from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl
from emoji_ldm.kubernetes.status_rows import DONE, FAILED, READY, WAITING, StatusRow, build_rows
from emoji_ldm.progress import format_duration, print_status

KINDS = ("pods", "events", "deployments.apps", "statefulsets.apps", "jobs.batch", "persistentvolumeclaims",
         "rayclusters.ray.io", "rayjobs.ray.io", "rayservices.ray.io", "raycronjobs.ray.io",
         "workloads.kueue.x-k8s.io", "clusterqueues.kueue.x-k8s.io")  # fmt: skip
STAGES = ("crawl", "caption", "autoencoder", "latents", "train", "generate", "report")


def run(kubectl: Kubectl, *, as_json: bool) -> int:
    """Print the table or JSON, and the next command; returns 1 if anything but a job has failed, otherwise 0."""
    rows, refused = read_status(kubectl)
    command = next_command(rows, kubectl.namespace)
    if as_json:
        value = {"namespace": kubectl.namespace, "rows": [asdict(row) for row in rows], "next": command}
        sys.stdout.write(json.dumps(value | {"refused": refused}, indent=2, ensure_ascii=False) + "\n")
    else:
        print_status(f"namespace {kubectl.namespace} on {kubectl.describe_context()}")
        sys.stdout.write(format_table(rows))
        if refused:
            print_status(f"you may not list {', '.join(refused)}, so reasons found there are missing")
        print_status(f"next: {command}")
    return 1 if any(row.state == FAILED for row in rows if row.kind != "job") else 0


def read_status(kubectl: Kubectl) -> tuple[list[StatusRow], list[str]]:
    """The rows of everything that runs, and the kinds that this user may not list.

    Raises:
        ClusterError: The namespace does not exist, or nothing in it may be read.
    """
    served = set(kubectl.api_resources.values())
    # One call for all kinds: rows and reasons are then those of one moment, and a hundred jobs cost one request per
    # kind.
    objects, refused = kubectl.list_readable(",".join(kind for kind in KINDS if kind in served))
    namespace = NamespaceState(tuple(objects))
    # An empty namespace and a missing one look alike in the output of kubectl.
    if not namespace.objects and kubectl.get("namespace", kubectl.namespace) is None:
        where = f"{kubectl.namespace} on {kubectl.describe_context()}"
        raise ClusterError(f"there is no namespace {where}; create it with: emoji-ldm cluster up --overlay NAME")
    return list(build_rows(namespace)), refused


def format_table(rows: list[StatusRow]) -> str:
    """The rows as a table of text, one line each."""
    if not rows:
        return "nothing is running\n"
    cells = [("KIND", "NAME", "STATE", "AGE", "REASON")]
    cells += [
        (row.kind, row.name, row.state, format_duration(row.age_s) if row.age_s else "", row.reason) for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = (
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[4]]) for line in cells
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def next_command(rows: list[StatusRow], namespace: str = NAMESPACE) -> str:
    """The command to type next: what a newcomer to the system would want after this state."""
    jobs = [row for row in rows if row.kind == "job"]
    # The first condition that holds decides, from what blocks everything to what is merely next.
    if any(row.kind in ("server", "setup", "cluster") and row.state in (WAITING, FAILED) for row in rows):
        return "emoji-ldm cluster status"
    if running := next((row.name for row in jobs if row.state not in (DONE, FAILED)), ""):
        return f"emoji-ldm cluster logs {running} --follow"
    if jobs and jobs[-1].state == FAILED:
        return f"emoji-ldm cluster logs {jobs[-1].name}"
    if any(row.kind == "service" and row.state == READY for row in rows):
        return (
            f"kubectl -n {namespace} port-forward svc/serve-serve-svc 8000, then "
            f"EMOJI_LDM_API_KEY=\"$({secrets.first_key_command(namespace)})\" emoji-ldm sets create 'a happy blob'"
        )
    # The furthest stage counts, not the last one: an early stage may be repeated at any time.
    done = [row.stage for row in jobs if row.state == DONE]
    last = max((STAGES.index(stage) for stage in done if stage in STAGES), default=-1)
    last = len(STAGES) - 1 if "pipeline" in done else last
    return f"emoji-ldm submit {STAGES[min(last + 1, len(STAGES) - 1)]} --overlay NAME"
