"""The API reference is whole: every module says what is public, and what is public is described."""

import ast
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
import api_pages  # noqa: E402

sys.path.remove(str(DOCS))

MODULES = [
    path
    for home in api_pages.HOMES.values()
    for path in sorted(home.rglob("*.py"))
    if not any(part.startswith("_") for part in path.with_suffix("").relative_to(home).parts)
]


def public_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("there is no __all__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(path.parts[-3:]))
def test_every_public_name_is_described(path):
    tree = ast.parse(path.read_text())
    names, bare = public_names(tree), []
    assert len(names) == len(set(names))
    for before, node in zip([None, *tree.body], [*tree.body, None], strict=True):
        if isinstance(before, ast.FunctionDef | ast.ClassDef) and before.name in names:
            names.remove(before.name)
            bare += [] if ast.get_docstring(before) else [before.name]
        if isinstance(before, ast.Assign | ast.AnnAssign):
            target = before.targets[0] if isinstance(before, ast.Assign) else before.target
            name = getattr(target, "id", "")
            if name in names:
                names.remove(name)
                text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                bare += [] if text else [name]
    assert not bare, f"without a docstring: {bare}"
    imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not set(names) - imported, f"in __all__ and not defined: {set(names) - imported}"


def test_the_reference_has_a_page_per_room_and_every_module(tmp_path):
    api_pages.write(tmp_path)
    text = "".join(page.read_text() for page in tmp_path.glob("*.md"))
    for package, home in api_pages.HOMES.items():
        for path in MODULES:
            if path.is_relative_to(home):
                name = ".".join([package, *path.with_suffix("").relative_to(home).parts])
                assert f".. automodule:: {name}\n" in text, name
