"""The quick start's own commands against its own site, with fewer steps so that it ends within minutes."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, commands

PAGE = commands(ROOT / "docs" / "quickstart.md")
FEWER = {
    "autoencoder": ["autoencoder.steps=8", "autoencoder.checkpoint_every=8"],
    "train": ["train.steps=8", "train.checkpoint_every=8", "train.sample_every=null"],
    "generate": ["generate.steps=2"],
}
START_S = 300  # of the service: its Ray, its processes and the model


@contextmanager
def site():
    """The page's own site, on its own port."""
    words = next(words for words in PAGE if words[:2] == ["python", "-m"])
    with subprocess.Popen([sys.executable, *words[1:]], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stdout.readline().startswith("http://127.0.0.1:8010")
            yield
        finally:
            server.terminate()


def draw(command):
    """Start the service, run the `curl` line that it prints, and press Ctrl-C; returns what curl printed."""
    log = Path("serve.log")
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as service:
        try:
            deadline = time.monotonic() + START_S
            while not (line := re.search(r"^\s+(curl .*)$", log.read_text(), re.MULTILINE)):
                assert service.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            drawn = subprocess.run(line[1], shell=True, capture_output=True, text=True, timeout=120)
            assert drawn.returncode == 0, (line[1], drawn.stderr, log.read_text())
        finally:
            service.send_signal(signal.SIGINT)
        assert service.wait(120) == 0, log.read_text()
    return drawn.stdout


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_quick_start_runs_from_pages_to_emoji(here):
    if not shutil.which("chromium"):
        pytest.skip("needs Chromium")
    with site():
        for words in [words[1:] for words in PAGE if words[0] == "emoji-ldm"]:
            command = [sys.executable, "-m", "ray_jobs", *words]
            if words[0] == "serve":
                draw(command)
                continue
            stage = "autoencoder" if "autoencoder" in words else words[0]
            done = subprocess.run([*command, *FEWER.get(stage, [])], capture_output=True, text=True, timeout=1200)
            assert done.returncode == 0, (shlex.join(words), done.stderr)
            # Nothing is wrong, so all there is to read is the command's own: no line of Ray's core or of a library.
            assert not re.search(r"^\[.*\b[EW] \d|Traceback|Warning", done.stderr, re.MULTILINE), done.stderr
    assert Path("runs/demo/report.html").is_file() and list(Path("runs/demo/generated").glob("*.png"))
