"""The architecture as a test: imports point one way and in no circle, names are unique, light modules stay light."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = [
    "errors", "library_compat", "config", "schemas", "outcomes", "local_files", "s3", "store", "progress", "images",
    "dataset", "crawl", "caption", "latents", "model", "train", "generate", "evaluate", "packs", "serve", "ui",
    "kubernetes", "demo",
]  # fmt: skip
FILES = sorted(path for package in ("emoji_ldm", "ray_jobs") for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 300
PUBLIC_UNDERSCORE = {"_replace", "_asdict", "_fields", "_make", "_exit"}  # documented: of named tuples, and os._exit
PRIVATE_USERS = ("compat",)  # the end of the names of modules that may use private parts of libraries


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def imported(path):
    """Names of all imports, those in functions, for type checking and by name included; and what is taken from them."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def own_imports(path):
    return {name for name in imported(path) if name in MODULES}


def cycles():
    """Groups of modules that import each other in a circle: Tarjan's strongly connected components."""
    graph = {name: sorted(own_imports(path) - {name}) for name, path in MODULES.items()}
    index, low, stack, found = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            members = [stack.pop()]
            while members[-1] != name:
                members.append(stack.pop())
            found.extend([sorted(members)] if len(members) > 1 else [])

    for name in graph:
        if name not in index:
            visit(name)
    return found


def public_classes(path):
    return [node.name for node in tree_of(path).body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]


def top_level(path):
    """Nodes that run when the module is imported: everything but the bodies of functions."""
    pending = list(tree_of(path).body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def own_private_names():
    """Every private name that this code defines: functions, classes, methods, attributes, fields and variables."""
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


OWN_PRIVATE = frozenset(name for name in own_private_names() if name.startswith("_"))


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC_UNDERSCORE


def private_access(path):
    """Private attributes and modules of libraries that a module uses."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in OWN_PRIVATE:
            yield f"{node.lineno}: .{node.attr}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            origin = getattr(node, "module", None)
            for name in [f"{origin}.{alias.name}" if origin else alias.name for alias in node.names]:
                words = name.split(".")
                if words[0] not in ("emoji_ldm", "ray_jobs", "__future__") and any(map(is_private, words)):
                    yield f"{node.lineno}: {name}"


@each_file
def test_imports_point_one_way_and_the_library_never_imports_ray(path):
    package, *rest = path.relative_to(ROOT).with_suffix("").parts
    if package == "ray_jobs":
        return
    for name in imported(path):
        words = name.split(".")
        assert words[0] not in ("ray", "ray_jobs"), f"{path} imports {name}"
        if words[0] == "emoji_ldm" and len(words) > 1 and rest[0] != "__init__":
            assert ORDER.index(words[1]) <= ORDER.index(rest[0]), f"{rest[0]} imports {words[1]}, which comes after it"


def test_no_modules_import_each_other_in_a_circle():
    assert cycles() == []


def test_no_two_public_classes_share_a_name():
    where = defaultdict(list)
    for path in FILES:
        for name in public_classes(path):
            where[name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_no_module_name_occurs_twice_in_one_folder_or_in_sibling_packages():
    twice = {}
    for folder in {path.parent for path in FILES}:
        packages = [child for child in folder.iterdir() if (child / "__init__.py").is_file()]
        names = Counter(path.stem for package in packages for path in package.glob("*.py") if path.stem != "__init__")
        beside_a_package = {package.name for package in packages} & {path.stem for path in folder.glob("*.py")}
        names.update(dict.fromkeys(beside_a_package, 2))
        if repeated := sorted(name for name, count in names.items() if count > 1):
            twice[str(folder.relative_to(ROOT))] = repeated
    assert twice == {}


@each_file
def test_a_file_holds_one_idea(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@each_file
def test_importing_sets_no_environment_variable(path):
    for node in top_level(path):
        text = ast.unparse(node)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
            assert "os.environ[" not in text.partition("=")[0], f"{path}:{node.lineno}"
        elif isinstance(node, ast.Call):
            setters = ("os.environ.setdefault", "os.environ.update", "os.environ.pop", "os.putenv", "os.unsetenv")
            assert ast.unparse(node.func) not in setters, f"{path}:{node.lineno}"


@each_file
def test_private_parts_of_libraries_are_used_in_compat_modules_alone(path):
    if not path.stem.endswith(PRIVATE_USERS):
        assert list(private_access(path)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("emoji_ldm", ("torch", "ray", "pyarrow", "pydantic")),
        ("emoji_ldm.config", ("torch", "ray", "pyarrow", "numpy")),
        ("emoji_ldm.dataset.table", ("torch", "ray", "transformers")),
        ("ray_jobs.crawl", ("torch", "diffusers", "transformers")),
        ("emoji_ldm.evaluate.report", ("torch", "ray", "selenium")),
    ],
)
def test_a_light_module_stays_light(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"
