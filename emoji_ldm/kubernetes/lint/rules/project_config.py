"""The project's own configuration and commands, as manifests name them."""

from __future__ import annotations

import re
import shlex

import yaml

from emoji_ldm.config.loading import build, load, preset_names
from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, JOB, OBJECT, RuleTarget, Violations, rule

CONFIG = "emoji-ldm.yaml"
WORDS_TEXT = """
crawl caption autoencoder latents train generate report serve pipeline demo doctor dataset sets
"""
WORDS = frozenset(WORDS_TEXT.split())


@rule(OBJECT, "ConfigMap")
def configs_are_valid(target: RuleTarget) -> Violations:
    """emoji_ldm.config: the models that the commands themselves use."""
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
        for one in re.split(rf"; (?={CONFIG}: )", str(error)):
            key = re.search(r": (?:unknown key ')?([a-z_]+(?:\.[a-z_0-9]+)*)", one)
            yield ("data", CONFIG, *(key[1].split(".") if key else ())), one


@rule(JOB)
def entrypoints_are_commands(target: RuleTarget) -> Violations:
    """ray_jobs.cli.main: what is not one of its commands ends at once."""
    text = target.value.get("entrypoint") or ""
    try:
        words = shlex.split(text)
    except ValueError as error:
        yield ("entrypoint",), f"{text!r}: {error}"
        return
    if len(words) < 2 or words[0] != "emoji-ldm" or words[1] not in WORDS:
        yield ("entrypoint",), f"{text!r} is no command of emoji-ldm"


@rule(JOB)
def overrides_are_fields_of_the_config(target: RuleTarget) -> Violations:
    """emoji_ldm.config: a command with an unknown key, or a value that it refuses, ends at once."""
    for word in _words(target):
        if re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]+)*=.*", word, re.DOTALL):
            try:
                load(None, [word])
            except ConfigError as error:
                yield ("entrypoint",), str(error)


@rule(JOB)
def configs_lie_where_commands_look(target: RuleTarget) -> Violations:
    """The commands read the file that the ConfigMap is mounted at, or a preset of the package."""
    words = _words(target)
    for option, value in zip(words, [*words[1:], ""], strict=False):
        name, equals, after = option.partition("=")
        path = after if equals else value
        if name in ("--config", "-c") and target.cluster is not None and path not in (*_files(target), *preset_names()):
            yield ("entrypoint",), f"no ConfigMap is mounted at {path} on the head"


@rule(OBJECT, "RayService")
def the_serve_config_is_ours(target: RuleTarget) -> Violations:
    """Ray Serve 2.60, serve.schema.ServeDeploySchema."""
    text = target.spec.get("serveConfigV2") or ""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield ("spec", "serveConfigV2"), f"is not YAML: {' '.join(str(error).split())}"
        return
    applications = values.get("applications") if isinstance(values, dict) else None
    if not isinstance(applications, list) or not applications:
        yield ("spec", "serveConfigV2"), "names no application: it holds `applications`, a list"
        return
    for one in applications:
        if not isinstance(one, dict) or not isinstance(one.get("args") or {}, dict):
            yield ("spec", "serveConfigV2"), f"{one!r} is no application: a mapping with import_path and args"
            continue
        path = (one.get("args") or {}).get("config")
        if not re.fullmatch(r"[\w.]+:\w+", str(one.get("import_path"))):
            yield ("spec", "serveConfigV2"), f"{one.get('import_path')!r} is no import path module:name"
        if path and path not in _served(target):
            yield ("spec", "serveConfigV2"), f"no ConfigMap is mounted at {path} on the head"


@rule(CONTAINER)
def commands_are_not_empty(target: RuleTarget) -> Violations:
    """python: a module or file that does not exist ends the container at once."""
    for key in ("command", "args"):
        if key in target.value and not all(isinstance(word, str) and word for word in target.value[key] or [""]):
            yield (key,), f"{key} holds an empty word"


def _words(target: RuleTarget) -> list[str]:
    """Of the command; none where its quotes are not closed, which is told elsewhere."""
    try:
        return shlex.split(target.value.get("entrypoint") or "")
    except ValueError:
        return []


def _served(target: RuleTarget) -> set[str]:
    return _mounted(target, target.spec["rayClusterConfig"])


def _files(target: RuleTarget) -> set[str]:
    return _mounted(target, target.cluster or {})


def _mounted(target: RuleTarget, cluster: KubeObject) -> set[str]:
    """Paths of the files that ConfigMaps give to the head's Ray container."""
    spec = cluster["headGroupSpec"]["template"]["spec"]
    maps = {one["name"]: (one.get("configMap") or {}).get("name") for one in spec.get("volumes") or []}
    found = set()
    for mount in spec["containers"][0].get("volumeMounts") or []:
        held = target.context.by_kind.get("ConfigMap", {}).get(maps.get(mount["name"]) or "", {})
        found |= {f"{mount['mountPath'].rstrip('/')}/{name}" for name in held.get("data") or {}}
    return found
