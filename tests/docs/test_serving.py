"""The commands of the guide to the service, and its Python: keys in a file, sets drawn by the real HTTP application."""

import csv
import re

import openai
import pytest

from emoji_ldm.serve.api_keys import read_keys
from tests.docs.pages import ROOT, blocks, guide, run
from tests.unit.serve.bulk.instant_backend import InstantBackend
from tests.unit.serve.bulk.live_service import serving


def test_keys_are_made_and_listed(here, capfd):
    for words in guide("serving", "keys"):
        printed, _ = run(words, capfd)
    (key,) = read_keys("keys.json")
    assert (key.name, key.images_per_minute) == ("alice", 600)
    assert "alice" in printed and "600 images/min" in printed


@pytest.fixture
def service(here, monkeypatch):
    """The real HTTP application and a real store of jobs, with an instant model; (URL, key)."""
    monkeypatch.setattr("emoji_ldm.serve.bulk.set_commands.POLL_S", 0.05)
    with serving(here, InstantBackend(), kind="interactive") as found:
        monkeypatch.setenv("EMOJI_LDM_URL", found[0])
        monkeypatch.setenv("EMOJI_LDM_API_KEY", found[1])
        yield found


def test_sets_are_drawn_fetched_and_listed(service, here, capfd):
    (here / "prompts.txt").write_text("a happy blob\na green cat\n")
    printed = [run(words, capfd)[0] for words in guide("serving", "sets")]
    rows = list(csv.DictReader((here / "emoji" / "prompts.csv").open()))
    assert len(rows) == 8 and all((here / "emoji" / row["file"]).is_file() for row in rows)
    assert {row["prompt"] for row in rows} == {"a happy blob, flat", "a green cat, flat"}
    assert re.search(r"^set_\w+ ", printed[-1], re.MULTILINE), printed


def test_the_python_of_the_page_draws(service, monkeypatch):
    """Only the address and the key are those of this machine."""
    url, secret = service
    (code,) = blocks(ROOT / "docs" / "serving.md", "python")
    assert 'base_url="http://127.0.0.1:8000/v1", api_key="..."' in code
    code = code.replace("http://127.0.0.1:8000", url).replace('"..."', repr(secret))
    drawn = []
    generate = openai.resources.Images.generate
    monkeypatch.setattr(openai.resources.Images, "generate", lambda *a, **b: drawn.append(generate(*a, **b)))
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert [len(answer.data) for answer in drawn] == [4]
