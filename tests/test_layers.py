"""The house: arrows between packages point one way, rooms stay small, tests mirror the packages, imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "metalearn": {"metalearn"},
    "models/metalearn_models": {"metalearn", "metalearn_models"},
    "tasks/metalearn_tasks": {"metalearn", "metalearn_models", "metalearn_tasks"},
}
COMPOSE = (ROOT / "metalearn" / "recipes", ROOT / "metalearn" / "cli")  # the only code that may import all packages
OURS = {"metalearn", "metalearn_models", "metalearn_tasks", "experiments", "tests"}
SOURCES = (*ALLOWED, "experiments")


def imported_packages(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder):
    files = [f for f in (ROOT / folder).rglob("*.py") if not set(COMPOSE) & set(f.parents)]
    assert files
    wrong = {str(f): extra for f in files if (extra := (imported_packages(f) & OURS) - ALLOWED[folder])}
    assert not wrong


def test_the_command_line_knows_models_and_tasks_only_through_recipes():
    wrong = [
        str(f)
        for f in (ROOT / "metalearn" / "cli").rglob("*.py")
        if imported_packages(f) & {"metalearn_models", "metalearn_tasks"}
    ]
    assert not wrong


@pytest.mark.parametrize("folder", [*SOURCES, "tests", "docs"])
def test_rooms_stay_small(folder):
    """At most 15 modules per folder, besides its `__init__`; at most 300 lines per module of the packages."""
    folders: dict[Path, int] = {}
    long = {}
    for file in (ROOT / folder).rglob("*.py"):
        folders[file.parent] = folders.get(file.parent, 0) + (file.name != "__init__.py")
        lines = len(file.read_text().splitlines())
        if lines > 300 and folder != "tests":
            long[str(file.relative_to(ROOT))] = lines
    assert not {str(path.relative_to(ROOT)): count for path, count in folders.items() if count > 15}
    assert not long


def test_tests_mirror_the_packages():
    """Each folder of tests has the name of a folder that it tests."""
    homes = {"metalearn": "metalearn", "models": "models/metalearn_models", "tasks": "tasks/metalearn_tasks"}
    homes |= {"experiments": "experiments"}
    wrong = []
    for top, home in homes.items():
        for folder in {f.parent for f in (ROOT / "tests" / top).rglob("test_*.py")}:
            if not (ROOT / home / folder.relative_to(ROOT / "tests" / top)).is_dir():
                wrong.append(str(folder.relative_to(ROOT)))
    assert not wrong


def test_import_is_light():
    """`import metalearn` pulls neither TensorFlow nor anything that only a command needs."""
    heavy = ["tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "orbax", "tyro", "flax", "metalearn_models"]
    code = f"import metalearn, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
