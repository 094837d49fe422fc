"""The bytes of images of the data set, one by one.

The smallest part of a table that can be read is a row group, which holds 100 images, and the thumbnails of a page are
in one or two of them. So the images of the groups that were read last are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import pyarrow.parquet as pq

from emoji_ldm.dataset.table import Table
from emoji_ldm.serve.datasets.image_index import find_rows
from emoji_ldm.serve.datasets.row_scan import row_groups

MAX_KEPT_BYTES = 64 * 2**20


class StoredPictures:
    """Reads images by their ids; one for all tables and threads of a process."""

    def __init__(self) -> None:
        self._kept = OrderedDict[tuple[str, str], bytes]()  # by path in the file system, and id
        self._num_bytes = 0
        self._lock = threading.Lock()

    def read(self, images: Table, image_id: str) -> bytes | None:
        """Return the bytes of an image, None if there is none; raises StoreError."""
        for path, rows in find_rows(images, [image_id]).items():
            source = images.resolve(path)
            with self._lock:
                data = self._kept.get((source, image_id))
            if data is None:
                data = self._read_group(images, source, rows[0]).get(image_id)
            if data is not None:
                return data
        return None

    def _read_group(self, images: Table, source: str, row: int) -> dict[str, bytes]:
        """Return the images of the row group with this row, {id: bytes}."""
        with images.read_errors(), images.store.filesystem.open_input_file(source) as stream:
            file = pq.ParquetFile(stream, pre_buffer=True)
            group = next(group for group, start, count in row_groups(file) if start <= row < start + count)
            rows = file.read_row_group(group, columns=["image_id", "image"]).to_pylist()
        found = {row["image_id"]: row["image"]["bytes"] for row in rows if row["image"] and row["image"]["bytes"]}
        with self._lock:
            for image_id, data in found.items():
                self._num_bytes += len(data) - len(self._kept.get((source, image_id), b""))
                self._kept[source, image_id] = data
                self._kept.move_to_end((source, image_id))
            while self._num_bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
                self._num_bytes -= len(self._kept.popitem(last=False)[1])
        return found


PICTURES = StoredPictures()
