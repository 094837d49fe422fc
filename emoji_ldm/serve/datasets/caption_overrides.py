"""One caption that a person corrects through the API: a new version of `captions`, as those of `caption.overrides` are.

Whoever corrects a caption names the `revision` of the image that they have seen. If others changed its captions since,
nothing is written (409): two tabs, or two people, cannot overwrite each other unknowingly. Other jobs may write to the
table at any time; the check is then made again on what they wrote.
"""

from __future__ import annotations

from emoji_ldm.caption.manual_captions import commit_manual_caption
from emoji_ldm.config import Config
from emoji_ldm.dataset.caption_selection import HUMAN
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.datasets.dataset_pages import Row, find_image
from emoji_ldm.serve.datasets.dataset_points import DatasetPoint, DatasetPoints
from emoji_ldm.serve.errors import RequestError

MAX_CAPTION = 1000  # characters; text encoders read at most a few hundred
MAX_TRIES = 5  # while other jobs write to the table
STAGE = "caption"


class CaptionOverrides:
    """Writes captions of the engine `human`."""

    def __init__(self, points: DatasetPoints, config: Config) -> None:
        """Write to the store of the points; the configuration goes into the lineage of the commits."""
        self.points, self.config = points, config

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
            table = Table(store, CAPTIONS)
            if table.version != point.captions.version:
                continue  # somebody has committed since the point was opened
            table.expected_version = table.version
            parents = {name: each.version for name, each in point.tables.items() if each.exists}
            lineage = Lineage(RunInfo(self.config.run, self.config.to_json()), STAGE, parents, author)
            try:
                commit_manual_caption(table, image_id, caption, lineage)
            except DatasetError:
                # Only if somebody else was faster there is anything to try again.
                if Table(store, CAPTIONS).version == point.captions.version:
                    raise
                continue
            done = self.points.open(version)
            return done, find_image(done, image_id)
        raise Overloaded(1.0)


def human_caption(image: Row) -> str:
    """Return what a person wrote of an image, empty if nobody did."""
    return next((str(each["caption"]) for each in image["captions"] if each["engine"] == HUMAN), "")


def _check_revision(image: Row, revision: str) -> None:
    if image["revision"] != revision:
        now = next((each["caption"] for each in image["captions"] if each["used"]), "")
        raise RequestError(f"the caption was changed meanwhile, and is now: {now[:300]!r}; look at the image again, "
                           "and send its revision", status=409, param="revision", code="caption_conflict")  # fmt: skip
