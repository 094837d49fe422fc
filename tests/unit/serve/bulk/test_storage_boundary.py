"""The storage code of bulk jobs knows neither HTTP nor keys nor quotas."""

import ast
from pathlib import Path

import pytest

BULK = Path(__file__).parents[4] / "emoji_ldm" / "serve" / "bulk"
HTTP = ("fastapi", "starlette", "emoji_ldm.serve.bulk.api", "emoji_ldm.serve.auth", "emoji_ldm.serve.errors")


def imported_modules(path):
    """All modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(BULK.glob("*.py")), ids=lambda path: path.stem)
def test_storage_modules_import_nothing_of_http(path):
    assert [name for name in imported_modules(path) if name.startswith(HTTP)] == []


def test_the_routes_do_import_http():
    """Otherwise the test above might look for the wrong names."""
    assert any(name.startswith(HTTP) for path in (BULK / "api").glob("*.py") for name in imported_modules(path))
