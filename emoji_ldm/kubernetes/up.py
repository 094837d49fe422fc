"""`emoji-ldm cluster up`: installs an overlay and waits until what it installed works.

The order matters: the manifests are checked offline, then the operators must be ready, because their webhooks judge
every custom object; the namespace and custom kinds go first, then Secrets with random values where they are missing,
then the rest. Every step can be repeated, so that an interrupted run is continued by running the command again, and
what operators and people have changed since survives (`field_ownership`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import yaml

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import field_ownership, operator_check, secrets, service_size, status
from emoji_ldm.kubernetes.field_ownership import MANAGER, identity
from emoji_ldm.kubernetes.kubectl import FieldConflict, Kubectl
from emoji_ldm.kubernetes.lint.rendering import KubeObject, name_of
from emoji_ldm.kubernetes.overlay import Overlay
from emoji_ldm.kubernetes.status_rows import DONE, FAILED, READY, WAITING, StatusRow
from emoji_ldm.progress import format_duration, print_status

CONFIG = "emoji-ldm.yaml"
POLL_S = 3.0
FIRST_KINDS = ("Namespace", "CustomResourceDefinition")
# Errors of an operator that has just been installed, which disappear by themselves.
OPERATOR_STARTING = re.compile(r"failed calling webhook|no matches for kind|no endpoints available")
# The reason of the service's state until `train` has written a checkpoint.
NO_CHECKPOINT_YET = re.compile(r"no \w+ checkpoint|contains its checkpoint")


def run(kubectl: Kubectl, overlay: Overlay, timeout_s: float, *, force: bool = False) -> int:
    """Install the overlay and wait until what it installed works; returns 0.

    A service that only waits for its first checkpoint counts as installed: `train` may write one days later.

    Args:
        kubectl: Access to the cluster.
        overlay: The overlay to install.
        timeout_s: Give up waiting after so many seconds.
        force: Overwrite fields that were changed by other means.

    Raises:
        ConfigError: The check has findings.
        ClusterError: The cluster lacks an operator, refuses an object, or is not ready in time.
    """
    require_no_findings(overlay)
    print_status(f"installing {overlay.name} on {kubectl.describe_context()}")
    operators = operator_check.check_operators(overlay, kubectl.api_resources)
    deadline = time.monotonic() + timeout_s
    _wait_until_empty(lambda: operator_check.operators_not_ready(kubectl, overlay, operators), deadline, "operators")
    _apply_when_ready(kubectl, overlay.of_kinds(*FIRST_KINDS), deadline, force=force)
    if created := secrets.ensure(kubectl, overlay):
        print_status(f"created Secrets with random values: {', '.join(created)}")
    rest = [obj for obj in overlay.installed if obj["kind"] not in FIRST_KINDS]
    _apply_when_ready(kubectl, rest, deadline, force=force)
    if resized := service_size.resize_clusters(kubectl, overlay):
        print_status(f"changed the number of workers of {', '.join(resized)}")
    print_status(f"applied {len(rest)} objects in namespace {kubectl.namespace}; waiting until they are ready")
    rows = _wait(kubectl, deadline, needs_training=_needs_training(overlay))
    for row in rows:
        if row.kind == "service" and row.state == WAITING:
            print_status(f"the service {row.name} is installed and does not answer yet: {row.reason}")
    command = status.next_command(rows, kubectl.namespace)
    print_status(f"next: {command.replace('--overlay NAME', overlay.option)}")
    return 0


def require_no_findings(overlay: Overlay) -> None:
    """Check the manifests offline and print every finding.

    Raises:
        ConfigError: There are findings.
    """
    from emoji_ldm.kubernetes.lint import check

    findings = check(overlay.folder, overlay.name, overlay.site)
    for finding in findings:
        print_status(str(finding))
    if findings:
        command = f"emoji-ldm cluster check {overlay.option}"
        raise ConfigError(
            f"nothing was applied: {len(findings)} findings in overlay {overlay.name}; fix them, then see: {command}"
        )


def apply(kubectl: Kubectl, objects: list[KubeObject], *, force: bool = False) -> None:
    """Apply objects on the server; fields that others own keep their values (`field_ownership`).

    Raises:
        FieldConflict: Somebody else changed a field of the manifests that is nobody's but theirs.
        ClusterError: The cluster refuses an object.
    """
    # The server merges the fields, so that fields set by controllers survive, and large objects need no annotation that
    # repeats them.
    shared = _installed(kubectl, [obj for obj in objects if field_ownership.is_shared(obj)])
    wanted = [field_ownership.yield_to_owners(obj, shared[identity(obj)], force=force) if identity(obj) in shared
              else obj for obj in objects]  # fmt: skip
    ray = [obj for obj in wanted if obj["kind"] in field_ownership.CLUSTER_SPECS]
    _apply_all(kubectl, [obj for obj in wanted if obj not in ray], force=force)
    if changed := [obj for obj in ray if identity(obj) not in shared or _changes(kubectl, obj, shared[identity(obj)])]:
        _server_side_apply(kubectl, changed, "--force-conflicts")


def _installed(kubectl: Kubectl, objects: list[KubeObject]) -> dict[field_ownership.Identity, KubeObject]:
    """These objects as they are in the cluster, as far as they are; with the owners of their fields."""
    if not objects:
        return {}
    options = ("--ignore-not-found", "--show-managed-fields", "--output", "json")
    text = kubectl.run("get", "--filename", "-", *options, input_objects=objects)
    found = json.loads(text) if text.strip() else {"items": []}
    return {identity(obj): obj for obj in (found["items"] if found.get("kind", "List") == "List" else [found])}


def _changes(kubectl: Kubectl, obj: KubeObject, installed: KubeObject) -> bool:
    """Whether applying the object would change what it means; the server tells, as it knows defaults and webhooks."""
    text = _server_side_apply(kubectl, [obj], "--force-conflicts", "--dry-run=server", "--output", "json")
    return not field_ownership.is_same(json.loads(text), installed)


def _apply_all(kubectl: Kubectl, objects: list[KubeObject], *, force: bool) -> None:
    options = ("--force-conflicts",) if force else ()
    try:
        if objects:
            _server_side_apply(kubectl, objects, *options)
    except FieldConflict:
        # kubectl names the fields but not their object, so the objects are applied one by one to find it. The others
        # are not affected: applying them again changes nothing.
        for obj in objects:
            try:
                _server_side_apply(kubectl, [obj], *options)
            except FieldConflict as conflict:
                remedy = "put these values into the manifests, or overwrite them: emoji-ldm cluster up --force"
                raise FieldConflict(f"{name_of(obj)}: {conflict}; {remedy}") from None


def _server_side_apply(kubectl: Kubectl, objects: list[KubeObject], *options: str) -> str:
    command = ("apply", "--server-side", "--field-manager", MANAGER, *options, "--filename", "-")
    return kubectl.run(*command, input_objects=objects)


def _apply_when_ready(kubectl: Kubectl, objects: list[KubeObject], deadline: float, *, force: bool) -> None:
    while objects:
        try:
            return apply(kubectl, objects, force=force)
        except ClusterError as error:
            # Other errors are mistakes, which waiting does not cure.
            if not OPERATOR_STARTING.search(str(error)) or time.monotonic() > deadline:
                raise
            print_status(f"an operator is not ready yet: {error}")
            time.sleep(POLL_S)


def _needs_training(overlay: Overlay) -> bool:
    """Whether the service waits for a checkpoint of `train`, instead of drawing with the packaged model until then."""
    for obj in overlay.of_kinds("ConfigMap"):
        settings = (yaml.safe_load((obj.get("data") or {}).get(CONFIG) or "") or {}).get("serve") or {}
        if settings.get("reload_s") and not settings.get("checkpoint"):
            return False
    return True


def _wait(kubectl: Kubectl, deadline: float, *, needs_training: bool) -> list[StatusRow]:
    """Print every change of state until store, cluster and service are ready; returns the final rows."""
    printed: dict[tuple[str, str], tuple[str, str]] = {}

    def not_ready() -> str:
        rows[:] = status.read_status(kubectl)[0]
        for row in rows:
            if row.kind not in ("job", "queue") and printed.get((row.kind, row.name)) != (row.state, row.reason):
                printed[row.kind, row.name] = row.state, row.reason
                print_status(f"  {row.kind} {row.name}: {row.state}{f', {row.reason}' if row.reason else ''}")
        # A failed setup job or cluster does not recover by itself, so there is nothing to wait for. Servers and
        # services may.
        failed = next((row for row in rows if row.kind in ("setup", "cluster") and row.state == FAILED), None)
        if failed:
            raise ClusterError(f"{failed.kind} {failed.name} failed: {failed.reason or 'no reason given'}")
        return "; ".join(
            f"{row.kind} {row.name}: {row.reason or row.state}"
            for row in rows
            if _is_awaited(row, needs_training=needs_training)
        )

    rows: list[StatusRow] = []
    _wait_until_empty(not_ready, deadline, "", quiet=True)
    return rows


def _is_awaited(row: StatusRow, *, needs_training: bool) -> bool:
    """Whether `up` waits for it: not for a service that needs a checkpoint, since only a later `train` writes one."""
    if row.kind == "service" and needs_training and NO_CHECKPOINT_YET.search(row.reason):
        return False
    return row.kind in ("server", "setup", "cluster", "service") and row.state not in (READY, DONE)


def _wait_until_empty(find_reason: Callable[[], str], deadline: float, subject: str, *, quiet: bool = False) -> None:
    """Poll until there is no reason to wait any more, and print each new reason unless `quiet`.

    A retry library fits an operation that fails until it succeeds. Here the state in between is the output.
    """
    printed, began = "", time.monotonic()
    while reason := find_reason():
        if time.monotonic() > deadline:
            elapsed = format_duration(time.monotonic() - began)
            raise ClusterError(
                f"not ready after {elapsed}: {reason}; what was applied stays and may still become ready: "
                "emoji-ldm cluster status"
            )
        if reason != printed and not quiet:
            print_status(f"  {subject}: {WAITING}, {reason}")
        printed = reason
        time.sleep(POLL_S)
