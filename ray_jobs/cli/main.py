"""The console script `emoji-ldm`: all commands, and the errors for a wrong command line.

Typer makes the parsers: it reads them off typed function signatures, checks values, suggests the nearest option and
command, and costs 0.03 s of start. Only it and the standard library are imported until a command runs.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from emoji_ldm import __version__
from ray_jobs.cli import adapters, cluster, crawl_tools, dataset, evaluation, keys, pack, sets, stages, submit
from ray_jobs.cli.command import print_error

EPILOG = """\b
examples:
  emoji-ldm demo
  emoji-ldm doctor
  emoji-ldm train train.steps=2000 --config my.yaml --dry-run

Every option is a config field: `emoji-ldm COMMAND --help` explains them, `--dry-run` shows their values.
"""


class CommandLine(TyperGroup):
    """The commands, of which some have two words, such as `crawl probe`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Click's, but takes `crawl probe` for one name: a group could not take the words of `crawl` itself."""
        if " ".join(args[:2]) in crawl_tools.TWO_WORDS:
            args = [" ".join(args[:2]), *args[2:]]
        return super().resolve_command(ctx, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, 2 for a command line that cannot be understood."""
    # Kubernetes stops a pod by SIGTERM. As a KeyboardInterrupt it takes the same way as Ctrl-C, with all clean-up.
    signal.signal(signal.SIGTERM, _interrupt)
    # Read where Ray is imported, hence here: at Ctrl-C it would report each task of the workers that it ends as failed.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "killed by `ray.kill`")
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The help is not an answer to a question here, hence exit status 2, as from other command lines.
    if not arguments:
        run(["--help"])
        return 2
    try:
        return run(arguments)
    except TyperException as error:
        print_usage_error(error)
        return error.exit_code


def run(arguments: Sequence[str]) -> int:
    """Run one command; TyperException if its words or options cannot be understood."""
    # Not `app(...)`: that replaces Python's hook for uncaught exceptions by one of Typer's.
    return int(get_command(app).main(list(arguments), prog_name="emoji-ldm", standalone_mode=False) or 0)


def print_usage_error(error: TyperException) -> None:
    """Print one line: the error, and the nearest right name or where to read more."""
    context = getattr(error, "ctx", None)
    # A usage error of pydantic's has a prefix, and one with a suggestion already ends in a question.
    text = error.format_message().rstrip(".").replace("Value error, ", "")
    hint = "" if text.endswith("?") else f"; see: {context.command_path if context else 'emoji-ldm'} --help"
    print_error(text + hint)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _print_version(requested: bool) -> None:
    # Eager, so that it is answered before the missing command is complained about.
    if requested:
        sys.stdout.write(f"emoji-ldm {__version__}\n")
        raise typer.Exit


# The stages are commands of the root, so that users type `emoji-ldm train` and not `emoji-ldm stages train`.
app = stages.app


@app.callback(
    cls=CommandLine, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn web pages of emoji into a versioned data set, a diffusion model and new emoji."""


# The order is that of the list in `--help`.
evaluation.add_command(app)
pack.add_command(app)
app.add_typer(dataset.app, name="dataset")
app.add_typer(adapters.app, name="adapters")
app.add_typer(sets.app, name="sets")
app.add_typer(keys.app, name="keys")
submit.add_command(app)
app.add_typer(cluster.app, name="cluster")
