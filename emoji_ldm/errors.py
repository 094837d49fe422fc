"""The tree of exceptions that users see; each message says what is wrong, where, and what to do.

    EmojiLdmError            printed by the CLI as one line, without a stack trace
    ├── ConfigError          an option, preset or override is wrong            (exit code 2)
    ├── StoreError           the store cannot be reached, read or written
    ├── DatasetError         a table or version is missing, or has another schema
    │   └── MissingInputError    the stage before this one has not run yet
    ├── CrawlError           the browser or the site to crawl cannot be used
    ├── ModelError           weights or a checkpoint are missing, or of the wrong kind
    │   └── UntrainedError   there is no checkpoint yet
    ├── PackError            a picture or a pack breaks a rule of its target
    ├── GateError            a model's figures are worse than a gate allows    (exit code 3)
    ├── JobError             a job could not be placed, or failed above its allowed rate
    ├── BulkJobError         a bulk job or an upload of the HTTP service cannot be used
    │   ├── JobNotFoundError     there is no such job, or it belongs to another owner
    │   ├── UploadNotFoundError  there is no such uploaded file, or it belongs to another owner
    │   └── EmptyUploadError     the uploaded file has no bytes
    └── ClusterError         a Kubernetes cluster cannot be reached, lacks a component, or rejects a request

A bad image or URL is not an exception: its row records a status and a reason.
"""

from __future__ import annotations


class EmojiLdmError(Exception):
    """A problem that the user can fix; the message says how."""

    # The CLI exits with this code, so that a script can tell a wrong option (2) from work that failed (1).
    exit_code = 1
    # Whether the same command may succeed on another machine or later. A RayJob is tried again only for such errors.
    may_pass = True
    # True if every rank of a worker group raises the error by itself. Otherwise the failing rank has to tell the
    # others, which would wait for it in their next collective operation.
    raised_on_all_ranks = False


class ConfigError(EmojiLdmError):
    """A configuration field, preset or override is wrong."""

    exit_code = 2
    may_pass = False


class StoreError(EmojiLdmError):
    """The store cannot be reached, read or written."""


class DatasetError(EmojiLdmError):
    """A table or version is missing, or has another schema than expected."""


class MissingInputError(DatasetError):
    """A stage has nothing to work on, because the one before it has not run."""

    may_pass = False


class CrawlError(EmojiLdmError):
    """The browser or the site to crawl cannot be used."""


class ModelError(EmojiLdmError):
    """Weights or a checkpoint are missing, or of another kind than the job needs."""


class UntrainedError(ModelError):
    """The run has no checkpoint yet; a service waits for one."""

    may_pass = False


class PackError(EmojiLdmError):
    """A picture or an emoji pack breaks a rule of the target that it is made for."""

    may_pass = False


class GateError(EmojiLdmError):
    """A figure of a model is worse than a gate of `evaluate.fail_if` allows."""

    # A script that releases models tells a bad model (3) from an evaluation that failed (1).
    exit_code = 3
    may_pass = False


class JobError(EmojiLdmError):
    """A job cannot be placed on the cluster, or failed above its allowed rate."""


class BulkJobError(EmojiLdmError):
    """A bulk job or an upload cannot be used; the HTTP layer maps each kind to a status code."""


class JobNotFoundError(BulkJobError):
    """There is no bulk job with this id, or it belongs to another owner."""


class UploadNotFoundError(BulkJobError):
    """There is no uploaded file with this id, or it belongs to another owner."""


class EmptyUploadError(BulkJobError):
    """The uploaded file has no bytes."""


class ClusterError(EmojiLdmError):
    """A Kubernetes cluster cannot be reached, lacks a component, or rejects a request."""
