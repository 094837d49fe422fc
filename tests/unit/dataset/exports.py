"""Exports of a small data set, for the tests of all formats."""

from emoji_ldm.dataset.export import export
from emoji_ldm.dataset.formats.export_options import ExportOptions

SPLITS = {"train": 0.7, "val": 0.3}


def run_export(tables, target, **options):
    return export(*tables, ExportOptions(target=str(target), **options))


def open_dataset(folder, cache):
    """The export as Hugging Face's `datasets` reads it."""
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(cache))
