"""The command line of `emoji-ldm cluster`. Only the standard library is imported until a verb runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import command as check
from emoji_ldm.kubernetes.simulation import command as simulate

if TYPE_CHECKING:
    from emoji_ldm.kubernetes.kubectl import Kubectl

VERBS = {
    "up": ("install an overlay and wait until it is ready; safe to run again",
           "emoji-ldm cluster up --overlay kind\n  emoji-ldm cluster up --overlay eks --context my-cluster"),
    "status": ("one table of clusters, service, jobs, queues and store, with the reason why something waits",
               "emoji-ldm cluster status\n  emoji-ldm cluster status --json"),
    "submit": ("run a stage as a RayJob and follow it to its end; Ctrl-C leaves it running",
               "emoji-ldm cluster submit crawl --overlay kind crawl.site=https://example.org\n"
               "  emoji-ldm cluster submit train --overlay kind train.steps=2000 --name train-long\n"
               "  emoji-ldm cluster submit caption --overlay kind --detach\n"
               "  emoji-ldm cluster submit report --overlay dev --standing    # on the standing cluster"),
    "logs": ("print what a job, the service or the standing cluster writes",
             "emoji-ldm cluster logs                 # of the newest job\n"
             "  emoji-ldm cluster logs train --follow\n  emoji-ldm cluster logs serve --tail 50"),
    "down": ("take an overlay away; keeps the data of the store unless told otherwise",
             "emoji-ldm cluster down --overlay kind\n  emoji-ldm cluster down --overlay kind --volumes --yes"),
}  # fmt: skip
OVERLAID = ("up", "submit", "down")


def add_cluster(commands: Any) -> None:
    """Add `cluster` with its verbs."""
    text = "This system on Kubernetes: install it, see what it does, run stages on it, take it away."
    examples = "emoji-ldm cluster up --overlay kind\n  emoji-ldm cluster submit crawl --overlay kind"
    command = _parser(commands, "cluster", "install, watch and use this system on Kubernetes", text, examples)
    verbs = command.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, (what, lines) in VERBS.items():
        verb = _parser(verbs, name, what, what[0].upper() + what[1:] + ".", lines)
        if name in OVERLAID:
            verb.add_argument("--overlay", required=True, metavar="NAME", help="folder in k8s/overlays: dev, kind, eks")
            verb.add_argument("--manifests", default="k8s", metavar="FOLDER", help="folder of the manifests (k8s)")
        verb.add_argument("--context", default="", metavar="NAME",
                          help="cluster of your kubeconfig; its current one if absent")  # fmt: skip
    _add_options(verbs.choices)
    check.add(verbs)
    simulate.add(verbs)


def _add_options(verbs: dict[str, argparse.ArgumentParser]) -> None:
    verbs["up"].add_argument("--timeout", type=float, default=1800, metavar="SECONDS",
                             help="give up waiting after so long (1800)")  # fmt: skip
    verbs["status"].add_argument("--json", action="store_true", help="print JSON")
    submit = verbs["submit"]
    submit.add_argument("stage", help="crawl, caption, autoencoder, latents, train, generate, report, pipeline")
    submit.add_argument("words", nargs="*", metavar="section.field=value", help="overrides such as train.lr=1e-4")
    submit.add_argument("--name", default="", help="name of the job; stage and time if absent")
    submit.add_argument("--detach", action="store_true", help="do not follow the job")
    submit.add_argument("--standing", action="store_true", help="run on the standing cluster, not on one of its own")
    verbs["logs"].add_argument("job", nargs="?", default="",
                               help="job, stage (its newest), serve or cluster; the newest job if absent")  # fmt: skip
    verbs["logs"].add_argument("-f", "--follow", action="store_true", help="go on while it writes")
    verbs["logs"].add_argument("--tail", type=int, default=-1, metavar="N", help="only the last N lines")
    verbs["down"].add_argument("--yes", action="store_true", help="do not ask")
    verbs["down"].add_argument("--volumes", action="store_true", help="delete data, Secrets and namespace too")


def run(arguments: argparse.Namespace, submit: Callable[..., int], follow: Callable[..., int]) -> int:
    """Do the verb that was parsed.

    Args:
        arguments: As parsed.
        submit: Runs a command as a Ray job on a cluster, see `ray_jobs.cli.job_submission`, which the library may not import.
        follow: Prints the log of a Ray job on a cluster, likewise.
    """
    if arguments.verb in ("check", "simulate"):
        return check.run(arguments) if arguments.verb == "check" else simulate.run(arguments)
    from emoji_ldm.kubernetes.kubectl import Kubectl

    kubectl = Kubectl(arguments.context)
    if arguments.verb == "status":
        from emoji_ldm.kubernetes import status

        return status.run(kubectl, as_json=arguments.json)
    if arguments.verb == "logs":
        from emoji_ldm.kubernetes import logs

        return logs.run(kubectl, arguments.job, go_on=arguments.follow, tail=arguments.tail, ray_job=follow)
    return _overlaid(arguments, kubectl, submit)


def _overlaid(arguments: argparse.Namespace, kubectl: Kubectl, submit: Callable[..., int]) -> int:
    from emoji_ldm.kubernetes.overlay import Overlay

    overlay = Overlay.read(Path(arguments.manifests).expanduser(), arguments.overlay)
    if arguments.verb == "up":
        from emoji_ldm.kubernetes import up

        return up.run(kubectl, overlay, arguments.timeout)
    if arguments.verb == "down":
        from emoji_ldm.kubernetes import down

        return down.run(kubectl, overlay, yes=arguments.yes, volumes=arguments.volumes)
    from emoji_ldm.kubernetes import submit as job

    if not arguments.standing:
        return job.run(kubectl, overlay, arguments.stage, arguments.words, name=arguments.name, detach=arguments.detach)
    if arguments.name or arguments.detach:
        raise ConfigError(
            "--standing takes neither --name nor --detach: Ray names the job, and Ctrl-C leaves it running"
        )
    return job.run_on_standing(kubectl, overlay, arguments.stage, arguments.words, submit)


def _parser(commands: Any, name: str, text: str, description: str, examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=description, epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return command
