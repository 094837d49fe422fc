"""The architecture as a test: imports point one way, and light things stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = ["errors", "config", "records", "s3", "store", "progress", "dataset", "crawl", "caption", "latents", "model",
         "train", "generate", "evaluate", "serve", "ui", "demo", "cluster"]  # fmt: skip


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "emoji_ldm").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_never_imports_ray_and_imports_point_one_way(path):
    parts = path.relative_to(ROOT / "emoji_ldm").parts
    own = Path(parts[0]).stem
    for name in imported(path):
        words = name.split(".")
        assert words[0] not in ("ray", "ray_jobs"), f"{path} imports {name}"
        if words[0] == "emoji_ldm" and len(words) > 1 and words[1] in ORDER and own in ORDER:
            assert ORDER.index(words[1]) <= ORDER.index(own), f"{own} imports {words[1]}, which comes after it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("emoji_ldm", ("torch", "ray", "pyarrow", "pydantic")),
        ("emoji_ldm.dataset.table", ("torch", "ray", "transformers")),
        ("ray_jobs.crawl", ("torch", "diffusers", "transformers")),
        ("emoji_ldm.evaluate.report", ("torch", "ray", "selenium")),
    ],
)
def test_a_light_module_stays_light(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"
