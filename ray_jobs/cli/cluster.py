"""The commands of `emoji-ldm cluster`: this system on Kubernetes. Their overlay holds the configuration they use."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import AsJson, command, new_app
from ray_jobs.cli.submit import K8S, ContextName, Manifests, SiteFile, read_overlay

# Modules are imported inside of the commands: the parser of all commands is built at every start, also for `--help`.
OverlayName = Annotated[str, typer.Option("--overlay", metavar="NAME", help="Folder in k8s/overlays: dev, kind, eks.")]
Namespace = Annotated[str, typer.Option(metavar="NAME", help="Namespace of the installation, if a site chose another.")]
DEFAULT_NAMESPACE = "emoji-ldm"

app = new_app(
    "Install, watch and remove this system on Kubernetes; `emoji-ldm submit` runs stages on it.",
    "Install, watch and remove this system on Kubernetes",
)


@command(
    app,
    "up",
    examples=["emoji-ldm cluster up --overlay kind", "emoji-ldm cluster up --overlay eks --context my-cluster"],
)
def up(
    overlay: OverlayName = "",
    site: SiteFile = None,
    manifests: Manifests = K8S,
    context: ContextName = "",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up waiting after so long.")] = 1800,
    force: Annotated[bool, typer.Option("--force", help="Overwrite fields that were changed by other means.")] = False,
) -> int:
    """Install an overlay and wait until what it installed works; it is safe to run again."""
    # The module has the name of this command, and would hide the function without another name.
    from emoji_ldm.kubernetes import up as kubernetes
    from emoji_ldm.kubernetes.kubectl import Kubectl

    target = read_overlay(manifests, overlay, site)
    return kubernetes.run(Kubectl(context, target.namespace), target, timeout, force=force)


@command(app, "doctor", examples=["emoji-ldm cluster doctor --overlay kind"])
def doctor(
    overlay: OverlayName = "", site: SiteFile = None, manifests: Manifests = K8S, context: ContextName = ""
) -> int:
    """Check what an overlay needs of the cluster, and print the command that installs what is missing."""
    from emoji_ldm.kubernetes.cluster_requirements import check_requirements
    from emoji_ldm.kubernetes.kubectl import Kubectl

    target = read_overlay(manifests, overlay, site)
    found = list(check_requirements(Kubectl(context, target.namespace), target))
    for one in found:
        sys.stdout.write(f"{'ok' if one.is_met else 'missing':<8} {one.subject:<30} {one.text}\n")
    return 0 if all(one.is_met for one in found) else 1


@command(
    app,
    "render",
    examples=[
        "emoji-ldm cluster render --overlay eks > all.yaml",
        "emoji-ldm cluster render --site site.yaml > all.yaml",
    ],
)
def render(overlay: OverlayName = "", site: SiteFile = None, manifests: Manifests = K8S) -> int:
    """Print what `up` applies as YAML, for Argo CD, Flux or kubectl; jobs are left out, as they would start."""
    import yaml

    found = read_overlay(manifests, overlay, site)
    yaml.safe_dump_all(found.installed, sys.stdout, sort_keys=False, allow_unicode=True, width=120)
    return 0


@command(app, "status", examples=["emoji-ldm cluster status", "emoji-ldm cluster status --json"])
def status(as_json: AsJson = False, context: ContextName = "", namespace: Namespace = DEFAULT_NAMESPACE) -> int:
    """Print one table of clusters, service, jobs, queues and store, with the reason why something waits."""
    from emoji_ldm.kubernetes import status as kubernetes
    from emoji_ldm.kubernetes.kubectl import Kubectl

    return kubernetes.run(Kubectl(context, namespace), as_json=as_json)


@command(
    app,
    "logs",
    examples=[
        "emoji-ldm cluster logs                 # of the newest job",
        "emoji-ldm cluster logs train --follow",
        "emoji-ldm cluster logs serve --tail 50",
    ],
)
def logs(
    job: Annotated[
        str,
        typer.Argument(metavar="[JOB]", help="Job, stage (its newest job), serve or cluster; the newest by default."),
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it writes.")] = False,
    tail: Annotated[int, typer.Option(metavar="N", help="Only the last N lines; -1 for all.")] = -1,
    context: ContextName = "",
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print the log of a job, of the service or of the standing cluster."""
    from emoji_ldm.kubernetes import logs as kubernetes
    from emoji_ldm.kubernetes.kubectl import Kubectl
    from ray_jobs.cli import job_submission

    # `emoji_ldm` must not import `ray_jobs`, so what follows the log of a Ray job is handed over as a function.
    return kubernetes.run(Kubectl(context, namespace), job, go_on=follow, tail=tail, ray_job=job_submission.follow)


@command(
    app,
    "down",
    examples=["emoji-ldm cluster down --overlay kind", "emoji-ldm cluster down --overlay kind --volumes --yes"],
)
def down(
    overlay: OverlayName = "",
    site: SiteFile = None,
    manifests: Manifests = K8S,
    context: ContextName = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete data, Secrets and namespace too.")] = False,
) -> int:
    """Remove an overlay; the data of the store stays unless --volumes is given."""
    from emoji_ldm.kubernetes import down as kubernetes
    from emoji_ldm.kubernetes.kubectl import Kubectl

    target = read_overlay(manifests, overlay, site)
    return kubernetes.run(Kubectl(context, target.namespace), target, yes=yes, volumes=volumes)


@command(app, "check", examples=["emoji-ldm cluster check", "emoji-ldm cluster check --overlay dev --overlay kind"])
def check(
    overlay: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Overlay to check; may be given several times. All by default."),
    ] = None,
    site: SiteFile = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE", help="Leave out a rule, named at the end of its findings; `allow:` of a site lasts."
        ),
    ] = None,
    manifests: Manifests = K8S,
) -> int:
    """Check the manifests without a cluster: print `file:line: object: what is wrong`; exit status 1 for findings."""
    from emoji_ldm.kubernetes.lint import check as check_overlay
    from emoji_ldm.kubernetes.lint.rendering import overlays, render
    from emoji_ldm.kubernetes.site import Site

    if overlay and site:
        raise ConfigError("--site names the overlay; leave out --overlay")
    own = Site.read(site) if site else None
    # Counted over all overlays, so that a pipeline of checks gets one last line and one exit status.
    began, num_findings, num_objects = time.monotonic(), 0, 0
    names = [own.overlay] if own else overlay or overlays(manifests)
    for name in names:
        target = (own or Site(overlay=name)) if own or allow else None
        if target and allow:
            target = target.model_copy(update={"allow": (*target.allow, *allow)})
        findings = check_overlay(manifests, name, target)
        # The number of objects shows that something was checked: no findings in no objects would look like success.
        num_objects += len(render(manifests, name))
        num_findings += len(findings)
        sys.stdout.writelines(f"{finding}\n" for finding in findings)
    seconds = time.monotonic() - began
    sys.stdout.write(f"{num_findings} findings in {num_objects} objects of {', '.join(names)} ({seconds:.1f} s)\n")
    return 1 if num_findings else 0


@command(
    app,
    "simulate",
    examples=[
        "emoji-ldm cluster simulate                           # the four questions of plan.yaml",
        "emoji-ldm cluster simulate storm --output storm      # with charts in storm/simulation.svg",
        "emoji-ldm cluster simulate plan pools.gpu-spot.price_usd_h=9.5 work.caption.workers=128",
        "emoji-ldm cluster simulate mine.yaml seed=3 --json",
    ],
)
def simulate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SCENARIO] [path=value ...]",
            help="A preset (plan, storm, scale) or a YAML file, plan by default; overrides are work.caption.rate=3.",
        ),
    ] = None,
    manifests: Manifests = K8S,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write simulation.svg (charts) and simulation.json there.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Estimate how long work takes and what it costs on a cluster, from manifests, rates and prices."""
    # SimPy belongs to the optional dependencies of cluster commands, so its absence is a mistake of installation and
    # not of the program.
    try:
        from emoji_ldm.kubernetes.simulation import report
    except ModuleNotFoundError as error:
        raise ConfigError(f"cluster simulate needs {error.name}: pip install 'emoji-ldm[cluster]'") from None
    return report.run(words or [], manifests=manifests, output=output, as_json=as_json)
