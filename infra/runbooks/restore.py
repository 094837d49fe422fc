"""Bring the objects below a prefix of a versioned bucket back to what they were at a moment; see restore-store.md.

    python infra/runbooks/restore.py emoji-ldm store/tables/images/ 2026-03-01T08:00:00Z --dry-run

Nothing is lost by it: what is replaced or deleted becomes an old version itself, and can be had back the same way.
Endpoint and credentials (of who may read old versions: the store's administrator) come from AWS_*.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

import boto3
from botocore.config import Config


def connect() -> Any:
    """A client of the store; without AWS_ENDPOINT_URL it is AWS's."""
    settings = Config(
        s3={"addressing_style": "path" if os.environ.get("AWS_ENDPOINT_URL") else "auto"},
        request_checksum_calculation="when_required",  # other servers than AWS refuse newer defaults
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"), config=settings)


def restore(client: Any, bucket: str, prefix: str, moment: datetime, *, dry_run: bool) -> Iterator[str]:
    """One line per object that differs from what it was, and a summary; changes them unless `dry_run`."""
    back = gone = 0
    for history in histories(client, bucket, prefix):
        key, now = history[0]["Key"], history[0]
        then = next((entry for entry in history if entry["LastModified"] <= moment), {"Marker": True})
        was_there = "Marker" not in then
        if was_there and (now.get("ETag"), now.get("Size")) != (then["ETag"], then["Size"]):
            back += 1
            yield f"back     {key} as of {then['LastModified']:%Y-%m-%d %H:%M:%S}"
            if not dry_run:
                source = {"Bucket": bucket, "Key": key, "VersionId": then["VersionId"]}
                client.copy(source, bucket, key)
        elif not was_there and "Marker" not in now:
            gone += 1
            yield f"deleted  {key}: it was not there"
            if not dry_run:
                client.delete_object(Bucket=bucket, Key=key)
    did = "would be" if dry_run else "were"
    yield f"{back + gone} objects below {prefix} differ from what they were: {back} {did} brought back, {gone} deleted"


def histories(client: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """Versions and delete markers (with `Marker`) of each key, the newest first."""
    held: list[dict[str, Any]] = []
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        held += page.get("Versions", [])
        held += ({**marker, "Marker": True} for marker in page.get("DeleteMarkers", []))
        held.sort(key=lambda entry: (entry["Key"], not entry["IsLatest"], -entry["LastModified"].timestamp()))
        last = held[-1]["Key"] if held else ""  # the next page may go on with it
        groups = [list(group) for _, group in groupby(held, key=lambda entry: entry["Key"])]
        held = [entry for entry in held if entry["Key"] == last]
        yield from groups[:-1]
    if held:
        yield held


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Bring objects of a versioned bucket back to what they were.")
    parser.add_argument("bucket")
    parser.add_argument("prefix", help="such as store/tables/images/")
    parser.add_argument("moment", type=datetime.fromisoformat, help="with its zone: 2026-03-01T08:00:00Z")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    given = parser.parse_args()
    if given.moment.tzinfo is None:
        parser.error("the moment needs a zone: write 2026-03-01T08:00:00Z or +01:00")
    for line in restore(connect(), given.bucket, given.prefix, given.moment, dry_run=given.dry_run):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
