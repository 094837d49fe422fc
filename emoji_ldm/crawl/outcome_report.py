"""What a crawl tells its user about URLs that ended without a picture: why, how many, and how to try them again.

A crawl of a thousand pages is not watched page by page. What went wrong must therefore show in its summary
(`crawl_warnings`), and be found afterwards (`format_outcomes`, the command `crawl outcomes`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.config import Config, CrawlConfig, build
from emoji_ldm.crawl.frontier import RETRYABLE_OUTCOMES
from emoji_ldm.crawl.page_types import STOPPED, following_page
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.outcomes import Outcome

# How a URL ends that gave what it was asked for.
GOOD_OUTCOMES = (Outcome.LISTED, Outcome.KEPT, Outcome.DUPLICATE, Outcome.UNCHANGED)
REFUSALS = (Outcome.ROBOTS, Outcome.ADDRESS)
NEARLY_ALL = 0.9  # share of image URLs that were refused, at which a run has failed
MAX_GROUPS, MAX_URLS, MAX_WARNINGS = 40, 200, 5
# A tag's last page is shorter than the others. More short pages mean that something is not read as it was.
MIN_PAGES_TO_COMPARE, COLLAPSED_SHARE = 4, 0.25


def format_outcomes(table: Table, config: Config, *, reason: str = "", host: str = "") -> str:
    """Return the URLs that ended without a picture, by reason, and the command that tries them again.

    Args:
        table: `outcomes`.
        config: The configuration of this command; names the store.
        reason: Only those whose outcome is this, or whose reason contains it; then each URL is a line.
        host: Only those of this host; then each URL is a line.

    Raises:
        ConfigError: Nothing was crawled yet, or nothing matches although there are such URLs.
    """
    if not table.exists:
        raise ConfigError(f"nothing was crawled into {table.store.uri} yet; start with: emoji-ldm crawl")
    rows = table.read(["url", "kind", "outcome", "reason"], filter=~pc.field("outcome").isin(list(GOOD_OUTCOMES)))
    problems = sorted(rows.to_pylist(), key=lambda row: str(row["url"]))
    if not problems:
        return "no URL ended without a picture\n"
    found = [row for row in problems if _matches(row, reason, host)]
    if not found:
        hosts = ", ".join(sorted({host_of(row["url"]) for row in problems})[:5])
        raise ConfigError(
            f"no outcome matches {' '.join(filter(None, (reason, host)))!r}; outcomes are "
            f"{', '.join(sorted({row['outcome'] for row in problems}))}, hosts {hosts}"
        )
    lines = list(_url_lines(found) if reason or host else _group_lines(found))
    num_retryable = sum(row["outcome"] in RETRYABLE_OUTCOMES for row in found)
    if num_retryable:
        lines += ["", f"{num_retryable} of {len(found)} may end otherwise next time; to try them again:"]
        lines += [f"  {retry_command(table, config)}"]
    return "\n".join(lines) + "\n"


def retry_command(table: Table, config: Config) -> str:
    """Return the command that requests failed URLs again, with the settings of the crawl that committed last."""
    stages = (entry for entry in table.history() if entry.get("stage") == "crawl" and entry.get("config"))
    former = next((build(_known_fields(entry["config"]), where="the last crawl") for entry in stages), config)
    words = [f"{name}={_plain(value)}" for name, value in _differences(former.crawl)]
    defaults = Config()
    words += [f"{name}={getattr(config, name)}" for name in ("store", "branch")
              if getattr(config, name) != getattr(defaults, name)]  # fmt: skip
    return shlex.join(["emoji-ldm", "crawl", "--retry", "failed", *words])


def crawl_warnings(
    outcomes: pa.Table, tiles: pa.Table, first_pages: Mapping[str, str], last_pages: Mapping[str, str]
) -> list[str]:
    """Return what a user must know about a crawl that ended without an error.

    Args:
        outcomes: Rows url, kind, outcome, reason of all URLs.
        tiles: Rows tag, page_url of all tiles.
        first_pages: {tag: URL of its first page}.
        last_pages: {tag: URL of the last page that `crawl.max_pages` allows}, if its pages have numbers.
    """
    pages = {row["url"]: row for row in outcomes.filter(pc.field("kind") == "page").to_pylist()}
    warnings = _empty_tags(pages, first_pages)
    if failed := [row for row in pages.values() if row["outcome"] == Outcome.FAILED]:
        warnings.append(f"{_pages(len(failed))} failed, for example {failed[0]['url']}: {failed[0]['reason']}")
    warnings += [*_collapsed_tags(tiles), *_cut_listings(pages, first_pages, last_pages)]
    forbidden = outcomes.filter(pc.field("outcome") == Outcome.ROBOTS.value)["reason"].to_pylist()
    if 2 * len(forbidden) > len(outcomes):
        (rule, count), *_ = Counter(forbidden).most_common(1)
        warnings.append(
            f"robots.txt forbids {len(forbidden)} of {len(outcomes)} URLs ({rule}: {count}); ask the site's owner, or "
            "crawl another site"
        )
    return warnings


def refusal_error(config: CrawlConfig, counts: Mapping[str, int], reasons: Mapping[str, int]) -> str:
    """Return why a run is a failure of which nearly all image URLs were refused; "" if it is none.

    Args:
        config: With `max_failed_fraction=1` no run is.
        counts: {outcome: image URLs} of this run.
        reasons: {reason: image URLs} of those that were refused.
    """
    refused, total = sum(counts.get(outcome, 0) for outcome in REFUSALS), sum(counts.values())
    if not refused or refused < NEARLY_ALL * total or config.max_failed_fraction >= 1:
        return ""
    named = "; ".join(f"{reason}: {count}" for reason, count in Counter(reasons).most_common(3))
    return (
        f"{refused} of {total} image URLs were refused ({named}); nothing was requested from them. If you may have "
        "these images, ask the site's owner, or allow private hosts with crawl.allow_private=[HOST], "
        "then crawl into a new store or with --refresh"
    )


def host_of(url: str) -> str:
    """Return the host of a URL without its port, "" if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _matches(row: Mapping[str, Any], reason: str, host: str) -> bool:
    by_reason = reason == row["outcome"] or reason.lower() in str(row["reason"]).lower()
    return by_reason and (not host or host_of(row["url"]) == host.lower())


def _url_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows[:MAX_URLS]:
        yield f"{row['outcome']:<17}  {row['url']}  {row['reason']}"
    if len(rows) > MAX_URLS:
        yield f"... and {len(rows) - MAX_URLS} more; all are in the table: emoji-ldm dataset show outcomes"


def _group_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each kind of end, the most frequent first, with one URL as an example."""
    groups = dict[tuple[str, str, str, str], list[Mapping[str, Any]]]()
    for row in rows:
        # Numbers tell URLs apart, not reasons: "612 bytes" and "613 bytes" are one reason.
        alike = re.sub(r"\d+", "#", str(row["reason"]).replace(str(row["url"]), ""))
        groups.setdefault((row["kind"], row["outcome"], host_of(row["url"]), alike), []).append(row)
    yield f"{'count':>6}  {'what':<5}  {'outcome':<17}  host, reason, and one of the URLs"
    ordered = sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    for (kind, outcome, host, _), members in ordered[:MAX_GROUPS]:
        yield f"{len(members):>6}  {kind:<5}  {outcome:<17}  {host}: {members[0]['reason']}"
        yield f"{'':>34}  {members[0]['url']}"
    if len(ordered) > MAX_GROUPS:
        yield f"... and {len(ordered) - MAX_GROUPS} more reasons; narrow it down with --reason or --host"


def _known_fields(config_json: str) -> dict[str, Any]:
    """Return the crawl section of a stored configuration, without fields that this version does not have."""
    stored = json.loads(config_json).get("crawl", {})
    return {"crawl": {name: value for name, value in stored.items() if name in CrawlConfig.model_fields}}


def _differences(crawl: CrawlConfig) -> Iterator[tuple[str, Any]]:
    """Yield (crawl.FIELD, value) of the fields that are not at their default; what to request again is left out."""
    default, values = CrawlConfig().model_dump(mode="json"), crawl.model_dump(mode="json")
    for name, value in values.items():
        if value != default[name] and name not in ("retry", "refresh"):
            yield f"crawl.{name}", value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _empty_tags(pages: Mapping[str, Mapping[str, Any]], first_pages: Mapping[str, str]) -> list[str]:
    found = [(tag, pages[url]) for tag, url in first_pages.items()
             if url in pages and pages[url]["outcome"] != Outcome.LISTED]  # fmt: skip
    lines = [f"tag {tag!r} gave nothing: {page['url']} is {page['outcome']} ({page['reason']})" for tag, page in found]
    more = len(lines) - MAX_WARNINGS
    return lines[:MAX_WARNINGS] + ([f"{more} more tags gave nothing"] if more > 0 else [])


def _cut_listings(
    pages: Mapping[str, Mapping[str, Any]], first_pages: Mapping[str, str], last_pages: Mapping[str, str]
) -> Iterator[str]:
    """Warn of listings that `crawl.max_pages`, or another limit, ended before they had shown all."""
    listed = {url: str(page["reason"]) for url, page in pages.items() if page["outcome"] == Outcome.LISTED}
    cut = {url for url, reason in listed.items() if following_page(reason) and following_page(reason) not in pages}
    cut |= {url for tag, url in last_pages.items() if url != first_pages[tag] and url in listed}
    cut |= {url for url, reason in listed.items() if STOPPED in reason}
    if cut:
        which = f"{min(cut)} is not the last page" if len(cut) == 1 else f"{len(cut)} pages are not the last ones"
        yield f"{which} of a listing, but a limit ended it there; a larger crawl.max_pages reads on"


def _collapsed_tags(tiles: pa.Table) -> list[str]:
    """Warn of tags of which several pages show far fewer tiles than the others."""
    by_tag = dict[str, dict[str, int]]()
    for row in tiles.group_by(["tag", "page_url"]).aggregate([([], "count_all")]).to_pylist():
        by_tag.setdefault(row["tag"], {})[row["page_url"]] = row["count_all"]
    lines = []
    for tag, counts in sorted(by_tag.items()):
        usual = median(counts.values())
        short = sorted((count, url) for url, count in counts.items() if count < COLLAPSED_SHARE * usual)
        if len(counts) >= MIN_PAGES_TO_COMPARE and len(short) > 1:
            lines.append(
                f"tag {tag!r}: {len(short)} of {_pages(len(counts))} show less than a quarter of the usual {usual:g} "
                f"tiles, for example {short[0][1]} ({short[0][0]}); look at it with `emoji-ldm crawl probe URL`"
            )
    return lines[:MAX_WARNINGS]


def _pages(count: int) -> str:
    return f"{count} page" if count == 1 else f"{count} pages"
