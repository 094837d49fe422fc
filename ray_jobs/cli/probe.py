"""The command `emoji-ldm crawl probe`: what a crawl would find on one page. Needs no Ray; light until it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError

if TYPE_CHECKING:
    from emoji_ldm.config import Config

PROBE = "crawl probe"
PROBE_HELP = "look at one page as the crawl would: tiles, selectors, page numbers, robots.txt; and propose a profile"
PROBE_EXAMPLES = (
    "emoji-ldm crawl probe 'https://example.org/emoji/Blobs?page=2' --tag Blobs -o blobs.yaml\n"
    "  emoji-ldm crawl probe https://example.org/emoji/Blobs crawl.source=html\n"
    "  emoji-ldm crawl probe https://example.org/emoji/Blobs crawl.profile=discord-emoji"
)


def add_probe(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Put the command beside the others; `add` makes a command with the options that all have."""
    command = add(commands, PROBE, PROBE_HELP, PROBE_EXAMPLES, "URL [section.field=value ...]")
    command.add_argument("--tag", default="", help="the part of the address that is the tag; guessed by default")
    command.add_argument("-o", "--output", default="", metavar="FILE.yaml", help="write the profile here")


def run(arguments: argparse.Namespace, config: Config, words: list[str]) -> int:
    """Print the report; ConfigError or CrawlError as from `emoji_ldm.crawl.probe.probe`."""
    from emoji_ldm.crawl.probe import probe

    if len(words) != 1:
        raise ConfigError(f"{PROBE} takes one address: emoji-ldm {PROBE} https://example.org/emoji/Blobs")
    sys.stdout.write(probe(config.crawl, words[0], tag=arguments.tag, output=arguments.output))
    return 0
