"""The help of a command explains every configuration field that it reads."""

import pytest

from emoji_ldm.config import Config
from ray_jobs.cli.field_help import field_rows
from ray_jobs.cli.main import main
from tests.command_line import command_names


@pytest.mark.parametrize("section", ["crawl", "caption", "latents", "train", "generate", "serve", "evaluate"])
def test_every_field_of_a_stage_has_a_text_and_a_default(section):
    rows = dict(field_rows(section))
    for name in type(getattr(Config(), section)).model_fields:
        text = rows[f"{section}.{name}"]
        assert not text.startswith(" [default"), f"{section}.{name} has no text"
        assert "[default: " in text
    assert {"store", "run", "branch", "ray.address"} <= set(rows)


def test_the_parts_of_a_field_are_explained_too():
    rows = dict(field_rows("train"))
    assert rows["train.lora.rank"] and rows["autoencoder.steps"]


def test_the_help_of_a_command_shows_its_fields_and_their_defaults(capsys):
    assert main(["crawl", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "crawl.host_concurrency Requests in flight to one host, over the whole cluster. [default: 8]" in shown


@pytest.mark.slow
def test_every_option_of_every_command_has_a_text(capsys):
    for name in command_names():
        assert main([*name.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("  -"):
                assert len(line.split("  ")) > 2 or following.startswith("      "), f"{name}: {line}"
