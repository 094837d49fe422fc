"""The console script `emoji-ldm`. Only the standard library is imported until a command runs, so `--help` is quick."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError, EmojiLdmError
from ray_jobs.cli.parser import build_parser
from ray_jobs.cli.probe import PROBE

if TYPE_CHECKING:
    from emoji_ldm.config import Config

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m|↳")
OVERRIDE = re.compile(r"[A-Za-z_]+(\.[A-Za-z_]+)*=.*", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _dispatch(arguments)
    except EmojiLdmError as error:
        sys.stderr.write(f"error: {' '.join(ANSI_COLOUR.sub('', str(error)).split())}\n")  # libraries write paragraphs
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what was committed is safe: run the same command again to go on\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand anywhere, also after options, which argparse alone refuses."""
    top = build_parser()
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:2] == ["crawl", "probe"]:
        given[:2] = [PROBE]
    arguments, rest = top.parse_known_args(given)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown or (rest and not hasattr(arguments, "words")):
        top.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        arguments.words += rest
    return arguments


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "submit":
        from ray_jobs.cli.job_submission import submit

        return submit(arguments.stage, arguments.address, working_dir=arguments.working_dir)
    if arguments.command == "cluster":
        from emoji_ldm.kubernetes.command import run as cluster
        from ray_jobs.cli.job_submission import follow, submit

        return cluster(arguments, submit, follow)
    if arguments.command == "sets":
        from emoji_ldm.serve.bulk.set_commands import run as sets

        return sets(arguments)
    config, words = _config(arguments)
    if arguments.command == "pipeline":
        from ray_jobs.pipeline import stages_of

        stages_of(words)  # a dry run tells of a wrong one too
    if arguments.dry_run:
        sys.stdout.write(config.to_yaml())
        return 0
    if arguments.command == "doctor":
        from ray_jobs.cli.doctor import doctor

        return doctor(config)
    if arguments.command == PROBE:
        from ray_jobs.cli.probe import run as probe

        return probe(arguments, config, words)
    if arguments.command == "dataset":
        from ray_jobs.cli.dataset_commands import run

        return run(arguments, config, words)
    if arguments.command == "keys":
        from ray_jobs.cli.keys import run as keys

        return keys(arguments, config, words)
    if arguments.command == "pipeline":
        from ray_jobs.pipeline import run as pipeline

        pipeline(config, words)
        return 0
    if arguments.command == "train":
        from ray_jobs.cli import export

        export.check(arguments)
        if arguments.export:
            return export.run(arguments, config, _stage_name("train", words))
        if arguments.tag:
            _reject(words, "train --tag")
            return export.tag(arguments, config)
    from ray_jobs.pipeline import demo, run_stage

    if arguments.command == "demo":
        _reject(words, arguments.command)
        demo(config)
    else:
        run_stage(_stage_name(arguments.command, words), config)
    return 0


def _config(arguments: argparse.Namespace) -> tuple[Config, list[str]]:
    """The resolved configuration, and the words that are no overrides."""
    from emoji_ldm.config import load

    words = [word for word in arguments.words if not OVERRIDE.fullmatch(word)]
    overrides = [*(word for word in arguments.words if OVERRIDE.fullmatch(word)), *(arguments.flags or ())]
    source = arguments.config or ("demo" if arguments.command == "demo" else None)
    config = load(source, overrides)
    if arguments.command == "generate" and words:
        merged: dict[str, Any] = config.model_dump()
        merged["generate"]["prompts"] = [*config.generate.prompts, *words]
        config, words = type(config).model_validate(merged), []
    return config, words


def _stage_name(command: str, words: list[str]) -> str:
    """`train autoencoder` is a stage of its own, with a job file of its own."""
    if command == "train" and words[:1] == ["autoencoder"]:
        _reject(words[1:], command)
        return "autoencoder"
    _reject(words, command)
    return command


def _reject(words: list[str], command: str) -> None:
    if words:
        raise ConfigError(f"{command} does not take {words[0]!r}; options are written as section.field=value")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
