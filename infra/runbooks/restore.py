"""Restores the objects below a prefix of a versioned bucket to their state at a given time; see restore-store.md.

    python infra/runbooks/restore.py emoji-ldm store/tables/images/ 2026-03-01T08:00:00Z --dry-run

Nothing is lost: what is replaced or deleted becomes an old version itself and can be restored in the same way. Endpoint
and credentials, which need permission to read old versions (as the administrator of the store has), come from AWS_*.
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
    """A client of the store at AWS_ENDPOINT_URL, or of AWS if that is not set."""
    settings = Config(
        s3={"addressing_style": "path" if os.environ.get("AWS_ENDPOINT_URL") else "auto"},
        request_checksum_calculation="when_required",  # servers other than AWS refuse the newer default
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"), config=settings)


def restore(client: Any, bucket: str, prefix: str, moment: datetime, *, dry_run: bool) -> Iterator[str]:
    """Restore the objects unless `dry_run`; yields one line per object that differs, and a summary."""
    num_restored = num_deleted = 0
    for history in histories(client, bucket, prefix):
        key, now = history[0]["Key"], history[0]
        # Entries are sorted from new to old, so this is the state at the moment; none means that it did not exist.
        then = next((entry for entry in history if entry["LastModified"] <= moment), {"Marker": True})
        existed = "Marker" not in then
        if existed and (now.get("ETag"), now.get("Size")) != (then["ETag"], then["Size"]):
            num_restored += 1
            yield f"restored {key} as of {then['LastModified']:%Y-%m-%d %H:%M:%S}"
            if not dry_run:
                source = {"Bucket": bucket, "Key": key, "VersionId": then["VersionId"]}
                client.copy(source, bucket, key)
        elif not existed and "Marker" not in now:
            num_deleted += 1
            yield f"deleted  {key}: it did not exist"
            if not dry_run:
                client.delete_object(Bucket=bucket, Key=key)
    verb = "would be" if dry_run else "were"
    total = num_restored + num_deleted
    yield f"{total} objects below {prefix} differ: {num_restored} {verb} restored, {num_deleted} deleted"


def histories(client: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """Versions and delete markers (with `Marker`) of each key, newest first."""
    pending: list[dict[str, Any]] = []
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        pending += page.get("Versions", [])
        pending += ({**marker, "Marker": True} for marker in page.get("DeleteMarkers", []))
        pending.sort(key=lambda entry: (entry["Key"], not entry["IsLatest"], -entry["LastModified"].timestamp()))
        last = pending[-1]["Key"] if pending else ""  # the next page may contain more versions of this key
        groups = [list(group) for _, group in groupby(pending, key=lambda entry: entry["Key"])]
        pending = [entry for entry in pending if entry["Key"] == last]
        yield from groups[:-1]
    if pending:
        yield pending


def main() -> None:
    """Parse the command line and run it."""
    parser = argparse.ArgumentParser(description="Restore objects of a versioned bucket to an earlier state.")
    parser.add_argument("bucket")
    parser.add_argument("prefix", help="such as store/tables/images/")
    parser.add_argument("moment", type=datetime.fromisoformat, help="with a time zone: 2026-03-01T08:00:00Z")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    given = parser.parse_args()
    if given.moment.tzinfo is None:
        parser.error("the moment needs a time zone: write 2026-03-01T08:00:00Z or +01:00")
    for line in restore(connect(), given.bucket, given.prefix, given.moment, dry_run=given.dry_run):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
