"""The command `emoji-ldm submit`: run any command on a cluster, reached by its dashboard or through Kubernetes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import command, parse_words

if TYPE_CHECKING:
    from emoji_ldm.kubernetes.overlay import Overlay

# Where the manifests mount the configuration: a ConfigMap, so that all jobs of an overlay use the same one.
CONFIG_PATH = "/etc/emoji-ldm/emoji-ldm.yaml"
ContextName = Annotated[
    str, typer.Option("--context", metavar="NAME", help="Cluster of your kubeconfig; its current one by default.")
]
Manifests = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the manifests.")]
SiteFile = Annotated[
    Path | None, typer.Option("--site", metavar="FILE", help="Values of an installation, which name its overlay.")
]
# Relative to the working directory: the manifests belong to a checkout of the repository, not to the installed package.
K8S = Path("k8s")
EXAMPLES = (
    "emoji-ldm submit crawl --address http://127.0.0.1:8265 --config my.yaml",
    "emoji-ldm submit train train.num_workers=8 --address http://ray-head:8265 --working-dir .",
    "emoji-ldm submit train train.steps=2000 --overlay kind --name train-long",
    "emoji-ldm submit caption --overlay kind --detach",
    "emoji-ldm submit report --standing",
)


def add_command(app: typer.Typer) -> None:
    """Register the command."""
    # What it does not know itself is an option of the submitted command.
    command(app, "submit", examples=EXAMPLES, context_settings={"ignore_unknown_options": True})(submit)


def submit(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="STAGE [OPTION ...] [section.field=value ...]", help="The command to run, with its own options."
        ),
    ],
    address: Annotated[str, typer.Option(metavar="URL", help="Any Ray cluster: its dashboard, http://host:8265.")] = "",
    overlay: Annotated[
        str, typer.Option(metavar="NAME", help="Kubernetes: run as a RayJob of k8s/overlays/NAME: dev, kind, eks.")
    ] = "",
    site: SiteFile = None,
    standing: Annotated[
        bool, typer.Option("--standing", help="Kubernetes: run on the standing cluster instead of a new one.")
    ] = False,
    working_dir: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="--address: folder to upload; by default the cluster's image holds the package."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="--overlay: name of the job; stage and time by default.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="--overlay: do not follow the job.")] = False,
    kube_context: ContextName = "",
    manifests: Manifests = K8S,
) -> int:
    """Run a command as a job on a cluster and follow its log to its end; Ctrl-C leaves the job running."""
    _check_target(address=address, overlay=overlay or site, standing=standing)
    # An unknown option before the command would be taken for the command's name, see `ignore_unknown_options`.
    if words[0].startswith("-"):
        raise ConfigError(f"name the command before its options: emoji-ldm submit STAGE {words[0]} ...")
    if working_dir is not None and not address:
        raise ConfigError("--working-dir goes with --address: jobs on Kubernetes run what their image holds")
    if (name or detach) and (address or standing):
        raise ConfigError(
            f"--{'address' if address else 'standing'} takes neither --name nor --detach: Ray names the job, "
            "and Ctrl-C leaves it running"
        )
    if address:
        from ray_jobs.cli import job_submission

        # A mistake in the submitted command is found here, before a job waits for its turn. Not with an uploaded
        # folder, which may hold other commands than this installation.
        if working_dir is None:
            parse_words(context, words)
        return job_submission.submit(words, address, working_dir=working_dir)
    return _submit_to_kubernetes(
        words, installation=(manifests, overlay, site), standing=standing, job=(name, detach), kube_context=kube_context
    )


def _check_target(*, address: str, overlay: str | Path | None, standing: bool) -> None:
    if address and (overlay or standing):
        raise ConfigError("--address is any Ray cluster, --overlay and --standing are Kubernetes; give one of them")
    if not (address or overlay or standing):
        raise ConfigError(
            "submit needs a cluster: --address http://host:8265, or on Kubernetes --overlay NAME or --standing"
        )


def _submit_to_kubernetes(
    words: list[str],
    *,
    installation: tuple[Path, str, Path | None],
    standing: bool,
    job: tuple[str, bool],
    kube_context: str,
) -> int:
    from emoji_ldm.kubernetes import submit as kubernetes
    from emoji_ldm.kubernetes.kubectl import Kubectl
    from ray_jobs.cli import job_submission

    stage, *overrides = words
    # The command line of such a job is part of its manifest, which takes overrides and no options.
    if wrong := next((word for word in overrides if word.startswith("-")), None):
        raise ConfigError(
            f"{wrong} is refused: jobs of the manifests read their configuration; write overrides: section.field=value"
        )
    (name, detach), (manifests, overlay, site) = job, installation
    if not (overlay or site):
        # Overlays call the stage by its module; on the command line it is a word of `train`.
        command_line = ["train", stage] if stage == "autoencoder" else [stage]
        return kubernetes.submit_to_dashboard(
            Kubectl(kube_context), [*command_line, "--config", CONFIG_PATH, *overrides], job_submission.submit
        )
    found = read_overlay(manifests, overlay, site)
    kubectl = Kubectl(kube_context, found.namespace)
    if standing:
        return kubernetes.run_on_standing(kubectl, found, stage, overrides, job_submission.submit)
    return kubernetes.run(kubectl, found, stage, overrides, name=name, detach=detach)


def read_overlay(manifests: Path, overlay: str, site: Path | None) -> "Overlay":
    """The overlay that the options name.

    Raises:
        ConfigError: Neither or both are given, or the overlay cannot be rendered.
    """
    from emoji_ldm.kubernetes.overlay import Overlay

    if bool(overlay) == (site is not None):
        raise ConfigError("name either an overlay, --overlay kind, or a site file, --site site.yaml")
    # The shell does not expand `~` in `--manifests=~/k8s`.
    return Overlay.read(manifests.expanduser(), overlay, site.expanduser() if site else None)
