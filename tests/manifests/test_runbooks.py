"""Commands in the runbooks and the README: they parse, and what they name exists."""

import functools
import itertools
import re
import shlex
import subprocess

import pytest
import yaml
from typer.exceptions import TyperException

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.kubernetes.lint.kubectl_binary import bundled_tool
from tests.command_line import parse
from tests.manifests.render import K8S, OVERLAYS, ROOT, VERSIONS, rendered

PAGES = sorted([*(ROOT / "infra" / "runbooks").glob("*.md"), K8S / "README.md"])
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ENDS = {"&&", "||", "|", ";", "do", "then", "else", "(", ")", "&"}
SHORT = {  # kubectl's own short names and plurals
    "svc": "Service", "deploy": "Deployment", "sts": "StatefulSet", "cm": "ConfigMap", "ns": "Namespace", "pdb":
    "PodDisruptionBudget", "netpol": "NetworkPolicy", "sa": "ServiceAccount", "cq": "ClusterQueue", "lq": "LocalQueue",
    "pvc": "PersistentVolumeClaim",
}  # fmt: skip
BY_OPERATORS = re.compile(r"(serve|emoji-ldm|[a-z]+)-(head-svc|serve-svc|gateway)")
PATHS = re.compile(r"(?:^|[\s=\"'])((?:infra|k8s|tests|ray_jobs|emoji_ldm)/[\w./-]*[\w-])")
MADE = (
    "infra/terraform/backend.hcl",
    "infra/terraform/terraform.tfvars",
    "infra/terraform/stack.tfplan",
)  # by the page itself


def commands(page):
    """(line, words) of every simple command in a page's shell blocks."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        start = text[: block.start(1)].count("\n") + 1
        for number, line in _lines(block[1]):
            for words in _split(line):
                yield start + number, words


def _lines(block):
    """Each command with the number of its first line; lines that end in a backslash go together, here-documents go."""
    begun, number, end = "", 0, None
    for count, line in enumerate(block.splitlines()):
        if end is not None:
            end = None if line.strip() == end else end
            continue
        number = number if begun else count
        begun += line.removesuffix("\\") + " "
        if not line.endswith("\\"):
            mark = re.search(r"<<-?\s*'?(\w+)'?", begun)
            end = mark[1] if mark else None
            yield number, begun.strip()
            begun = ""


def _split(line):
    """The simple commands of a line, without comments and variables set before them; inner `$(...)` stay words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return  # a quotation over several lines
    command = []
    for word in [*words, ";"]:
        if word in ENDS or set(word) <= set("|&;"):
            while command and (
                re.fullmatch(r"[A-Z_]+=.*", command[0]) or command[0] in ("export", "env", "sudo", "time")
            ):
                command.pop(0)
            if command:
                yield command
            command = []
        else:
            command.append(word)


ALL = [(page, line, words) for page in PAGES for line, words in commands(page)]


def told(program):
    """(where, arguments) of every use of a program."""
    return [(f"{page.relative_to(ROOT)}:{line}", words[1:]) for page, line, words in ALL if words[0] == program]


def test_the_pages_hold_commands():
    assert len(ALL) > 60
    assert len(told("kubectl")) > 15
    assert len(told("emoji-ldm")) > 10


def test_every_command_of_ours_parses():
    for where, arguments in told("emoji-ldm"):
        plain = [word for word in arguments if not word.startswith((">", "2>"))]
        try:
            parsed = parse(plain)
            if parsed.info_name == "submit":
                parse(parsed.params["words"])
        except (TyperException, EmojiLdmError) as error:
            raise AssertionError(f"{where}: emoji-ldm {' '.join(plain)}: {error}") from None


def test_overlays_and_stages_named_after_our_commands_exist():
    for where, arguments in told("emoji-ldm"):
        if "--overlay" in arguments:
            assert arguments[arguments.index("--overlay") + 1] in (*OVERLAYS, "X"), where


@functools.cache
def help_of(*words):
    tool = bundled_tool("kubectl")
    if tool is None:
        pytest.skip("needs the package that carries kubectl, see tests/manifests/kubectl.txt")
    return subprocess.run([str(tool), *words], capture_output=True, text=True).stdout


def verb_of(arguments):
    """kubectl's verb, its other plain words, and its options by name."""
    plain, options, rest = [], [], iter(arguments)
    for word in rest:
        if word == "--":
            break
        if word in ("-n", "--namespace", "-l", "--selector", "-o", "-f", "-k", "-p", "-c", "--context", "--type", "-L"):
            options.append((word, next(rest, "")))
        elif word.startswith("-"):
            options.append((word.partition("=")[0], word.partition("=")[2]))
        else:
            plain.append(word)
    return plain, options


def test_verbs_and_options_of_kubectl_exist():
    verbs = set(re.findall(r"^  ([a-z-]+) +\S", help_of("--help"), re.MULTILINE))
    everywhere = set(re.findall(r"--[a-z-]+", help_of("options")))
    for where, arguments in told("kubectl"):
        plain, options = verb_of(arguments)
        assert plain and plain[0] in verbs, f"{where}: kubectl {' '.join(arguments)}"
        group = plain[:2] if plain[0] in ("rollout", "create", "config", "auth", "set", "top") else plain[:1]
        group = plain[:3] if plain[:2] == ["create", "secret"] else group
        known = everywhere | set(re.findall(r"--[a-z-]+", help_of(*group, "--help")))
        for name, _ in options:
            assert not name.startswith("--") or name in known, f"{where}: {' '.join(group)} has no {name}"


@functools.cache
def objects():
    """(kind, name) of everything in any overlay, and what operators make of it."""
    found = {(one["kind"].lower(), one["metadata"]["name"]) for overlay in OVERLAYS for one in rendered(overlay)}
    found |= {("secret", name) for name in yaml.safe_load((K8S / "secrets.yaml").read_text())}
    sets = [name for kind, name in found if kind == "statefulset"]
    found |= {("pod", f"{name}-{number}") for name in sets for number in range(4)}
    return found | {("persistentvolumeclaim", f"data-{name}-{number}") for name in sets for number in range(4)}


def kind_of(word):
    known = {kind for kind, _ in objects()} | {
        "gateway",
        "node",
        "pod",
        "nodeclaim",
        "workload",
        "deployment",
        "crd",
        "event",
    }
    plain = SHORT.get(word, word).lower().partition(".")[0]
    return next((one for one in (plain, plain.removesuffix("s"), re.sub("ies$", "y", plain), re.sub("es$", "", plain))
                 if one in known), None)  # fmt: skip


def named(plain):
    """(kind, name) that a kubectl command names: `kind/name` or `kind name...`."""
    words = plain[2:] if plain[0] == "rollout" else plain[1:]
    pairs = [tuple(word.split("/", 1)) for word in words if re.fullmatch(r"[a-z.]+/[a-z0-9.-]+", word)]
    if words and "/" not in words[0] and kind_of(words[0]):
        pairs += [(words[0], name) for name in words[1:] if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)]
    return pairs


NAMING = {"get", "delete", "patch", "describe", "logs", "exec", "cp", "port-forward", "rollout", "wait", "scale",
          "label", "annotate", "edit"}  # fmt: skip
ELSEWHERE = ("node", "nodeclaim", "workload", "crd", "event")  # what no overlay holds


def test_objects_that_kubectl_commands_name_exist():
    seen = 0
    for where, arguments in told("kubectl"):
        plain, options = verb_of(arguments)
        if plain[0] not in NAMING or dict(options).get("-n", dict(options).get("--namespace")) != "emoji-ldm":
            continue
        for word, name in named(plain):
            kind = kind_of(word)
            assert kind, f"{where}: no kind {word!r}"
            made = kind in ELSEWHERE or BY_OPERATORS.fullmatch(name)
            assert made or (kind, name) in objects(), f"{where}: no {kind}/{name} in any overlay"
            seen += 1
    assert seen > 10


def test_charts_are_installed_as_versions_yaml_says():
    for where, arguments in told("helm"):
        if arguments[:2] == ["upgrade", "--install"]:
            chart = VERSIONS["charts"][arguments[2]]
            given = dict(itertools.pairwise(arguments))
            assert (arguments[3], given["--version"]) == (chart["chart"], chart["version"]), where
            assert given["--namespace"] == chart["namespace"], where
            assert given.get("--repo") == chart.get("repo"), where


def test_files_that_commands_name_exist():
    for page, line, words in ALL:
        for path in PATHS.findall(" ".join(words)):
            there = (ROOT / path).exists() or path in MADE or "NAME" in path
            assert there, f"{page.relative_to(ROOT)}:{line}: no {path}"


def test_pages_that_pages_point_to_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.relative_to(ROOT)}: no {target}"
