"""What each command of `emoji-ldm sets` does, given a client of the service. Returns exit statuses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import format_duration, print_status, print_summary, track
from emoji_ldm.serve.bulk.set_client import EmojiSetClient
from emoji_ldm.serve.bulk.set_download import download_set

# The service commits finished images about once a second, so asking more often would show nothing new.
POLL_S = 1.0
RUNNING = ("queued", "in_progress")


@dataclass(frozen=True)
class NewSet:
    """What `create` sends, and what it does afterwards."""

    prompts: Sequence[str]
    file: str  # prompts.txt or lines.jsonl; empty for none
    parameters: Mapping[str, Any]  # fields of the request that the images share
    key: str  # idempotency key; empty for none
    wait: bool
    fetch: str  # folder to write the images to; empty for none


def create(client: EmojiSetClient, new: NewSet, *, as_json: bool) -> int:
    """Create a set; with `wait` or `fetch`, follow it to its end.

    Raises:
        ConfigError: There are no prompts, or the service refuses the request.
        JobError: The service does not answer.
    """
    body, upload = _request(new)
    created = client.create(body, upload, new.key)
    if not (new.wait or new.fetch):
        if as_json:
            return _print(created)
        print_status(
            f"{created['counts']['total']:,} images; follow them: emoji-ldm sets status {created['id']} --watch"
        )
        sys.stdout.write(f"{created['id']}\n")
        return 0
    # Printed before the wait: whoever stops watching needs the id to come back.
    print_status(f"set {created['id']}")
    status = watch(client, created["id"], as_json=as_json)
    # Finished images are fetched even if others failed; the exit status still says that some are missing.
    return fetch(client, created["id"], new.fetch) or status if new.fetch else status


def _request(new: NewSet) -> tuple[dict[str, Any], Path | None]:
    """The body of the request, and the JSONL to upload beside it."""
    # Options that were not given are left out, so that the service's defaults hold.
    values = {name: value for name, value in new.parameters.items() if value not in (None, [])}
    path = Path(new.file).expanduser() if new.file else None
    if path is not None and not path.is_file():
        raise ConfigError(f"there is no file {path}; give a text file with a prompt per line, or JSONL")
    # JSONL is uploaded as it is, since its lines are validated by the service; text is read here, a prompt per line.
    if path is not None and path.suffix in (".jsonl", ".ndjson"):
        if new.prompts:
            raise ConfigError(f"prompts as words are refused beside {path.name}: its lines have prompts of their own")
        return values, path
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text ({error}); give a file with a prompt per line, or JSONL") from None
    prompts = [*new.prompts, *(line.strip() for line in lines if line.strip())]
    if not prompts:
        raise ConfigError("no prompts; name them (emoji-ldm sets create 'a happy blob') or give --file prompts.txt")
    return {**values, "prompts": prompts}, None


def status(client: EmojiSetClient, job_id: str, *, as_json: bool) -> int:
    """Print counts, rate and remaining time of a set."""
    now = client.status(job_id)
    return _print(now) if as_json else _summarize(now)


def watch(client: EmojiSetClient, job_id: str, *, as_json: bool) -> int:
    """Show the progress until the end; 1 if images are missing then, 130 if the user stops watching."""
    now = client.status(job_id)
    try:
        with track("set", now["counts"]["total"], "images") as progress:
            # Images from before this command are not part of its rate.
            progress.resume_at(_done(now))
            while now["status"] in RUNNING:
                time.sleep(POLL_S)
                now = client.status(job_id)
                rate, failed = now["images_per_s"] or 0.0, now["counts"]["failed"]
                notes = [f"{rate:.1f} images/s" if rate else now["status"], f"{failed} failed" if failed else ""]
                progress.advance(_done(now) - progress.done, ", ".join(filter(None, notes)), rate)
    except KeyboardInterrupt:
        # Ctrl-C ends only the watching; the set belongs to the service. `sets cancel` stops it.
        print_status(f"\nthe set goes on; follow it again: emoji-ldm sets status {job_id} --watch")
        return 130
    if as_json:
        _print(now)
    else:
        _summarize(now)
    return 0 if now["counts"]["completed"] == now["counts"]["total"] else 1


def fetch(client: EmojiSetClient, job_id: str, folder_name: str) -> int:
    """Write the finished images, prompts.csv and a contact sheet to a folder; an interrupted fetch continues."""
    folder = Path(folder_name or job_id).expanduser()
    now = client.status(job_id)
    count = download_set(client, job_id, folder)
    print_status(f"{count:,} images, prompts.csv and sheet.png in {folder}")
    if now["status"] in RUNNING:
        print_status(
            f"{now['counts']['pending']:,} more are to come; fetch them later: emoji-ldm sets fetch {job_id} {folder}"
        )
    return 0


def cancel(client: EmojiSetClient, job_id: str) -> int:
    """Stop a set; its finished images stay."""
    return _summarize(client.cancel(job_id))


def delete(client: EmojiSetClient, job_id: str) -> int:
    """Cancel a set and delete all its images."""
    client.delete(job_id)
    print_status(f"deleted {job_id}")
    return 0


def list_sets(client: EmojiSetClient, limit: int, *, as_json: bool) -> int:
    """Print the newest sets of the caller."""
    found = client.listing(limit)
    if as_json:
        return _print(found)
    for job in found:
        made = datetime.fromtimestamp(job["created_at"], UTC)
        counts = f"{_done(job):,}/{job['counts']['total']:,}"
        sys.stdout.write(f"{job['id']}  {made:%Y-%m-%d %H:%M}  {job['status']:<11}  {counts:>15}  {job['name']}\n")
    if not found:
        print_status("no sets")
    return 0


def _summarize(now: dict[str, Any]) -> int:
    counts = now["counts"]
    values: dict[str, object] = {"status": now["status"], "images": f"{_done(now):,} of {counts['total']:,}"}
    if counts["failed"]:
        # One example says more than a count: most failures of a set have the same reason.
        values["failed"] = (
            f"{counts['failed']:,}, such as {now['errors'][0]['custom_id']}: {now['errors'][0]['reason']}"
        )
    if now["images_per_s"]:
        values["images/s"] = f"{now['images_per_s']:.1f}"
    if now["eta_s"] and now["status"] in RUNNING:
        values["ready in"] = format_duration(now["eta_s"])
    print_summary(f"set {now['id']}", values, f"emoji-ldm sets fetch {now['id']}" if counts["completed"] else "")
    return 0


def _done(now: dict[str, Any]) -> int:
    return int(now["counts"]["completed"] + now["counts"]["failed"])


def _print(value: object) -> int:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    return 0
