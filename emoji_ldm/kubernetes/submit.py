"""`emoji-ldm submit` on Kubernetes: a stage as a RayJob of its own, or on the standing cluster."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import dashboard_proxy, job_follower
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl, KubeObject
from emoji_ldm.kubernetes.overlay import Overlay
from emoji_ldm.kubernetes.up import applied
from emoji_ldm.progress import print_status

MAX_NAME = 47  # KubeRay makes longer names out of a RayJob's
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
CONFIG = "emoji-ldm.yaml"


def run(kubectl: Kubectl, overlay: Overlay, stage: str, words: Sequence[str], *, name: str, detach: bool) -> int:
    """Create the stage's RayJob and follow it; returns the exit status of its command, 130 if following was stopped.

    Args:
        kubectl: Of the cluster.
        overlay: Where the job is described.
        stage: Name of one of its jobs.
        words: Overrides, `section.field=value`.
        name: Of the job; stage and time if empty.
        detach: Do not follow it.

    Raises:
        ConfigError: There is no such stage, or an override or the name is refused.
        ClusterError: The cluster refuses the job, or is not set up.
    """
    job = template(overlay, stage)
    validate_config(overlay, job, words)
    job["metadata"]["name"] = _named(stage, name)
    job["spec"]["entrypoint"] = shlex.join([*shlex.split(job["spec"]["entrypoint"]), *words])
    _create(kubectl, job, [obj for obj in overlay.of_kinds("ConfigMap") if _mounted(obj, job)])
    own = job["metadata"]["name"]
    if detach:
        print_status(f"job {own} is submitted\nnext: emoji-ldm cluster logs {own} --follow")
        return 0
    print_status(f"job {own} is submitted; Ctrl-C stops following, not the job")
    return job_follower.follow(kubectl, own)


def run_on_standing(
    kubectl: Kubectl, overlay: Overlay, stage: str, words: Sequence[str], submit: Callable[..., int]
) -> int:
    """Submit the stage's command to the standing cluster through its dashboard; returns and raises as `run`."""
    job = template(overlay, stage)
    command = shlex.split(job["spec"]["entrypoint"])
    if not overlay.of_kinds("RayCluster"):
        raise ConfigError(f"overlay {overlay.name} has no standing cluster; leave out --standing")
    validate_config(overlay, job, words)
    return submit_to_dashboard(kubectl, [*command[1:], *words], submit)


def submit_to_dashboard(kubectl: Kubectl, words: Sequence[str], submit: Callable[..., int]) -> int:
    """Submit a command line to the standing cluster through its dashboard; returns and raises as `run`."""
    with dashboard_proxy.open_dashboard(kubectl) as address:
        return submit(list(words), address, working_dir=None, commands=dashboard_proxy.COMMANDS)


def template(overlay: Overlay, stage: str) -> KubeObject:
    """The RayJob of a stage.

    Raises:
        ConfigError: The overlay has none of that name.
    """
    if stage not in overlay.jobs:
        known = ", ".join(overlay.jobs) or "none"
        near = difflib.get_close_matches(stage, overlay.jobs, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"overlay {overlay.name} has no job {stage!r}; it has: {known}{hint}")
    return overlay.jobs[stage]


def validate_config(overlay: Overlay, job: KubeObject, words: Sequence[str]) -> None:
    """See that the job's config with these overrides is one, before a cluster is started for it.

    Raises:
        ConfigError: A key or value is refused, or the job has no config.
    """
    from emoji_ldm.config import load

    held = [obj for obj in overlay.of_kinds("ConfigMap") if CONFIG in (obj.get("data") or {}) and _mounted(obj, job)]
    if not held:
        raise ConfigError(f"job {job['metadata']['name']} of overlay {overlay.name} mounts no ConfigMap with {CONFIG}")
    text = str(held[0]["data"][CONFIG])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, CONFIG)
        path.write_text(text, encoding="utf-8")
        try:
            load(str(path), list(words))
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), f"{CONFIG} of overlay {overlay.name}")) from None


def _named(stage: str, name: str) -> str:
    name = name or f"{stage}-{datetime.now():%m%d-%H%M%S}"
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        rule = f"at most {MAX_NAME} small letters, digits and dashes, a letter first and no dash last"
        raise ConfigError(f"--name {name!r} is no name of a RayJob: {rule}")
    return name


def _mounted(obj: KubeObject, job: KubeObject) -> bool:
    """Whether it is a ConfigMap of the job, which may be newer than what `up` applied."""
    return f'"{obj["metadata"]["name"]}"' in json.dumps(job)


def _create(kubectl: Kubectl, job: KubeObject, configs: list[KubeObject]) -> None:
    remedy = "install the overlay first: emoji-ldm cluster up --overlay NAME"
    try:
        if configs:
            applied(kubectl, configs)
        kubectl.run("create", "--filename", "-", input_objects=[job])
    except ClusterError as error:
        if f'namespaces "{NAMESPACE}" not found' in str(error) or "no matches for kind" in str(error):
            raise ClusterError(f"the cluster is not set up ({error}); {remedy}") from None
        raise
