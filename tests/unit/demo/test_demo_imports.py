"""The gallery is a fixture: crawl code and gallery do not know each other."""

import ast
from pathlib import Path

import pytest

import emoji_ldm

PACKAGE = Path(emoji_ldm.__file__).parent

DEMO = PACKAGE / "demo"


def imported(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = set()
    for node in tree:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.slow
def test_no_library_code_outside_the_demo_imports_it():
    others = [path for path in PACKAGE.rglob("*.py") if DEMO not in path.parents]
    crawl_job = (PACKAGE.parent / "ray_jobs").glob("crawl*.py")
    assert not [path for path in [*others, *crawl_job] if any("emoji_ldm.demo" in name for name in imported(path))]


def test_the_demo_imports_nothing_of_the_library_but_errors():
    names = {name for path in DEMO.glob("*.py") for name in imported(path)}
    own = {name for name in names if name.startswith("emoji_ldm")}
    assert all(name.startswith(("emoji_ldm.demo.", "emoji_ldm.errors.")) for name in own)
    assert not {name.split(".")[0] for name in names} & {"ray", "torch", "selenium", "ray_jobs"}
