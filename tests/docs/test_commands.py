"""Every command in the README and in docs/ is run: for real on a small store, or up to its resolved configuration."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emoji_ldm.store import Store
from ray_jobs.cli.main import main
from tests.caption_rows import fill_captions
from tests.command_line import parse
from tests.emoji_server import ROOT
from tests.latents_store import fill_captioned

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
CONFIGURED = ("demo", "crawl", "caption", "latents", "train", "generate", "serve", "report", "pipeline", "doctor")
OTHER_PROGRAMS = ("make", ".", "pip", "export", "python")


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's shell blocks, comments left out."""
    lines = "".join(BLOCK.findall(page.read_text())).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def all_commands() -> list[tuple[str, list[str]]]:
    return [(f"{page.name}: {shlex.join(words)}", words) for page in PAGES for words in commands(page)]


OURS = [(name, words[1:]) for name, words in all_commands() if words[0] == "emoji-ldm"]


@pytest.fixture
def folder_with_inputs(tmp_path, monkeypatch):
    """A working directory with the files that the pages name."""
    for name in ("my.yaml", "mine.yaml"):
        (tmp_path / name).write_text("run: docs\n")
    (tmp_path / "prompts.txt").write_text("a happy blob\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [words for _, words in OURS], ids=[name for name, _ in OURS])
def test_a_command_is_understood_and_its_configuration_resolves(words, folder_with_inputs, capsys):
    if words[0] in CONFIGURED and words[:2] != ["crawl", "probe"]:
        assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
        assert "store:" in capsys.readouterr().out
    else:
        assert parse(words) is not None


def test_the_commands_of_the_data_set_page_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    """Against a store with real images and captions; what names an S3 store, or a stage, is left to other tests."""
    monkeypatch.chdir(tmp_path)
    Store("data").check_writable()  # as every stage does first
    image_id = next(iter(fill_captioned(Store("data"))))
    fill_captions(Store("data"), [(image_id, "human", "a caption that the page reverts")])
    ran = [words[1:] for words in commands(ROOT / "docs" / "datasets.md") if words[:2] == ["emoji-ldm", "dataset"]]
    ran = [words for words in ran if not any("s3://" in word for word in words)]
    assert len(ran) > 15
    for words in ran:
        if words[1] == "revert":  # the page names a version of a longer history
            words = ["dataset", "revert", "captions@2"]
        assert main(words) == 0, (words, capsys.readouterr().err)


@pytest.mark.parametrize("name, words", [(n, w) for n, w in all_commands() if w[0] != "emoji-ldm"])
def test_other_programs_are_named_as_they_are(name, words):
    assert words[0] in OTHER_PROGRAMS, name
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), name
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, name
        module = subprocess.run([sys.executable, *words[1:3], "--help"], capture_output=True, text=True)
        assert module.returncode == 0 and all(word in module.stdout for word in words[3:] if word.startswith("--"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page):
    targets = [target for target, _ in LINK.findall(page.read_text()) if not target.startswith(("http", "mailto"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_is_short_and_names_every_guide():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in text] == []


@pytest.mark.long
def test_the_quick_start_runs_from_pages_to_emoji(tmp_path, monkeypatch):
    """The page's own commands against its own site, with fewer steps so that it ends within minutes."""
    if not shutil.which("chromium"):
        pytest.skip("needs Chromium")
    monkeypatch.chdir(tmp_path)
    fewer = {
        "autoencoder": ["autoencoder.steps=8", "autoencoder.checkpoint_every=8"],
        "train": ["train.steps=8", "train.checkpoint_every=8", "train.sample_every=null"],
        "generate": ["generate.steps=2"],
    }
    page = commands(ROOT / "docs" / "quickstart.md")
    site = next(words for words in page if words[:2] == ["python", "-m"])
    with subprocess.Popen([sys.executable, *site[1:]], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stdout.readline().startswith("http://127.0.0.1:8010")
            for words in page:
                if words[0] != "emoji-ldm" or words[1] == "serve":
                    continue
                stage = "autoencoder" if "autoencoder" in words else words[1]
                command = [sys.executable, "-m", "ray_jobs", *words[1:], *fewer.get(stage, [])]
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                assert done.returncode == 0, (words, done.stderr)
        finally:
            server.terminate()
    assert Path("runs/demo/report.html").is_file() and list(Path("runs/demo/generated").glob("*.png"))
