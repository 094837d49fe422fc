"""What each verb of `emoji-ldm sets` does. Returns exit statuses."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import format_duration, print_status, print_summary, track
from emoji_ldm.serve.bulk.set_client import EmojiSetClient, open_client
from emoji_ldm.serve.bulk.set_download import download_set

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_S = 1.0
RUNNING = ("queued", "in_progress")
FIELDS = ("n", "styles", "name", "seed", "steps", "guidance_scale", "scheduler", "negative_prompt", "size", "model",
          "lora", "quality", "output_format", "output_compression", "background")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Do the verb that was parsed."""
    url = arguments.url or os.environ.get("EMOJI_LDM_URL") or DEFAULT_URL
    with open_client(url, os.environ.get("EMOJI_LDM_API_KEY", "")) as client:
        return VERBS[arguments.verb](arguments, client)


def _create(arguments: argparse.Namespace, client: EmojiSetClient) -> int:
    wanted, upload = _wanted(arguments)
    made = client.create(wanted, upload, arguments.key)
    if not (arguments.wait or arguments.fetch):
        if arguments.json:
            return _print(made)
        print_status(f"{made['counts']['total']:,} images; follow them: emoji-ldm sets status {made['id']} --watch")
        sys.stdout.write(f"{made['id']}\n")
        return 0
    print_status(f"set {made['id']}")
    status = _watch(client, made["id"], arguments)
    return _fetched(client, made["id"], Path(arguments.fetch)) or status if arguments.fetch else status


def _wanted(arguments: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """The body of the request, and the JSONL to upload beside it."""
    values = {name: value for name in FIELDS if (value := getattr(arguments, name)) not in (None, [])}
    path = Path(arguments.file).expanduser() if arguments.file else None
    if path is not None and not path.is_file():
        raise ConfigError(f"there is no file {path}; give a text file with a prompt per line, or JSONL")
    if path is not None and path.suffix in (".jsonl", ".ndjson"):
        if arguments.prompts:
            raise ConfigError(f"prompts as words are refused beside {path.name}: its lines have prompts of their own")
        return values, path
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text ({error}); give a file with a prompt per line, or JSONL") from None
    prompts = [*arguments.prompts, *(line.strip() for line in lines if line.strip())]
    if not prompts:
        raise ConfigError("no prompts; name them (emoji-ldm sets create 'a happy blob') or give --file prompts.txt")
    return {**values, "prompts": prompts}, None


def _status(arguments: argparse.Namespace, client: EmojiSetClient) -> int:
    if arguments.watch:
        return _watch(client, arguments.id, arguments)
    now = client.status(arguments.id)
    return _print(now) if arguments.json else _summarise(now)


def _watch(client: EmojiSetClient, job_id: str, arguments: argparse.Namespace) -> int:
    """Show the progress until the end; 1 if pictures are missing then, 130 if its user stops watching."""
    now = client.status(job_id)
    try:
        with track("set", now["counts"]["total"], "images") as progress:
            progress.begin(_done(now))
            while now["status"] in RUNNING:
                time.sleep(POLL_S)
                now = client.status(job_id)
                rate, failed = now["images_per_s"] or 0.0, now["counts"]["failed"]
                notes = [f"{rate:.1f} images/s" if rate else now["status"], f"{failed} failed" if failed else ""]
                progress.advance(_done(now) - progress.done, ", ".join(filter(None, notes)), rate)
    except KeyboardInterrupt:
        print_status(f"\nthe set goes on; follow it again: emoji-ldm sets status {job_id} --watch")
        return 130
    if arguments.json:
        _print(now)
    else:
        _summarise(now)
    return 0 if now["counts"]["completed"] == now["counts"]["total"] else 1


def _fetch(arguments: argparse.Namespace, client: EmojiSetClient) -> int:
    return _fetched(client, arguments.id, Path(arguments.folder or arguments.id).expanduser())


def _fetched(client: EmojiSetClient, job_id: str, folder: Path) -> int:
    now = client.status(job_id)
    count = download_set(client, job_id, folder)
    print_status(f"{count:,} images, prompts.csv and sheet.png in {folder}")
    if now["status"] in RUNNING:
        print_status(
            f"{now['counts']['pending']:,} more are to come; fetch them later: emoji-ldm sets fetch {job_id} {folder}"
        )
    return 0


def _cancel(arguments: argparse.Namespace, client: EmojiSetClient) -> int:
    return _summarise(client.cancel(arguments.id))


def _delete(arguments: argparse.Namespace, client: EmojiSetClient) -> int:
    client.delete(arguments.id)
    print_status(f"deleted {arguments.id}")
    return 0


def _list(arguments: argparse.Namespace, client: EmojiSetClient) -> int:
    found = client.listing(arguments.limit)
    if arguments.json:
        return _print(found)
    for job in found:
        made = datetime.fromtimestamp(job["created_at"], UTC)
        counts = f"{_done(job):,}/{job['counts']['total']:,}"
        sys.stdout.write(f"{job['id']}  {made:%Y-%m-%d %H:%M}  {job['status']:<11}  {counts:>15}  {job['name']}\n")
    if not found:
        print_status("no sets")
    return 0


def _summarise(now: dict[str, Any]) -> int:
    counts = now["counts"]
    values: dict[str, object] = {"status": now["status"], "images": f"{_done(now):,} of {counts['total']:,}"}
    if counts["failed"]:
        values["failed"] = (
            f"{counts['failed']:,}, such as {now['errors'][0]['custom_id']}: {now['errors'][0]['reason']}"
        )
    if now["images_per_s"]:
        values["images/s"] = f"{now['images_per_s']:.1f}"
    if now["eta_s"] and now["status"] in RUNNING:
        values["ready in"] = format_duration(now["eta_s"])
    values["table"] = now["results"]["table"]
    print_summary(f"set {now['id']}", values, f"emoji-ldm sets fetch {now['id']}" if counts["completed"] else "")
    return 0


def _done(now: dict[str, Any]) -> int:
    return int(now["counts"]["completed"] + now["counts"]["failed"])


def _print(value: object) -> int:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, EmojiSetClient], int]] = {
    "create": _create, "status": _status, "fetch": _fetch, "cancel": _cancel, "list": _list, "delete": _delete,
}  # fmt: skip
