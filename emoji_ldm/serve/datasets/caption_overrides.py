"""One caption that a person corrects through the API: a new version of `captions`, as those of `caption.overrides` are.

Whoever corrects a caption names the `revision` of the image that they have seen. If others changed its captions since,
nothing is written (409): two tabs, or two people, cannot overwrite each other unknowingly. Other jobs may write to the
table at any time; the check is then made again on what they wrote.

Every correction is a file of its own, and every file costs readers requests. So where many have come together, they
are joined as by `dataset compact`: in the background, as a version that changes no row. Files of other captions stay as
they are, so that versions go on sharing them, and a comparison of two versions reads the corrections alone.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from emoji_ldm.caption.manual_captions import commit_manual_caption
from emoji_ldm.config import Config
from emoji_ldm.dataset.caption_selection import HUMAN
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.compact import CompactionResult, compact
from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.datasets.dataset_pages import Row, find_image
from emoji_ldm.serve.datasets.dataset_points import DatasetPoint, DatasetPoints
from emoji_ldm.serve.datasets.file_facts import scan_files
from emoji_ldm.serve.datasets.image_index import file_indexes
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.store import Store

MAX_CAPTION = 1000  # characters; text encoders read at most a few hundred
MAX_TRIES = 5  # while other jobs write to the table
MAX_SMALL_FILES = 32  # of corrections; with one more they are joined
# Larger files stay as they are: to join them again and again, and to rewrite one for a correction, would cost seconds.
SMALL_FILE_BYTES = 2**20
MAX_KEPT_KEYS = 2_000_000  # of captions in memory between two corrections: about 130 MB
STAGE = "caption"


class CaptionOverrides:
    """Writes captions of the engine `human`."""

    def __init__(self, points: DatasetPoints, config: Config) -> None:
        """Write to the store of the points; the configuration goes into the lineage of the commits."""
        self.points, self.config = points, config
        self._joiner = ThreadPoolExecutor(1, "joining")
        self._joining: Future[CompactionResult | None] | None = None
        self._tables = dict[str, Table]()
        self._writing, self._lock = threading.Lock(), threading.Lock()

    def put(self, version: str, image_id: str, caption: str, revision: str, author: str) -> tuple[DatasetPoint, Row]:
        """Replace an image's caption by a person's, or with "" take that back.

        Returns:
            The version that it is in, and the image there.

        Raises:
            RequestError: (404) There is no such image, (400) the version is not the present of a line, (409) the
                captions are not those of `revision` any more.
            Overloaded: Other jobs write to the table all the time.
        """
        store = self.points.writable(version)
        for _ in range(MAX_TRIES):
            point = self.points.open(version)
            image = find_image(point, image_id)
            _check_revision(image, revision)
            if caption == human_caption(image):
                return point, image
            parents = {name: each.version for name, each in point.tables.items() if each.exists}
            lineage = Lineage(RunInfo(self.config.run, self.config.to_json()), STAGE, parents, author)
            try:
                with self._writing:
                    table = self._table(store)
                    if table.version != point.captions.version:
                        continue  # somebody has committed since the point was opened
                    table.expected_version = table.version
                    commit_manual_caption(table, image_id, caption, lineage)
                    # The correction is there, whatever comes of the joining: the next one tries again.
                    with suppress(DatasetError, StoreError):
                        self._join_later(table)
            except (DatasetError, StoreError) as error:
                self._tables.clear()
                # Only if somebody else was faster there is anything to try again.
                if isinstance(error, StoreError) or Table(store, CAPTIONS).version == point.captions.version:
                    raise
                continue
            done = self.points.open(version)
            return done, find_image(done, image_id)
        raise Overloaded(1.0)

    def _table(self, store: Store) -> Table:
        """Return the captions of a line at their newest version, with the keys of all files at hand."""
        # A commit looks into each file for the row that it replaces. Keys of files that were there before are kept.
        # A line is known by its folder: a branch that was made anew has the name of another.
        table = self._tables.setdefault(store.table_uri(CAPTIONS.name), Table(store, CAPTIONS))
        if table.exists:
            table.refresh_incrementally()
        paths = {table.resolve(path): path for path in table.live_files() if path not in table.key_cache}
        for source, rows in scan_files(table, list(paths), [CAPTIONS.key]):
            table.key_cache[paths[source]] = rows.column(0)
        if table.count() > MAX_KEPT_KEYS:
            self._tables.clear()
        return table

    def _join_later(self, table: Table) -> None:
        """Join the files of corrections if there are many, without making the person wait; one run at a time."""
        files = table.live_files()
        own = [path for path, index in file_indexes(table).items() if {engine for engine, _ in index.kinds} == {HUMAN}]
        small = [path for path in own if files[path].size < SMALL_FILE_BYTES]
        with self._lock:
            if len(small) > MAX_SMALL_FILES and (self._joining is None or self._joining.done()):
                self._joining = self._joiner.submit(self._join, Table(table.store, CAPTIONS), small)

    def _join(self, table: Table, paths: Collection[str]) -> CompactionResult | None:
        # A run that fails, since the store is away or others write all the time, costs nobody anything: the correction
        # is committed, and the next one tries again.
        with suppress(DatasetError, StoreError):
            run = RunInfo(self.config.run, self.config.to_json())
            return compact(table, run, file_bytes=SMALL_FILE_BYTES, only=paths)
        return None


def human_caption(image: Row) -> str:
    """Return what a person wrote of an image, empty if nobody did."""
    return next((str(each["caption"]) for each in image["captions"] if each["engine"] == HUMAN), "")


def _check_revision(image: Row, revision: str) -> None:
    if image["revision"] != revision:
        now = next((each["caption"] for each in image["captions"] if each["used"]), "")
        raise RequestError(f"the caption was changed meanwhile, and is now: {now[:300]!r}; look at the image again, "
                           "and send its revision", status=409, param="revision", code="caption_conflict")  # fmt: skip
