"""Give a bucket what this project needs: itself, versions of overwritten objects, and rules that bound what they cost.

Run as often as you like; endpoint and credentials of the store's administrator come from AWS_*.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
KEPT_DAYS = 14  # that long an overwritten or deleted object can be had back: infra/runbooks/restore-store.md
UPLOAD_DAYS = 7  # parts of an upload that a killed job left
LOG_DAYS = 30  # what components/logs writes
RULES = [
    {
        "ID": "unfinished-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS},
    },
    {
        "ID": "old-versions",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": KEPT_DAYS},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    },
    {
        "ID": "logs",
        "Status": "Enabled",
        "Filter": {"Prefix": "store/logs/"},
        "Expiration": {"Days": LOG_DAYS},
    },
]


def connect() -> Any:
    """A client of the store; one that is not up yet raises on use, and the Job tries again."""
    settings = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 5, "mode": "standard"},
        request_checksum_calculation="when_required",  # other servers than AWS refuse newer defaults
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=settings)


def set_up(client: Any, bucket: str) -> Iterator[str]:
    """What was done, one line each; only what differs is written."""
    try:
        client.create_bucket(Bucket=bucket)
        yield "made"
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            raise
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        yield "versions on"
    if _rules(client, bucket) != {_gist(rule) for rule in RULES}:
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": RULES})
        yield f"old versions kept for {KEPT_DAYS} days, unfinished uploads for {UPLOAD_DAYS}, logs for {LOG_DAYS}"


def _rules(client: Any, bucket: str) -> set[tuple[object, ...]]:
    try:
        return {_gist(rule) for rule in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
    return set()


def _gist(rule: dict[str, Any]) -> tuple[object, ...]:
    """What a rule says, without what servers add to it."""
    return (
        rule["ID"],
        rule.get("Filter", {}).get("Prefix", ""),
        rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"),
        rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation"),
        rule.get("Expiration", {}).get("Days"),
    )


if __name__ == "__main__":
    done = "; ".join(set_up(connect(), sys.argv[1])) or "all was there"
    sys.stdout.write(f"bucket {sys.argv[1]}: {done}\n")
