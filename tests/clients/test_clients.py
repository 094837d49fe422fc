"""Clients of others, each in a process of its own, against a real server."""

import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.store import Store
from tests.seaweedfs_server import free_port
from tests.unit.serve.fake_backend import FakeBackend

FOLDER = Path(os.environ.get("EMOJI_LDM_CLIENTS", "nowhere"))
HERE = Path(__file__).parent
PYTHON = FOLDER / "venv" / "bin" / "python"


def needs(path, program="python"):
    found = path.exists() and (program == "python" or shutil.which(program))
    return pytest.mark.skipif(not found, reason=f"EMOJI_LDM_CLIENTS has no {path.name}; see tests/clients/__init__.py")


@contextmanager
def serving(folder):
    """The URL of the whole application over a fake backend and a real store."""
    store, backend, port = Store(str(folder / "store")), FakeBackend(), free_port()
    api = build_api(backend, routers=[bulk_routes(store, backend)], store=store)
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def run(*words, timeout_s=240):
    found = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    return found.stdout


@pytest.mark.slow
@needs(FOLDER / "node_modules" / "openai", "node")
def test_the_typescript_client(tmp_path):
    with serving(tmp_path) as url:
        found = json.loads(run("node", HERE / "openai_client.js", url, FOLDER))
    assert found == {
        "seeds": [7, 8], "bytes": "PNG", "request": "string", "edited": 1, "varied": 2, "linked": "PNG",
        "kinds": ["image_generation.partial_image"] * 2 + ["image_generation.completed"],
        "models": ["demo-1", "flow-1"], "repeated": True, "batch": "in_progress", "cancelled": "cancelled", "listed": 1,
        "error": ["BadRequestError", 400, "prompt"], "missing": "NotFoundError",
    }  # fmt: skip


@pytest.mark.slow
@needs(FOLDER / "venv" / "bin" / "litellm")
def test_litellm(tmp_path):
    with serving(tmp_path) as url:
        found = json.loads(run(PYTHON, HERE / "litellm_client.py", url).strip().splitlines()[-1])
    assert found == {"images": 2, "first": "iVBORw0K", "missing": "NotFoundError", "refused": "BadRequestError"}


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(60, marks=pytest.mark.long),
     pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(1200)])],
)  # fmt: skip
@needs(FOLDER / "venv" / "bin" / "schemathesis")
def test_schemathesis_finds_no_crash(tmp_path, seconds):
    with serving(tmp_path) as url:
        ends_at, seed = time.monotonic() + seconds, 0
        options = ["--checks", "not_a_server_error", "--max-examples", "30", "--phases", "examples,coverage,fuzzing"]
        while time.monotonic() < ends_at:
            seed += 1
            program = FOLDER / "venv" / "bin" / "schemathesis"
            run(program, "run", f"{url}/openapi.json", *options, "--seed", seed, "--suppress-health-check", "all",
                "--no-color", timeout_s=900)  # fmt: skip
