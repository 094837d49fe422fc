"""`emoji-ldm submit` on Kubernetes: runs a stage as a RayJob with its own cluster, or on the standing cluster."""

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
from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.overlay import Overlay
from emoji_ldm.kubernetes.up import apply
from emoji_ldm.progress import print_status

# KubeRay appends suffixes to the name of a RayJob, and names of Services have at most 63 characters.
MAX_NAME = 47
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
CONFIG = "emoji-ldm.yaml"


def run(kubectl: Kubectl, overlay: Overlay, stage: str, words: Sequence[str], *, name: str, detach: bool) -> int:
    """Create the stage's RayJob and follow it; returns the exit status of its command, 130 if following was stopped.

    Args:
        kubectl: Access to the cluster.
        overlay: The overlay that contains the job's template.
        stage: Name of one of its templates.
        words: Overrides, `section.field=value`.
        name: Name of the new job; stage and time if empty.
        detach: Return as soon as the job is created.

    Raises:
        ConfigError: The stage does not exist, or an override or the name is invalid.
        ClusterError: The cluster refuses the job, or the overlay is not installed.
    """
    job = template(overlay, stage)
    validate_config(overlay, job, words)
    job["metadata"]["name"] = _job_name(stage, name)
    job["spec"].pop("suspend", None)  # of the template
    job["spec"]["entrypoint"] = shlex.join([*shlex.split(job["spec"]["entrypoint"]), *words])
    # The ConfigMaps may be newer than those that `up` applied, and the job must see the same ones that were validated.
    _create(kubectl, job, [obj for obj in overlay.of_kinds("ConfigMap") if _is_mounted(obj, job)])
    job_name = job["metadata"]["name"]
    if detach:
        print_status(f"submitted job {job_name}\nnext: emoji-ldm cluster logs {job_name} --follow{kubectl.option}")
        return 0
    print_status(f"submitted job {job_name}; Ctrl-C stops following it, not the job")
    return job_follower.follow(kubectl, job_name)


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
        return submit(list(words), address, working_dir=None, commands=dashboard_proxy.commands(kubectl.namespace))


def template(overlay: Overlay, stage: str) -> KubeObject:
    """The RayJob template of a stage.

    Raises:
        ConfigError: The overlay has no template of that name.
    """
    if stage not in overlay.jobs:
        known = ", ".join(overlay.jobs) or "none"
        # A misspelt stage is the most likely mistake, so the message ends with what was probably meant.
        near = difflib.get_close_matches(stage, overlay.jobs, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"overlay {overlay.name} has no job {stage!r}; it has: {known}{hint}")
    return overlay.jobs[stage]


def validate_config(overlay: Overlay, job: KubeObject, words: Sequence[str]) -> None:
    """Validate the job's configuration with these overrides before a cluster is started for it.

    Raises:
        ConfigError: A key or value is invalid, or the job mounts no configuration.
    """
    from emoji_ldm.config import load

    config_maps = [
        obj for obj in overlay.of_kinds("ConfigMap") if CONFIG in (obj.get("data") or {}) and _is_mounted(obj, job)
    ]
    if not config_maps:
        raise ConfigError(f"job {job['metadata']['name']} of overlay {overlay.name} mounts no ConfigMap with {CONFIG}")
    text = str(config_maps[0]["data"][CONFIG])
    with tempfile.TemporaryDirectory() as folder:
        # The loader takes a path, as `--config` does, so that the job and this check read the configuration in the same
        # way.
        path = Path(folder, CONFIG)
        path.write_text(text, encoding="utf-8")
        try:
            load(str(path), list(words))
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), f"{CONFIG} of overlay {overlay.name}")) from None


def _job_name(stage: str, name: str) -> str:
    name = name or f"{stage}-{datetime.now():%m%d-%H%M%S}"
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        rule = (
            f"at most {MAX_NAME} lower-case letters, digits and dashes, starting with a letter, not ending with a dash"
        )
        raise ConfigError(f"--name {name!r} is not a valid name of a RayJob: {rule}")
    return name


def _is_mounted(obj: KubeObject, job: KubeObject) -> bool:
    # The name of a generated ConfigMap contains its hash, so it occurs in the job only as a reference.
    return f'"{obj["metadata"]["name"]}"' in json.dumps(job)


def _create(kubectl: Kubectl, job: KubeObject, configs: list[KubeObject]) -> None:
    remedy = "install it first: emoji-ldm cluster up --overlay NAME"
    try:
        # Whoever may run stages (Role run-stages) need not be allowed to change the installation.
        there = {obj["metadata"]["name"]: obj.get("data") for obj in kubectl.list_objects("configmaps")}
        if new := [obj for obj in configs if there.get(obj["metadata"]["name"]) != obj.get("data")]:
            apply(kubectl, new)
        # `create` rather than `apply`: a second job of the same name is a mistake, and must not change the first.
        kubectl.run("create", "--filename", "-", input_objects=[job])
    except ClusterError as error:
        if f'namespaces "{kubectl.namespace}" not found' in str(error) or "no matches for kind" in str(error):
            raise ClusterError(f"the overlay is not installed ({error}); {remedy}") from None
        raise
