"""The arrows of the design: metalearn <- metalearn_models <- metalearn_tasks; only recipes and cli compose them."""

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
COMPOSE = (ROOT / "metalearn" / "recipes", ROOT / "metalearn" / "cli")
OURS = {"metalearn", "metalearn_models", "metalearn_tasks", "experiments", "tests"}


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


def test_import_is_light():
    """`import metalearn` pulls neither TensorFlow nor anything that only a command needs."""
    heavy = ["tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "orbax", "tyro", "flax", "metalearn_models"]
    code = f"import metalearn, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
