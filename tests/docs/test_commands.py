"""Every command in the README and in docs/ is understood, and its configuration resolves; the tests beside run them.

`WHERE_THEY_RUN` says which test runs which command, so that a new command needs a test.
"""

import importlib
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest

from emoji_ldm.store import Store
from ray_jobs.cli.main import main
from tests.caption_rows import fill_captions
from tests.command_line import parse
from tests.docs.pages import PAGES, ROOT, commands, guide, run
from tests.latents_store import fill_captioned

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
CONFIGURED = (
    "demo", "crawl", "caption", "latents", "train", "generate", "evaluate", "serve", "report", "pipeline", "doctor",
)  # fmt: skip
OTHER_PROGRAMS = ("kubectl", "make", ".", "pip", "export", "python")
# The first text that a command contains decides. The marker in brackets is that of the test.
WHERE_THEY_RUN = {
    "_per_worker=1": "nowhere: needs a GPU",
    "num_workers=8": "nowhere: needs eight machines, or as many cores",
    "http://mlflow": "nowhere: tests/unit/train/metrics has MLflow itself",
    "--config finetune-sd": "nowhere: needs the weights of Stable Diffusion",
    "--config lora": "nowhere: needs the weights of Stable Diffusion",
    "--config dreambooth": "nowhere: needs the weights of Stable Diffusion; tests/jobs/test_dreambooth.py",
    "--address": "tests/jobs/test_job_submission.py [slow]",
    "pack ./": "test_packs.py [slow]",
    "adapters": "tests/unit/jobs/test_adapters.py [slow]",
    "cluster": "test_kubernetes.py [slow]",
    "submit": "test_kubernetes.py [slow]",
    "keys": "test_serving.py",
    "sets": "test_serving.py",
    "--config demo": "test_quickstart.py [long]",
    "s3://": "tests/s3",
    "ray.address": "tests/s3/test_crashes.py [long]",
    "doctor": "here",
    "--dry-run": "here",
    "evaluate": "tests/jobs/test_evaluate.py [slow]",
    "dataset": "here",
    "crawl": "test_crawling.py [slow]",
    "caption": "test_crawling.py [slow]",
    "train": "test_training.py [long]",
    "latents": "test_training.py [long]",
    "generate": "test_training.py [long]",
    "report": "test_quickstart.py [long]",
    "serve": "tests/jobs/serve/test_serve.py [slow]",
    "pipeline": "tests/jobs/test_pipeline.py [slow]",
}


def all_commands() -> list[tuple[str, list[str]]]:
    return [(f"{page.name}: {shlex.join(words)}", words) for page in PAGES for words in commands(page)]


OURS = [(name, words[1:]) for name, words in all_commands() if words[0] == "emoji-ldm"]


def test_a_test_runs_every_command_but_those_that_need_what_no_test_has():
    texts = [shlex.join(words) for _, words in OURS]
    where = Counter(next((place for text, place in WHERE_THEY_RUN.items() if text in words), words) for words in texts)
    assert set(where) <= set(WHERE_THEY_RUN.values())
    assert sum(count for place, count in where.items() if place.startswith("nowhere")) < len(OURS) / 6


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


def test_the_commands_of_the_data_set_page_run_one_after_the_other(here, capfd):
    """Against a store with real images and captions; what names an S3 store, or a stage, is left to other tests."""
    Store("data").check_writable()  # as every stage does first
    image_id = next(iter(fill_captioned(Store("data"))))
    fill_captions(Store("data"), [(image_id, "human", "a caption that the page reverts")])
    pages = [words for words in guide("datasets", "dataset") if not any("s3://" in word for word in words)]
    assert len(pages) > 15
    for words in pages:
        # The page names a version of a longer history.
        run(words, capfd, {"captions@7": "captions@2"})


def test_what_only_reports_runs(here, capfd):
    assert "chromedriver" in "".join(run(["doctor"], capfd))
    (words,) = guide("operations", "train --dry-run")
    assert "lr: 0.0001" in run(words, capfd)[0]


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
