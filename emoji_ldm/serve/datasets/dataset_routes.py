"""The routes `/v1/datasets`: look at versions of the data set, compare them, and correct captions.

A data set may hold what its crawl was allowed to read and others may not, so a key needs the scope `data` for all of
them, which no key has unless it was given. Without keys only a service that this machine alone reaches answers them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from emoji_ldm.config import Config
from emoji_ldm.serve.auth import DATASETS_PREFIX
from emoji_ldm.serve.bulk.api.responses import PageLimit
from emoji_ldm.serve.caller import owner_of
from emoji_ldm.serve.datasets import dataset_models, dataset_pages
from emoji_ldm.serve.datasets.caption_overrides import CaptionOverrides
from emoji_ldm.serve.datasets.dataset_changes import ChangeKind, DatasetComparisons
from emoji_ldm.serve.datasets.dataset_points import DatasetPoints
from emoji_ldm.serve.datasets.image_search import CaptionState, ImageFilter
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.openapi_models import REFUSALS, body_schema
from emoji_ldm.serve.request_body import parse_json, read_body
from emoji_ldm.serve.small_pictures import picture_response
from emoji_ldm.store import Store

Answer = TypeVar("Answer")
# Two pages at once, each of which holds some row groups. A comparison takes seconds, and does not hold them up.
PAGES = ThreadPoolExecutor(2, "datasets")
COMPARISONS = ThreadPoolExecutor(1, "comparisons")
MAX_BODY_BYTES = 16 * 1024
MAX_THUMBNAIL_PX = 512
PREFIX = f"{DATASETS_PREFIX}/{{version}}"

Text = Annotated[str, Query(max_length=200)]
Side = Annotated[int, Query(ge=16, le=MAX_THUMBNAIL_PX)]
Refusals = dict[int | str, dict[str, Any]]
PNG: Refusals = {200: {"description": "The picture", "content": {"image/png": {}}}}
CONFLICT: Refusals = {409: {**REFUSALS[400], "description": "Others have changed the image's captions meanwhile"}}


def refusals(*statuses: int) -> Refusals:
    """Return the descriptions of refusals of these routes."""
    texts = {403: "The key lacks the scope `data`", 404: "There is no such version, or no such image",
             503: "The store cannot be reached"}  # fmt: skip
    return {status: {**REFUSALS[status], **({"description": texts[status]} if status in texts else {})}
            for status in (401, 403, 503, *statuses)}  # fmt: skip


def dataset_routes(config: Config) -> APIRouter:
    """Build the routes over the store of a configuration."""
    router, points = APIRouter(tags=["datasets"]), DatasetPoints(Store(config.store))
    comparisons, overrides = DatasetComparisons(), CaptionOverrides(points, config)

    @router.get(DATASETS_PREFIX, response_model=dataset_models.DatasetVersionList, responses=refusals())
    async def versions() -> dict[str, Any]:
        """Lines, tags, and the last commits of images and captions; each is a version for the other routes."""
        return {"data": await _in(PAGES, points.listing)}

    @router.get(PREFIX, response_model=dataset_models.DatasetCard, responses=refusals(404))
    async def version_card(version: str) -> dict[str, Any]:
        """What is in a version: `main`, a branch, a tag, a time, or TABLE@VERSION[,...]."""

        def read() -> dict[str, Any]:
            point = points.open(version)
            return {"id": point.id, **point.counts}

        return await _in(PAGES, read)

    @router.get(f"{PREFIX}/images", response_model=dataset_models.DatasetImageList, responses=refusals(400, 404))
    async def images(
        version: str, search: Text = "", tag: Text = "", captions: CaptionState = "any", after: Text = "",
        limit: PageLimit = 20,
    ) -> dict[str, Any]:  # fmt: skip
        """A page of images with captions, attributes and duplicates; `search` looks at titles, tags and captions."""
        chosen = ImageFilter(search, tag, captions)
        return await _in(PAGES, lambda: dataset_pages.image_page(points.open(version), chosen, after, limit))

    @router.get(f"{PREFIX}/images/{{image_id}}", response_model=dataset_models.DatasetImage, responses=refusals(404))
    async def image(version: str, image_id: str) -> dict[str, Any]:
        """One image."""
        return await _in(PAGES, lambda: dataset_pages.find_image(points.open(version), image_id))

    @router.get(f"{PREFIX}/images/{{image_id}}/thumbnail", response_class=Response, response_model=None,
                responses={**PNG, **refusals(404)})  # fmt: skip
    async def image_thumbnail(request: Request, version: str, image_id: str, size: Side = 128) -> Response:
        """The image as PNG, at most `size` pixels wide and high."""
        png = await _in(PAGES, lambda: dataset_pages.thumbnail(points.open(version), image_id, size))
        seen = request.headers.get("if-none-match", "")
        return picture_response(png, hashlib.sha256(png).hexdigest()[:20], seen=seen)

    @router.put(f"{PREFIX}/images/{{image_id}}/caption", response_model=dataset_models.CorrectedImage,
                openapi_extra={"requestBody": {"content": {"application/json": {
                    "schema": body_schema(dataset_models.CaptionCorrection)}}, "required": True}},
                responses={**refusals(400, 404, 413), **CONFLICT})  # fmt: skip
    async def correct(request: Request, version: str, image_id: str) -> dict[str, Any]:
        """Correct a caption of a line: a new version of its captions, in which a person's text replaces all others."""
        asked = _parse(parse_json(await read_body(request, MAX_BODY_BYTES)))
        text, author = " ".join(asked.caption.split()), owner_of(request)
        point, changed = await _in(PAGES, lambda: overrides.put(version, image_id, text, asked.revision, author))
        return {"version": point.id, "image": changed}

    @router.get(f"{PREFIX}/changes", response_model=dataset_models.DatasetChangeList, responses=refusals(400, 404))
    async def changes(
        version: str, since: Annotated[str, Query(min_length=1, max_length=300)], kind: ChangeKind | None = None,
        after: Text = "", limit: PageLimit = 20,
    ) -> dict[str, Any]:  # fmt: skip
        """The images that a version has more, less or otherwise than the version `since`."""

        def compare() -> dict[str, Any]:
            return comparisons.compare(points.open(since), points.open(version)).page(kind, after, limit)

        return await _in(COMPARISONS, compare)

    @router.get(f"{PREFIX}/outcomes", response_model=dataset_models.UrlOutcomeList, responses=refusals(400, 404))
    async def outcomes(
        version: str, kind: Text = "", outcome: Text = "", after: Text = "", limit: PageLimit = 20
    ) -> dict[str, Any]:
        """A page of URLs with what became of each."""
        return await _in(PAGES, lambda: dataset_pages.outcome_page(points.open(version), kind, outcome, after, limit))

    return router


def _parse(values: object) -> dataset_models.CaptionCorrection:
    try:
        asked = dataset_models.CaptionCorrection.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or None
        raise RequestError(f"{field or 'the body'} is refused: {problem['msg']}", param=field) from None
    if any(ord(letter) < 32 and not letter.isspace() for letter in asked.caption):
        raise RequestError("caption is refused: it holds control characters", param="caption")
    return asked


async def _in(executor: ThreadPoolExecutor, work: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(executor, work)
