"""`dataset import`: pictures of other data sets -> `images`, `outcomes` and `captions`, cleaned like crawled ones."""

from __future__ import annotations

from emoji_ldm.config import Config


def import_(config: Config, source: str) -> dict[str, object]:
    """Add the pictures below a folder, a file or s3://...; returns counts and versions for people.

    Takes our exports (csv, hf, webdataset) and folders of image files with `NAME.txt` captions beside them.
    Run again after any crash: nothing is doubled, and what is there is not read again.

    Raises:
        ConfigError: The source is missing, or holds nothing that can be imported.
        StoreError: The store cannot be written.
    """
    raise NotImplementedError
