"""OpenAPI schemas of `/v1/datasets`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from emoji_ldm.serve.datasets.caption_overrides import MAX_CAPTION
from emoji_ldm.serve.datasets.dataset_changes import ChangeKind
from emoji_ldm.serve.openapi_models import ApiModel


class DatasetVersion(ApiModel):
    """A version of the data set."""

    id: str
    """What `{version}` of the other routes takes."""
    kind: Literal["line", "tag", "commit"]
    """A line (main, or a branch) has new commits; the others never change."""
    message: str
    """What the tag says; of a commit, its stage and who made it."""
    created_at: int
    """Unix time; 0 for main."""


class DatasetVersionList(ApiModel):
    """Lines, tags, and the last commits of images and captions."""

    object: Literal["list"] = "list"
    data: list[DatasetVersion]


class TableCard(ApiModel):
    """A table of a version."""

    version: int
    """-1 if the table did not exist yet."""
    rows: int


class DatasetCard(ApiModel):
    """A version and what is in it."""

    id: str
    """The version with those of all tables: the same state whenever it is asked for."""
    tables: dict[str, TableCard]
    outcomes: dict[str, dict[str, int]]
    """URLs by kind (page, image) and outcome."""
    captions: dict[str, dict[str, int]]
    """Captions by engine (`human` for people) and status."""


class CaptionCard(ApiModel):
    """A caption of an image."""

    id: str
    caption: str
    engine: str
    number: int
    status: str
    """`ok` or `failed`."""
    reason: str
    """Why it failed."""
    attributes: dict[str, str]
    """Those of the seven attributes that the caption states."""
    used: bool
    """Whether trainings and exports use it; if a person wrote one, only that is used."""


class DuplicateUrl(ApiModel):
    """A URL whose image was dropped because it equals this one."""

    url: str
    reason: str


class DatasetImage(ApiModel):
    """An image with everything that is known of it."""

    id: str
    title: str
    tags: list[str]
    license: str | None
    """The tag `license:NAME`; null if the source named none."""
    width: int
    height: int
    has_alpha: bool
    num_frames: int
    source_url: str
    page_url: str
    source_format: str
    fetched_at: int | None
    """Unix time."""
    captions: list[CaptionCard]
    """The used ones first, in the order in which trainings use them."""
    revision: str
    """What a correction of the caption has to name."""
    num_duplicates: int
    duplicates: list[DuplicateUrl]
    """The first 20 of them."""


class DatasetPage(ApiModel):
    """What the pages of a version have in common."""

    object: Literal["list"] = "list"
    version: str
    """Ask for the next page of this version, so that no commit shifts the pages."""
    has_more: bool
    next: str | None
    """`after` of the next page; a page of a search may hold fewer rows than were asked for, and still have one."""


class DatasetImageList(DatasetPage):
    """A page of images."""

    data: list[DatasetImage]


class UrlOutcome(ApiModel):
    """A URL and what became of it."""

    url: str
    kind: str
    """`page` or `image`."""
    outcome: str
    reason: str
    image_id: str | None
    """The image that was kept, or that this one is a duplicate of."""
    http_status: int | None
    finished_at: int | None
    """Unix time."""


class UrlOutcomeList(DatasetPage):
    """A page of outcomes."""

    data: list[UrlOutcome]


class TableChange(ApiModel):
    """How many rows of a table differ."""

    table: str
    rows: dict[str, int]
    """`from` and `to`."""
    added: int
    removed: int
    changed: int
    fields: dict[str, int]
    """In how many rows each field differs."""


class ImageChange(ApiModel):
    """An image that differs between two versions."""

    id: str
    change: ChangeKind
    """`captions`: the image is the same, its captions are not."""
    fields: list[str]
    """Which fields of a changed image differ."""
    before: DatasetImage | None
    after: DatasetImage | None


class DatasetChangeList(ApiModel):
    """A page of the images that differ, by kind and id."""

    object: Literal["list"] = "list"
    before: str
    after: str
    tables: list[TableChange]
    kinds: dict[ChangeKind, int]
    """How many images there are of each kind."""
    data: list[ImageChange]
    has_more: bool
    next: str | None
    """`after` of the next page."""


class CorrectedImage(ApiModel):
    """An image after a correction."""

    version: str
    """The version that the correction made."""
    image: DatasetImage


class CaptionCorrection(BaseModel):
    """The body of `PUT /v1/datasets/{version}/images/{image_id}/caption`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    caption: str = Field(max_length=MAX_CAPTION)
    """The new text; an empty one takes back what people wrote, so that the engines' captions are used again."""
    revision: str = Field(max_length=64)
    """`revision` of the image as you have seen it; if its captions were changed since, nothing is written (409)."""
