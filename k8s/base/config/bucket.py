"""Make a bucket unless it is there; run as often as you like. Endpoint and credentials come from AWS_*."""

from __future__ import annotations

import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def make(bucket: str) -> str:
    """Make the bucket; returns what happened. A store that is not up yet raises, and the Job tries again."""
    settings = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 5, "mode": "standard"})
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=settings)
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            raise
        return "was there"
    return "made"


if __name__ == "__main__":
    sys.stdout.write(f"bucket {sys.argv[1]}: {make(sys.argv[1])}\n")
