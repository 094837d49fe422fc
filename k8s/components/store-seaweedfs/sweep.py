"""Carry out a bucket's lifecycle rules on a server that keeps them but has nobody to follow them.

Three kinds of rule are known, those of store-setup: objects below a prefix that are some days old go (and stay as old
versions), versions that were replaced or deleted some days ago, and parts of uploads that were begun some days ago.
Endpoint and credentials of the store's administrator come from AWS_*.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice, pairwise
from typing import Any

import boto3
from botocore.config import Config

BATCH = 1000  # objects that one request may delete


def connect() -> Any:
    """A client of the store."""
    settings = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 5, "mode": "standard"},
        request_checksum_calculation="when_required",  # other servers than AWS refuse newer defaults
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=settings)


def sweep(client: Any, bucket: str, now: datetime) -> dict[str, int]:
    """How many went of each: "old objects", "old versions" (delete markers included), "unfinished uploads"."""
    gone = {"old objects": 0, "old versions": 0, "unfinished uploads": 0}
    for rule in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]:
        if rule["Status"] != "Enabled":
            continue
        if days := rule.get("Expiration", {}).get("Days"):
            gone["old objects"] += _objects(client, bucket, rule["Filter"]["Prefix"], now - timedelta(days))
        if days := rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"):
            gone["old versions"] += _versions(client, bucket, now - timedelta(days))
        if days := rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation"):
            gone["unfinished uploads"] += _uploads(client, bucket, now - timedelta(days))
    return gone


def _objects(client: Any, bucket: str, prefix: str, before: datetime) -> int:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    old = ({"Key": one["Key"]} for page in pages for one in page.get("Contents", []) if one["LastModified"] < before)
    return _delete(client, bucket, old)


def _versions(client: Any, bucket: str, before: datetime) -> int:
    doomed = (entry for history in histories(client, bucket) for entry in expired(history, before))
    return _delete(client, bucket, ({"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in doomed))


def _delete(client: Any, bucket: str, names: Iterator[dict[str, str]]) -> int:
    gone = 0
    while batch := list(islice(names, BATCH)):
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        if answer.get("Errors"):
            raise RuntimeError(f"{len(answer['Errors'])} objects stay, the first: {answer['Errors'][0]}")
        gone += len(batch)
    return gone


def histories(client: Any, bucket: str) -> Iterator[list[dict[str, Any]]]:
    """Versions and delete markers (with `Marker`) of each key, the newest first."""
    held: list[dict[str, Any]] = []
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        held += page.get("Versions", [])
        held += ({**marker, "Marker": True} for marker in page.get("DeleteMarkers", []))
        held.sort(key=lambda entry: (entry["Key"], not entry["IsLatest"], -entry["LastModified"].timestamp()))
        last = held[-1]["Key"] if held else ""  # the next page may go on with it
        groups = [list(group) for _, group in groupby(held, key=lambda entry: entry["Key"])]
        held = [entry for entry in held if entry["Key"] == last]
        yield from groups[:-1]
    if held:
        yield held


def expired(entries: list[dict[str, Any]], before: datetime) -> list[dict[str, Any]]:
    """Of one key's entries, newest first: those whose successor came before `before`, and a marker left alone."""
    old = [entry for newer, entry in pairwise(entries) if newer["LastModified"] < before]
    alone = entries[0].get("Marker") and len(old) == len(entries) - 1 and entries[0]["LastModified"] < before
    return [*old, entries[0]] if alone else old


def _uploads(client: Any, bucket: str, before: datetime) -> int:
    gone = 0
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            if upload["Initiated"] < before:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                gone += 1
    return gone


if __name__ == "__main__":
    counts = sweep(connect(), sys.argv[1], datetime.now(UTC))
    sys.stdout.write(
        f"bucket {sys.argv[1]}: {', '.join(f'{count} {what}' for what, count in counts.items())} are gone\n"
    )
