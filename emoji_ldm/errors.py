"""The exceptions a user can meet, each one message: what is wrong, where, what to do.

    EmojiLdmError            anything the CLI prints as one line, without a stack trace
    ├── ConfigError          an option, preset or override is wrong            (exit code 2)
    ├── StoreError           the store cannot be reached, read or written
    ├── DatasetError         a table or version is missing or of another shape
    ├── CrawlError           the browser or the site cannot be used
    ├── ModelError           weights or a checkpoint are missing or of another kind
    │   └── UntrainedError   there is no checkpoint yet
    ├── JobError             a job could not be placed, or failed above its allowed rate
    └── ClusterError         a Kubernetes cluster cannot be reached, lacks something or refuses what it is told

A bad image or URL is not an exception: it is a row with a status and a reason.
"""

from __future__ import annotations


class EmojiLdmError(Exception):
    """A problem that its user can mend; the text says how."""

    exit_code = 1
    everywhere = False  # whether every rank of a group raises it, so that none waits for another


class ConfigError(EmojiLdmError):
    """A configuration field, preset or override is wrong."""

    exit_code = 2


class StoreError(EmojiLdmError):
    """The store cannot be reached, read or written."""


class DatasetError(EmojiLdmError):
    """A table or version is missing, or has another schema than expected."""


class CrawlError(EmojiLdmError):
    """The browser or the site to crawl cannot be used."""


class ModelError(EmojiLdmError):
    """Weights or a checkpoint are missing or of another kind than the job needs."""


class UntrainedError(ModelError):
    """There is no checkpoint yet; a service waits for it."""


class JobError(EmojiLdmError):
    """A job cannot be placed on the cluster, or failed above its allowed rate."""


class ClusterError(EmojiLdmError):
    """A Kubernetes cluster cannot be reached, lacks something or refuses what it is told."""
