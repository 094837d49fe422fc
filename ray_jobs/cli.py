"""The console script `emoji-ldm`. Only the standard library is imported until a command runs, so `--help` is quick."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emoji_ldm import __version__
from emoji_ldm.cluster.command import add_cluster
from emoji_ldm.errors import ConfigError, EmojiLdmError
from ray_jobs.dataset import add_dataset
from ray_jobs.export import add_export
from ray_jobs.keys import add_keys
from ray_jobs.pipeline import add_pipeline
from ray_jobs.probe import PROBE, add_probe
from ray_jobs.sets import add_sets

if TYPE_CHECKING:
    from emoji_ldm.config import Config

WORDS = "section.field=value"
COLOUR = re.compile(r"\x1b\[[0-9;]*m|↳")
OVERRIDE = re.compile(r"[A-Za-z_]+(\.[A-Za-z_]+)*=.*", re.DOTALL)

READS_TABLES = ("caption", "latents", "train", "report")
STAGES = {
    "crawl": (
        "walk listing pages with headless browsers, fetch and clean every image once",
        "emoji-ldm crawl crawl.site=https://example.org 'crawl.tags=[Blobs, Cat]'\n"
        "  emoji-ldm crawl --config my.yaml store=s3://bucket/emoji crawl.num_browsers=16\n"
        "  emoji-ldm crawl --config my.yaml --retry failed\n"
        "  emoji-ldm crawl probe https://example.org/emoji/Blobs -o blobs.yaml",
    ),
    "caption": (
        "describe every image that has no caption yet",
        "emoji-ldm caption\n"
        "  emoji-ldm caption caption.engine=qwen2.5-vl caption.model=Qwen/Qwen2.5-VL-7B-Instruct caption.gpus_per_worker=1",
    ),
    "latents": (
        "encode images and captions once into the tensors that training reads",
        "emoji-ldm latents\n  emoji-ldm latents latents.vae=stabilityai/sd-vae-ft-mse latents.gpus_per_worker=1",
    ),
    "train": (
        "train the diffusion model (or, with `autoencoder`, the RGBA autoencoder); resumes by itself",
        "emoji-ldm train autoencoder\n  emoji-ldm train train.zero_stage=2 train.num_workers=8 train.gpus_per_worker=1\n"
        "  emoji-ldm train --config dreambooth 'train.concepts=[{instance_prompt: a zwx dog, instance_folder: photos, "
        "class_prompt: a dog}]'\n"
        "  emoji-ldm train --export ./my-pipeline\n"
        "  emoji-ldm train --export ./raw --weights raw --checkpoint checkpoints/demo/unet/step-00000250-0a1b2c3d\n"
        "  emoji-ldm train --export ./my-pipeline --push me/my-emoji\n"
        "  emoji-ldm train --tag production\n"
        "  emoji-ldm train autoencoder --export ./my-vae",
    ),
    "generate": (
        "draw emoji from prompts: transparent PNGs, a table and a contact sheet",
        "emoji-ldm generate 'a happy blob' 'a green cat' generate.num_images=4\n"
        "  emoji-ldm generate generate.prompts_file=prompts.txt generate.seed=7 generate.guidance_scale=4",
    ),
    "serve": (
        "answer OpenAI's Images API and draw bulk sets with Ray Serve",
        "emoji-ldm serve serve.port=8000\n  emoji-ldm serve serve.checkpoint=./my-pipeline serve.max_replicas=8\n"
        "  emoji-ldm serve serve.checkpoint=tag:production serve.reload_s=60 'serve.models={sd: ./sd-pipeline}'",
    ),
    "report": (
        "write runs/<run>/report.html: data, captions, loss, generated emoji, versions",
        "emoji-ldm report run=demo",
    ),
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="emoji-ldm",
        description="Turn web pages of emoji into a versioned data set, a diffusion model and new emoji.",
        epilog="examples:\n  emoji-ldm demo\n  emoji-ldm doctor\n\n"
        "Every option is a config field: emoji-ldm <stage> --dry-run shows them all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"emoji-ldm {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, "demo", "run every stage on a small local emoji site, then write the report", "emoji-ldm demo")
    for name, (text, examples) in STAGES.items():
        _add_flags(name, _add(commands, name, text, examples))
    add_pipeline(commands, _add)
    add_probe(commands, _add)
    add_dataset(commands, _add)
    add_sets(commands)
    add_keys(commands, _add)
    _add(commands, "doctor", "say what this machine has and lacks, and the command that mends it",
         "emoji-ldm doctor\n  emoji-ldm doctor store=s3://bucket/emoji")  # fmt: skip
    _add_submit(commands)
    add_cluster(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _dispatch(arguments)
    except EmojiLdmError as error:
        sys.stderr.write(f"error: {' '.join(COLOUR.sub('', str(error)).split())}\n")  # libraries write paragraphs
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what was committed is safe: run the same command again to go on\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand anywhere, also after options, which argparse alone refuses."""
    top = parser()
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
        from ray_jobs.submit import submit

        return submit(arguments.stage, arguments.address, working_dir=arguments.working_dir)
    if arguments.command == "cluster":
        from emoji_ldm.cluster.command import run as cluster
        from ray_jobs.submit import follow, submit

        return cluster(arguments, submit, follow)
    if arguments.command == "sets":
        from emoji_ldm.serve.sets.command import run as sets

        return sets(arguments)
    config, words = _config(arguments)
    if arguments.command == "pipeline":
        from ray_jobs.pipeline import stages_of

        stages_of(words)  # a dry run tells of a wrong one too
    if arguments.dry_run:
        sys.stdout.write(config.to_yaml())
        return 0
    if arguments.command == "doctor":
        from ray_jobs.doctor import doctor

        return doctor(config)
    if arguments.command == PROBE:
        from ray_jobs.probe import run as probe

        return probe(arguments, config, words)
    if arguments.command == "dataset":
        from ray_jobs.verbs import run

        return run(arguments, config, words)
    if arguments.command == "keys":
        from ray_jobs.keys import run as keys

        return keys(arguments, config, words)
    if arguments.command == "pipeline":
        from ray_jobs.pipeline import run as pipeline

        pipeline(config, words)
        return 0
    if arguments.command == "train":
        from ray_jobs import export

        export.check(arguments)
        if arguments.export:
            return export.run(arguments, config, _stage("train", words))
        if arguments.tag:
            _reject(words, "train --tag")
            return export.tag(arguments, config)
    from ray_jobs.stages import demo, run_stage

    if arguments.command == "demo":
        _reject(words, arguments.command)
        demo(config)
    else:
        run_stage(_stage(arguments.command, words), config)
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


def _stage(command: str, words: list[str]) -> str:
    """`train autoencoder` is a stage of its own, with a job file of its own."""
    if command == "train" and words[:1] == ["autoencoder"]:
        _reject(words[1:], command)
        return "autoencoder"
    _reject(words, command)
    return command


def _reject(words: list[str], command: str) -> None:
    if words:
        raise ConfigError(f"{command} does not take {words[0]!r}; options are written as section.field=value")


def _add(commands: Any, name: str, text: str, examples: str, words: str = WORDS) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("-c", "--config", metavar="PRESET|FILE", help="preset name or YAML file to start from")
    command.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    command.set_defaults(flags=None)
    words = "[prompt ...] [section.field=value ...]" if name == "generate" else words
    command.add_argument("words", nargs="*", metavar=words, help="overrides such as train.lr=1e-4")
    return command


def _add_flags(stage: str, command: argparse.ArgumentParser) -> None:
    """Options that are short for an override of the same name."""
    if stage == "crawl":
        command.add_argument("--refresh", dest="flags", action="append_const", const="crawl.refresh=true",
                             help="walk all pages again, and fetch again what has changed since")  # fmt: skip
    if stage in ("crawl", "caption"):
        command.add_argument("--retry", dest="flags", action="append", metavar="failed",
                             type=lambda what: f"{stage}.retry={what}", help="do what failed once more")  # fmt: skip
    if stage == "train":
        add_export(command)
    if stage in READS_TABLES:
        command.add_argument("--at", dest="flags", action="append", metavar="TAG|TIME|TABLE@VERSION",
                             type=lambda at: f"as_of={at}", help="read the tables as they were then")  # fmt: skip


def _add_submit(commands: Any) -> None:
    command = commands.add_parser(
        "submit",
        help="run a command as a Ray job on a cluster and follow its log",
        description="Submit any emoji-ldm command as a Ray job and follow its log; Ctrl-C leaves the job running.",
        epilog="examples:\n  emoji-ldm submit --address http://127.0.0.1:8265 crawl --config my.yaml\n"
        "  emoji-ldm submit --address http://ray-head:8265 --working-dir . train train.num_workers=8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--address", required=True, help="address of the cluster's dashboard, http://host:8265")
    command.add_argument("--working-dir", help="folder to upload; by default the cluster's image holds the package")
    command.add_argument("stage", nargs=argparse.REMAINDER, help="the command and its arguments")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
