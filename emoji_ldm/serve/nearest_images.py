"""`POST /v1/images/nearest`: the training images that look most like a picture, with their licences.

Whoever ships a generated picture wants to know whether it is a copy of one that the model was trained on. A model's
checkpoint records the version of the data set; the images of that version are compared by their fingerprints, which the
crawl has measured for all of them, mirrored pictures included, since training may mirror.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import is_moving_reference, resolve_reference, training_data_versions
from emoji_ldm.images.appearance_distance import rough_differences
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.images.fingerprint_layout import has_overview, overviews
from emoji_ldm.images.license_tag import license_of
from emoji_ldm.schemas import IMAGES, LATENTS
from emoji_ldm.serve.backend import Backend
from emoji_ldm.serve.decoding_pool import POOL
from emoji_ldm.serve.edit_requests import EditForm, read_form
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.openapi_models import REFUSALS, ApiModel

Bytes = NDArray[np.uint8]
SIDE_PX = 128  # fingerprints have 24 cells on a side, and want some pixels for each
MAX_RESULTS, DEFAULT_RESULTS = 20, 6
MAX_IMAGES = 200_000  # of a training: 460 MB of fingerprints
CHUNK = 2000  # images that are compared at once
MAX_INDEXES = 2  # in memory
THREAD = ThreadPoolExecutor(1, "nearest")  # one comparison at a time: it takes seconds of a core for large sets
FORM: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP or GIF to compare."},
        "model": {"type": "string", "description": "Name of a model; default: the first one."},
        "n": {"type": "integer", "default": DEFAULT_RESULTS, "maximum": MAX_RESULTS, "description": "How many."},
    },
}


class NearImage(ApiModel):
    """A training image."""

    image_id: str
    similarity: float
    """1 is equal, 0 opposite; unrelated emoji have about 0.7 to 0.85."""
    mirrored: bool
    """Whether the picture resembles it when it is mirrored."""
    title: str
    tags: list[str]
    license: str | None
    """The tag `license:NAME` of the image; null if its source named none."""
    source_url: str
    b64_json: str
    """The image as PNG."""


class NearImages(ApiModel):
    """The nearest training images, the nearest first."""

    model: str
    num_images: int
    """How many the model was trained on."""
    data: list[NearImage]


@dataclass(frozen=True)
class TrainingImages:
    """The images that a model was trained on."""

    ids: list[str]
    overviews: Bytes  # of their fingerprints, (N, OVERVIEW_LENGTH)

    def nearest(self, pixels: Bytes, count: int) -> list[tuple[str, float, bool]]:
        """Return (image id, similarity, whether mirrored) of the images nearest to RGBA pixels, the nearest first."""
        straight, flipped = (self._similarities(fingerprint(view)) for view in (pixels, pixels[:, ::-1].copy()))
        best = np.maximum(straight, flipped)
        order = np.argsort(-best, kind="stable")[:count]
        return [(self.ids[index], float(best[index]), bool(flipped[index] > straight[index])) for index in order]

    def _similarities(self, own: bytes) -> NDArray[np.float32]:
        query = overviews([own])
        parts = []
        for first in range(0, len(self.overviews), CHUNK):
            others = self.overviews[first : first + CHUNK]
            apart = rough_differences(np.repeat(query, len(others), 0), others)
            # Of the views that say something, the one in which they are nearest: as for near duplicates.
            parts.append(1 - apart.min(1) / 255)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def load_training_images(catalog: ModelCatalog, model: str) -> TrainingImages:
    """Return the training images of a model that is served.

    Raises:
        RequestError: (404) It is not known what the model was trained on, or it is not in this store.
        DatasetError, StoreError: The tables cannot be read.
    """
    versions = training_data_versions(catalog.store, _uri_of(catalog, model))
    images = Table(catalog.store, IMAGES)
    if "latents" not in versions or not images.exists:
        raise RequestError(f"the training images of {model!r} are not in this service's store (the packaged model, and "
                           "models that were trained elsewhere, come without them)", status=404, param="model",
                           code="no_training_data")  # fmt: skip
    trained = set(Table(catalog.store, LATENTS, versions["latents"]).read(["image_id"])["image_id"].to_pylist())
    rows = images.read(["image_id", "fingerprint"])
    both = zip(rows["image_id"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True)
    pairs = [(name, value) for name, value in both if name in trained and value is not None and has_overview(value)]
    if len(pairs) > MAX_IMAGES:
        raise RequestError(f"{model!r} was trained on more than {MAX_IMAGES:,} images, which are not compared",
                           param="model", code="too_many_images")  # fmt: skip
    # In parts, since unpacked fingerprints take four times the memory of their overviews.
    parts = [overviews([value for _, value in pairs[first : first + CHUNK]]) for first in range(0, len(pairs), CHUNK)]
    return TrainingImages([name for name, _ in pairs], np.concatenate([overviews([]), *parts]))


class NearestImages:
    """Answers for the models of one service, with the images of the last few in memory."""

    def __init__(self, catalog: ModelCatalog) -> None:
        """Read the store of a catalog."""
        self.catalog = catalog
        self._indexes = OrderedDict[str, TrainingImages]()  # by the model's key, which other weights change
        self._lock = threading.Lock()

    def find(self, model: str, model_key: str, png: bytes, count: int) -> dict[str, Any]:
        """Return the response for an image; takes seconds the first time. Raises as `load_training_images`."""
        with self._lock:
            if model_key not in self._indexes:
                self._indexes[model_key] = load_training_images(self.catalog, model)
            self._indexes.move_to_end(model_key)
            index = self._indexes[model_key]
            while len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
        found = index.nearest(pixels, count)
        rows = self._rows([image_id for image_id, _, _ in found])
        data = [{"image_id": image_id, "similarity": round(similarity, 4), "mirrored": mirrored, **rows[image_id]}
                for image_id, similarity, mirrored in found if image_id in rows]  # fmt: skip
        return {"model": model, "num_images": len(index.ids), "data": data}

    def _rows(self, ids: list[str]) -> Mapping[str, dict[str, Any]]:
        """Return what responses show of images, by id; images that were deleted since are left out."""
        images = Table(self.catalog.store, IMAGES)
        columns = ["image_id", "image", "title", "tags", "source_url"]
        return {row["image_id"]: _shown(row) for row in images.read_located(images.locate(ids), columns).to_pylist()}


def nearest_routes(catalog: ModelCatalog, backend: Backend) -> APIRouter:
    """Build the routes."""
    router, service = APIRouter(tags=["images"]), NearestImages(catalog)
    body = {"requestBody": {"content": {"multipart/form-data": {"schema": FORM}}, "required": True}}

    @router.post("/v1/images/nearest", response_model=NearImages, openapi_extra=body,
                 responses={status: REFUSALS[status] for status in (400, 401, 404, 413)})  # fmt: skip
    async def nearest(request: Request) -> dict[str, Any]:
        """The training images that look most like a picture, with their licences; nothing is generated or charged."""
        form, models = await read_form(request), await backend.models()
        model, count = _fields(form, next(iter(models)))
        if model not in models:
            raise RequestError(f"there is no model {model[:100]!r}", status=404, param="model", code="model_not_found")
        png, _ = await POOL.prepare(form.files["image"], b"", SIDE_PX, SIDE_PX)
        # By name and key: two names may have equal weights from different stores.
        key = f"{model}/{models[model].model_key}"
        return await asyncio.get_running_loop().run_in_executor(THREAD, service.find, model, key, png, count)

    return router


def _fields(form: EditForm, default_model: str) -> tuple[str, int]:
    unknown = [*(form.texts.keys() - {"model", "n"}), *(form.files.keys() - {"image"})]
    if unknown:
        raise RequestError(f"unknown field {unknown[0][:100]!r}; known are: image, model, n", param=unknown[0][:100],
                           code="unknown_parameter")  # fmt: skip
    count = form.texts.get("n", str(DEFAULT_RESULTS))
    if not count.isascii() or not count.isdecimal() or not 1 <= int(count[:6]) <= MAX_RESULTS:
        raise RequestError(f"n={count[:20]!r} is refused: a whole number from 1 to {MAX_RESULTS}", param="n")
    return form.texts.get("model", "") or default_model, int(count)


def _uri_of(catalog: ModelCatalog, model: str) -> str:
    """Return the URI of the checkpoint that a model's name means now."""
    settings, entry = catalog.config.serve, catalog.read().get(model)
    if entry is not None:
        return entry.uri
    checkpoint = (settings.checkpoint or "") if model == catalog.config.run else settings.models.get(model, "")
    if not is_moving_reference(checkpoint):
        return f"{catalog.store.uri}/{checkpoint.removeprefix(catalog.store.uri).strip('/')}"
    try:
        return resolve_reference(catalog.config, catalog.store, checkpoint).uri
    except ModelError:  # the packaged model stands in, or an alias is gone
        return ""


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    tags = row["tags"] or []
    return {
        "title": row["title"] or "",
        "tags": tags,
        "license": license_of(tags),
        "source_url": row["source_url"] or "",
        "b64_json": base64.b64encode(row["image"]["bytes"]).decode(),
    }
