"""Rules of this project's own configuration and command lines inside manifests.

A wrong config key or command ends a job only after its cluster has started, on GPUs that cost money. Therefore the
config in a ConfigMap and the overrides on a command line are validated here by the same models that the commands use.
"""

from __future__ import annotations

import re
import shlex

import yaml

from emoji_ldm.config.loading import build, load, preset_names
from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.k8s_enums import GPU_PART
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, JOB, OBJECT, RuleTarget, Violations, rule

CONFIG = "emoji-ldm.yaml"
# The list is repeated here, because this package does not import the command line of ray_jobs. A test compares the two.
# The autoencoder is a word of `train`.
COMMANDS_TEXT = """
crawl caption latents train generate report serve pipeline demo doctor dataset sets
"""
COMMANDS = frozenset(COMMANDS_TEXT.split())


@rule(OBJECT, "ConfigMap")
def configs_are_valid(target: RuleTarget) -> Violations:
    """emoji_ldm.config: the models by which the commands validate their configuration."""
    text = (target.object.get("data") or {}).get(CONFIG)
    if text is None:
        return
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield ("data", CONFIG), f"is not YAML: {' '.join(str(error).split())}"
        return
    try:
        build(values or {}, where=CONFIG)
    except ConfigError as error:
        # One error lists all wrong keys; each becomes a finding on the line of its key.
        for problem in re.split(rf"; (?={CONFIG}: )", str(error)):
            key = re.search(r": (?:unknown key ')?([a-z_]+(?:\.[a-z_0-9]+)*)", problem)
            yield ("data", CONFIG, *(key[1].split(".") if key else ())), problem


@rule(JOB)
def entrypoints_are_commands(target: RuleTarget) -> Violations:
    """ray_jobs.cli: an unknown command ends the job at once."""
    # Only the program and its subcommand are looked at; the next rules check what follows them.
    text = target.value.get("entrypoint") or ""
    try:
        words = shlex.split(text)
    except ValueError as error:
        yield ("entrypoint",), f"{text!r}: {error}"
        return
    if len(words) < 2 or words[0] != "emoji-ldm" or words[1] not in COMMANDS:
        yield ("entrypoint",), f"{text!r} is not a command of emoji-ldm"


@rule(JOB)
def overrides_are_fields_of_the_config(target: RuleTarget) -> Violations:
    """emoji_ldm.config: an unknown key or an invalid value ends the job at once."""
    # Each override is loaded alone, on top of the defaults, so that every wrong one gets a finding of its own.
    for word in _words(target):
        if re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]+)*=.*", word, re.DOTALL):
            try:
                load(None, [word])
            except ConfigError as error:
                yield ("entrypoint",), str(error)


@rule(JOB)
def configs_lie_where_commands_look(target: RuleTarget) -> Violations:
    """ray_jobs.cli: --config names a file that a ConfigMap is mounted at, or a preset of the package."""
    # An option has two spellings, `--config FILE` and `--config=FILE`. Each word is therefore paired with the next one.
    words = _words(target)
    for option, value in zip(words, [*words[1:], ""], strict=False):
        name, equals, after = option.partition("=")
        path = after if equals else value
        if name in ("--config", "-c") and target.cluster is not None and path not in (*_files(target), *preset_names()):
            yield ("entrypoint",), f"no ConfigMap is mounted at {path} on the head"


@rule(JOB)
def training_uses_the_gpus_that_it_asks_for(target: RuleTarget) -> Violations:
    """emoji_ldm.config: a worker of `train` uses one GPU, and there are `num_workers` of them."""
    # A gang holds all its GPUs from its start to its end, whether a worker runs there or not.
    words = _words(target)
    section = "autoencoder" if words[1:3] == ["train", "autoencoder"] else "train"
    if words[1:2] != ["train"] or target.cluster is None:
        return
    groups = target.cluster.get("workerGroupSpecs") or []
    gpus = sum(int(group.get("replicas") or 0) * int(group.get("numOfHosts") or 1) * _gpus(group) for group in groups)
    workers = _num_workers(target, section)
    if workers is not None and gpus > workers:
        text = f"its Pods hold {gpus} GPUs, and {section}.num_workers={workers} uses one each"
        yield (("rayClusterSpec", "workerGroupSpecs") if "rayClusterSpec" in target.value else ()), text


@rule(OBJECT, "RayService")
def the_serve_config_is_ours(target: RuleTarget) -> Violations:
    """Ray Serve 2.60, serve.schema.ServeDeploySchema."""
    # serveConfigV2 is a string for Kubernetes, so no schema sees its contents. Ray Serve would refuse it only after the
    # cluster has started.
    text = target.spec.get("serveConfigV2") or ""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield ("spec", "serveConfigV2"), f"is not YAML: {' '.join(str(error).split())}"
        return
    applications = values.get("applications") if isinstance(values, dict) else None
    if not isinstance(applications, list) or not applications:
        yield ("spec", "serveConfigV2"), "names no application: it must hold the list `applications`"
        return
    for one in applications:
        if not isinstance(one, dict) or not isinstance(one.get("args") or {}, dict):
            yield (
                ("spec", "serveConfigV2"),
                f"{one!r} is not an application: it must be a mapping with import_path and args",
            )
            continue
        path = (one.get("args") or {}).get("config")
        if not re.fullmatch(r"[\w.]+:\w+", str(one.get("import_path"))):
            yield ("spec", "serveConfigV2"), f"{one.get('import_path')!r} is not an import path such as module:name"
        if path and path not in _served(target):
            yield ("spec", "serveConfigV2"), f"no ConfigMap is mounted at {path} on the head"


@rule(CONTAINER)
def commands_are_not_empty(target: RuleTarget) -> Violations:
    """Kubernetes: an empty word in a command or its arguments is an empty file name or option."""
    for key in ("command", "args"):
        if key in target.value and not all(isinstance(word, str) and word for word in target.value[key] or [""]):
            yield (key,), f"{key} holds an empty string"


def _words(target: RuleTarget) -> list[str]:
    """The words of the entrypoint; none if its quotes are not closed, which another rule reports."""
    try:
        return shlex.split(target.value.get("entrypoint") or "")
    except ValueError:
        return []


def _gpus(group: KubeObject) -> int:
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or []
    limits = [(one.get("resources") or {}).get("limits") or {} for one in containers]
    # Ray counts a part of a GPU (MIG) as one, too.
    return sum(int(amount) for one in limits for name, amount in one.items()
               if name == "nvidia.com/gpu" or GPU_PART.fullmatch(name))  # fmt: skip


def _num_workers(target: RuleTarget, section: str) -> int | None:
    """The field of the configuration that this job reads; None if it is invalid, which another rule reports."""
    texts = [(obj.get("data") or {}).get(CONFIG) for obj in target.context.of_kinds("ConfigMap")]
    try:
        values = yaml.safe_load(next((text for text in texts if text), "")) or {}
        overrides = [word for word in _words(target) if word.startswith(f"{section}.num_workers=")]
        given = load(None, overrides) if overrides else build(values, where=CONFIG)
    except (ConfigError, yaml.YAMLError):
        return None
    return int(getattr(given, section).num_workers)


def _served(target: RuleTarget) -> set[str]:
    return _mounted(target, target.spec["rayClusterConfig"])


def _files(target: RuleTarget) -> set[str]:
    return _mounted(target, target.cluster or {})


def _mounted(target: RuleTarget, cluster: KubeObject) -> set[str]:
    """Paths of the files that ConfigMaps provide in the Ray container of the head."""
    spec = cluster["headGroupSpec"]["template"]["spec"]
    maps = {one["name"]: (one.get("configMap") or {}).get("name") for one in spec.get("volumes") or []}
    found = set()
    for mount in spec["containers"][0].get("volumeMounts") or []:
        config_map = target.context.by_kind.get("ConfigMap", {}).get(maps.get(mount["name"]) or "", {})
        found |= {f"{mount['mountPath'].rstrip('/')}/{name}" for name in config_map.get("data") or {}}
    return found
