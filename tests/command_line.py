"""A command line of `emoji-ldm` parsed and not run."""

from typer.main import get_command

from ray_jobs.cli.command import parse_words, split_words
from ray_jobs.cli.main import app


def parse(words):
    """The context of the command that these words name: its `info_name`, and its options in `params`."""
    root = get_command(app).make_context("emoji-ldm", ["doctor"])
    return parse_words(root, list(words))


def plain_words(context):
    """(words that are no overrides, overrides) of a parsed command that reads a configuration."""
    return split_words(context.params["words"] or [])


def command_names():
    """Every command of the first level."""
    return set(get_command(app).commands)
