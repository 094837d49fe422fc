"""The commands around a crawl: `crawl probe` reads one page beforehand, `crawl outcomes` says what failed, and why."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import AS_OF, configured

if TYPE_CHECKING:
    from emoji_ldm.config import Config

# Two words, see `main.CommandLine`: `crawl` takes words of its own, so it cannot be a group.
PROBE, OUTCOMES = TWO_WORDS = ("crawl probe", "crawl outcomes")


def add_commands(app: typer.Typer) -> None:
    """Add both to the commands."""
    configured(
        app,
        PROBE,
        words="URL",
        examples=[
            "emoji-ldm crawl probe 'https://example.org/emoji/Blobs?page=2' --tag Blobs -o blobs.yaml",
            "emoji-ldm crawl probe https://example.org/emoji/Blobs crawl.source=html",
            "emoji-ldm crawl probe https://example.org/emoji/Blobs crawl.profile=discord-emoji",
            "emoji-ldm crawl probe https://example.org/emoji/Blobs -o blobs.yaml --sheet blobs.html",
        ],
    )(probe)
    configured(
        app,
        OUTCOMES,
        shortcuts=[AS_OF],
        examples=[
            "emoji-ldm crawl outcomes",
            "emoji-ldm crawl outcomes --reason http-error --host cdn.example.org",
            "emoji-ldm crawl outcomes --reason 'HTTP 403' store=s3://bucket/emoji",
        ],
    )(outcomes)


def probe(
    config: "Config",
    words: list[str],
    tag: Annotated[str, typer.Option(help="The part of the address that is the tag; guessed by default.")] = "",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.yaml", help="Write the proposed profile here.")
    ] = "",
    sheet: Annotated[
        str, typer.Option(metavar="FILE.html", help="Write a contact sheet of all groups of pictures here.")
    ] = "",
    accept: Annotated[bool, typer.Option("--accept", help="Succeed also if suspiciously little was found.")] = False,
) -> None:
    """Read a page as the crawl would, and one step beyond it; show what is found and propose a profile."""
    if len(words) != 1:
        raise ConfigError(f"{PROBE} takes one address: emoji-ldm {PROBE} https://example.org/emoji/Blobs")
    # Before the imports: a browser and the page take their time.
    sys.stderr.write(f"{PROBE}: opening {words[0]}\n")
    from emoji_ldm.crawl.probe import probe as probe_page
    from emoji_ldm.errors import CrawlError

    found = probe_page(config.crawl, words[0], tag=tag, output=output, sheet=sheet)
    sys.stdout.write(found.report)
    if found.doubts and not accept:
        raise CrawlError(f"{'; '.join(found.doubts)}; look at the page with --sheet FILE.html, or --accept this")


def outcomes(
    config: "Config",
    words: list[str],
    reason: Annotated[
        str, typer.Option(help="Only this outcome, or reasons with this text; then each URL is listed.")
    ] = "",
    host: Annotated[str, typer.Option(help="Only URLs of this host; then each URL is listed.")] = "",
) -> None:
    """List pages and images that failed or were empty, why, and the command that tries them again."""
    from emoji_ldm.crawl.outcome_report import format_outcomes
    from emoji_ldm.dataset.versions.refs import open_tables
    from emoji_ldm.schemas import OUTCOMES as TABLE
    from emoji_ldm.store import Store

    (table,) = open_tables(Store(config.store, config.branch), config.as_of, TABLE).values()
    sys.stdout.write(format_outcomes(table, config, reason=reason, host=host))
