"""The routes `/v1/runs`: the trainings of the store, live and past, with curves, sample grids and checkpoints.

They read what a training writes (its log, its grids, its checkpoints) and know nothing of the training itself, which
may run on another cluster. A checkpoint becomes a model of the service by `PUT /v1/registry/{name}` with its `id`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response

from emoji_ldm.dataset.checkpoint_aliases import aliased_paths
from emoji_ldm.dataset.checkpoints import Checkpoint, complete_checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.serve.auth import RUNS_PREFIX
from emoji_ldm.serve.bulk.api.responses import PageLimit
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.openapi_models import REFUSALS, ApiModel
from emoji_ldm.serve.runs.run_logs import RunLogs
from emoji_ldm.serve.small_pictures import picture_response, small_png
from emoji_ldm.train.manifest import recorded_config

Answer = TypeVar("Answer")
SectionName = Literal["train", "autoencoder"]
SECTIONS: dict[SectionName, str] = {"train": "unet", "autoencoder": "autoencoder"}  # {section: kind of checkpoints}
GridKind = Literal["samples", "pairs"]
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")  # as config.base.Identifier
GRID_NAME = re.compile(r"step-(\d{8})\.png")
LIVE_S = 180.0  # since the last line of the log; lines come every few steps
MAX_GRIDS = 1000  # the newest ones
MAX_GRID_PX = 2048
READERS = ThreadPoolExecutor(2, "runs")
LOOKS = ThreadPoolExecutor(16, "run-logs")  # for the times of logs: a store of S3 answers each after some milliseconds

RunName = Annotated[str, Path(pattern=f"^{RUN_NAME.pattern}$")]
Side = Annotated[int, Query(ge=16, le=MAX_GRID_PX)]


class RunSection(ApiModel):
    """A training of a run: of the diffusion model or of its autoencoder."""

    section: SectionName
    updated_at: int
    """Unix time of the last line of its log."""
    live: bool
    """Whether the log was written within three minutes."""


class RunCard(ApiModel):
    """A run with its trainings."""

    id: str
    updated_at: int
    sections: list[RunSection]


class RunList(ApiModel):
    """A page of runs, the one that was active last first."""

    object: Literal["list"] = "list"
    data: list[RunCard]
    has_more: bool


class RunCheckpoint(ApiModel):
    """A complete checkpoint."""

    id: str
    """Its path in the store, as `checkpoint` of `PUT /v1/registry/{name}`."""
    step: int
    aliases: list[str]
    models: list[str]
    """Names of registered models that draw with it."""


class TrainingDetail(ApiModel):
    """A training: curves, figures, pictures, checkpoints."""

    run: str
    section: SectionName
    live: bool
    updated_at: int
    step: int
    steps: int | None
    """How many were planned, as the newest checkpoint says; null before the first one."""
    curves: dict[str, list[tuple[float, float]]]
    """[step, value] of at most 600 lines: loss, validation_loss, validation_loss_ema, grad_norm, lr, images_per_s,
    peak_memory_mb."""
    figures: dict[str, float]
    """Of the last line: loss, lr, images_per_s, step_s (seconds), data_wait (share), mfu (share) and others."""
    memory_mb: list[float]
    """Peak memory of each rank."""
    notes: list[str]
    """The last warnings: steps that were skipped, trackers that failed."""
    samples: list[int]
    """Steps at which a grid of samples was drawn."""
    pairs: list[int]
    """Steps at which validation images were drawn beside new ones."""
    checkpoints: list[RunCheckpoint]
    """The newest first."""


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    texts = {403: "The key lacks the scope `data`", 404: "There is no such training", 503: "The store is away"}
    return {status: {**REFUSALS[status], **({"description": texts[status]} if status in texts else {})}
            for status in (401, 403, 503, *statuses)}  # fmt: skip


def run_routes(catalog: ModelCatalog) -> APIRouter:
    """Build the routes over the store of a catalog."""
    router, runs = APIRouter(prefix=RUNS_PREFIX, tags=["runs"]), StoredRuns(catalog)
    picture: dict[int | str, dict[str, Any]] = {200: {"description": "The grid", "content": {"image/png": {}}}}

    @router.get("", response_model=RunList, responses=_refusals(400))
    async def listing(limit: PageLimit = 20, after: str = "") -> dict[str, Any]:
        """Runs with trainings, the one that was active last first; `after` is the id of a run."""
        return await _in_thread(lambda: runs.page(after, limit))

    @router.get("/{run}/{section}", response_model=TrainingDetail, responses=_refusals(400, 404))
    async def training(run: RunName, section: SectionName) -> dict[str, Any]:
        """A training so far."""
        return await _in_thread(lambda: runs.detail(run, section))

    @router.get("/{run}/{section}/{kind}/{step}", response_class=Response, response_model=None,
                responses={**picture, **_refusals(400, 404)})  # fmt: skip
    async def grid(
        request: Request, run: RunName, section: SectionName, kind: GridKind,
        step: Annotated[int, Path(ge=0, lt=10**8)], size: Side = 256,
    ) -> Response:  # fmt: skip
        """The pictures of a step as PNG, at most `size` pixels wide and high."""
        png = await _in_thread(lambda: runs.grid(run, section, f"{kind}/step-{step:08d}.png", size))
        seen = request.headers.get("if-none-match", "")
        return picture_response(png, hashlib.sha256(png).hexdigest()[:20], seen=seen)

    return router


class StoredRuns:
    """What trainings have written to a store."""

    def __init__(self, catalog: ModelCatalog) -> None:
        """Read the store of a catalog."""
        self.catalog, self.store, self.logs = catalog, catalog.store, RunLogs(catalog.store)

    def page(self, after: str, limit: int) -> dict[str, Any]:
        """Return a page of runs; RequestError (400) if `after` is none."""
        names = filter(RUN_NAME.fullmatch, self.store.list("runs"))
        cards = [card for card in LOOKS.map(self._card, names) if card]
        cards.sort(key=lambda card: (-card["updated_at"], card["id"]))
        ids = [card["id"] for card in cards]
        if after and after not in ids:
            raise RequestError(f"after={after[:80]!r} is no run", param="after")
        start = ids.index(after) + 1 if after else 0
        return {"data": cards[start : start + limit], "has_more": start + limit < len(cards)}

    def detail(self, run: str, section: SectionName) -> dict[str, Any]:
        """Return a training; RequestError (404) if there is none."""
        log = self.logs.read(run, section)
        if log is None:
            raise RequestError(f"there is no training {section} of a run {run!r} in this service's store", status=404,
                               param="run", code="run_not_found")  # fmt: skip
        checkpoints = complete_checkpoints(self.store, run, SECTIONS[section])[::-1]
        steps = _planned_steps(checkpoints[0], section) if checkpoints else None
        return {
            "run": run, "section": section, "live": _is_live(log.updated_at) and log.step != steps,
            "updated_at": int(log.updated_at), "step": log.step, "steps": steps, "curves": log.curves,
            "figures": log.figures, "memory_mb": log.memory_mb, "notes": log.notes,
            **{kind: self._grids(run, section, kind) for kind in ("samples", "pairs")},
            "checkpoints": self._checkpoints(checkpoints),
        }  # fmt: skip

    def grid(self, run: str, section: SectionName, name: str, side_px: int) -> bytes:
        """Return a grid as PNG; RequestError (404) if there is none."""
        parts = ("runs", run, section, *name.split("/"))
        png = small_png(self.store.read(*parts), side_px) if self.store.exists(*parts) else None
        if png is None:
            raise RequestError(f"there is no picture {name} of the {section} of {run!r}", status=404, param="step",
                               code="picture_not_found")  # fmt: skip
        return png

    def _card(self, run: str) -> dict[str, Any] | None:
        times = {section: self.logs.updated_at(run, section) for section in SECTIONS}
        sections = [{"section": section, "updated_at": int(moment), "live": _is_live(moment)}
                    for section, moment in times.items() if moment is not None]  # fmt: skip
        newest = max((int(moment) for moment in times.values() if moment is not None), default=0)
        return {"id": run, "updated_at": newest, "sections": sections} if sections else None

    def _grids(self, run: str, section: SectionName, kind: str) -> list[int]:
        matches = map(GRID_NAME.fullmatch, self.store.list("runs", run, section, kind))
        return [int(match[1]) for match in matches if match][-MAX_GRIDS:]

    def _checkpoints(self, found: list[Checkpoint]) -> list[dict[str, Any]]:
        aliases, entries = aliased_paths(self.store), self.catalog.read()
        return [
            {"id": each.path, "step": each.step,
             "aliases": [name for name, path in aliases.items() if path == each.path],
             "models": [name for name, entry in entries.items() if entry.uri == each.uri]}
            for each in found
        ]  # fmt: skip


def _planned_steps(checkpoint: Checkpoint, section: str) -> int | None:
    try:
        return int(recorded_config(checkpoint.manifest())[section]["steps"])
    except (ModelError, KeyError, TypeError, ValueError):  # of a newer release, or damaged
        return None


def _is_live(moment: float) -> bool:
    return time.time() - moment < LIVE_S


async def _in_thread(work: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(READERS, work)
