"""Parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from emoji_ldm import __version__
from emoji_ldm.kubernetes.command import add_cluster
from ray_jobs.cli.dataset_options import add_dataset
from ray_jobs.cli.export import add_export
from ray_jobs.cli.keys import add_keys
from ray_jobs.cli.probe import add_probe
from ray_jobs.cli.sets import add_sets

WORDS = "section.field=value"


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


def build_parser() -> argparse.ArgumentParser:
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


PIPELINE_HELP = "run all stages, or those named, one after the other; what is done already is not done again"


PIPELINE_EXAMPLES = (
    "emoji-ldm pipeline --config my.yaml\n"
    "  emoji-ldm pipeline crawl caption latents --config my.yaml crawl.refresh=true\n"
    "  emoji-ldm pipeline train generate report train.steps=20000 store=s3://bucket/emoji"
)


def add_pipeline(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Put the command beside the others; `add` makes a command with the options that all have."""
    add(commands, "pipeline", PIPELINE_HELP, PIPELINE_EXAMPLES, "[stage ...] [section.field=value ...]")
