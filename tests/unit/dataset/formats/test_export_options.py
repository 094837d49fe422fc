"""The options of an export: the command line fills each field with the option of its name."""

from dataclasses import asdict

import pytest

from emoji_ldm.dataset.formats.export_options import ExportOptions
from ray_jobs.cli import dataset_commands
from ray_jobs.cli.main import main


@pytest.fixture
def exported(monkeypatch):
    """Runs `dataset export` up to where the export would begin; returns its options."""
    seen = []
    monkeypatch.setattr(dataset_commands, "export", lambda config, options: seen.append(options) or 0)

    def run(*words):
        assert main(["dataset", "export", *words]) == 0
        return seen.pop()

    return run


def test_every_option_of_the_command_reaches_the_field_of_its_name(exported):
    options = exported("csv", "./out", "--parts", "train=0.9,val=0.1", "--salt", "s", "--background", "red",
                       "--images", "png", "--captioned", "--license", "cc0")  # fmt: skip
    assert asdict(options) == {
        "format": "csv", "target": "./out", "splits": {"train": 0.9, "val": 0.1}, "salt": "s", "background": "red",
        "images": "png", "captioned": True, "license": "cc0",
    }  # fmt: skip


def test_an_export_without_options_is_the_same_from_the_command_line_and_from_python(exported):
    assert exported("hf", "./out") == ExportOptions("hf", "./out")
