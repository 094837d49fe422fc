"""Make the data set with the project's own stages, and the arrays that training reads from it.

    icons of npm -> drawings/ (PNG files, captions, licences) -> import -> images, captions -> tag -> pictures.npy

1. `drawings.py` renders every icon and its recoloured copies, with several captions each.
2. The import of `emoji-ldm dataset import` normalises and deduplicates them as a crawl does, and adds the captions.
3. `emoji-ldm dataset tag` names the versions of the tables, for good.
4. `dataset_arrays.py` writes what training reads, from that version and nothing else.

Each part that is done is not done again, so an interrupted recipe is simply started once more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from emoji_ldm.config import build
from emoji_ldm.crawl.dataset_import import import_dataset
from emoji_ldm.dataset.versions.refs import create_tag, tags
from emoji_ldm.store import Store
from infra.starter.dataset_arrays import write_arrays
from infra.starter.drawings import METADATA, write_drawings
from infra.starter.icons import Icon, load_icons
from infra.starter.paths import DATA

TAG = "starter"
MESSAGE = "Openly licensed emoji in four styles, with recoloured copies; licences are tags of the images"


def main() -> None:
    """Build the data set below the folder STARTER_DATA."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th icon only, for a trial")
    options = parser.parse_args()
    icons = load_icons()[:: options.every]
    print(len(icons), "icons,", build_data(icons, DATA), "pictures")


def build_data(icons: Sequence[Icon], folder: Path) -> int:
    """Fill `folder` with drawings, the store with its tag, and the arrays; returns the number of pictures.

    Raises:
        EmojiLdmError: The store cannot be written.
    """
    drawings, store = folder / "drawings", Store(str(folder / "store"))
    if not (drawings / METADATA).exists():
        write_drawings(icons, drawings)
    if TAG not in tags(store):
        # A recoloured copy looks like its original in shape: only equal pixels are the same picture here.
        values = {"store": store.uri, "run": TAG, "crawl": {"near_duplicates": "keep"}}
        import_dataset(build(values, where="the starter's recipe"), str(drawings))
        create_tag(store, TAG, MESSAGE)
    return write_arrays(store, TAG, folder)


if __name__ == "__main__":
    main()
