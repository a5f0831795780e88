"""What a user sees first: the names of the package, tab completion, and how long the import takes."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import metalearn
import metalearn.costs
import metalearn.gradients


def test_the_import_loads_neither_jax_nor_numpy():
    code = "import metalearn, sys; metalearn.__version__, dir(metalearn); print({'jax', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("package", [metalearn, metalearn.gradients, metalearn.costs])
def test_tab_completion_shows_the_api_and_nothing_else(package):
    modules = {"costs", "errors", "gradients", "runs", "sweeps"} if package is metalearn else set()
    assert set(dir(package)) == {*package.__all__, *modules}
    for name in dir(package):
        value = getattr(package, name)
        assert name in modules or name == "__version__" or value.__doc__, f"{name} has no docstring"


def test_names_are_the_objects_of_their_modules_for_type_checkers_too():
    tree = ast.parse(Path(metalearn.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            assert alias.name == alias.asname  # an explicit re-export
            assert getattr(importlib.import_module(node.module), alias.name) is getattr(metalearn, alias.name)
            seen.add(alias.name)
    assert seen == set(metalearn.__all__) - {"__version__"}


def test_all_public_names_of_the_estimators_are_at_the_top():
    assert set(metalearn.gradients.__all__) <= set(metalearn.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'metalearn' has no attribute 'backprob'"):
        metalearn.backprob  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


ROOT = Path(metalearn.__file__).parent
MODULES = [path for folder in (ROOT, ROOT / "costs", ROOT / "gradients") for path in sorted(folder.glob("[a-z]*.py"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_names_its_public_objects(path):
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), public
