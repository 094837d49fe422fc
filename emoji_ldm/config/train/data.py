"""Training fields for the data: which images are drawn how often, and from which data sets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from emoji_ldm.config.base import Section, as_text


class DataSource(Section):
    """A further data set to train on, encoded by the same models."""

    store: str | None = None
    """URI of its store; null: the store of the run."""
    as_of: str | None = None
    """Tag, branch, time or version of its images and captions; null: the newest."""
    weight: Annotated[float, Field(gt=0)] = 1
    """How many samples come from it for each one of the run's own data set."""

    _text = field_validator("as_of", mode="before")(as_text)


class DataFields(Section):
    """What a training draws its samples from."""

    mix: tuple[DataSource, ...] = ()
    """Further data sets, such as `[{store: s3://bucket/other, as_of: v1, weight: 0.5}]`."""
    sample_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """How often images are drawn by their tags, such as `{Cat: 2}`; the factors of several tags multiply, 0 drops."""
