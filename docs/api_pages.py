"""The pages of the API reference, one per room, made from the packages themselves so that no module is forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOMES = {
    "metalearn": ROOT / "metalearn",
    "metalearn_models": ROOT / "models" / "metalearn_models",
    "metalearn_tasks": ROOT / "tasks" / "metalearn_tasks",
}
PACKAGES = list(HOMES)


def write(folder: Path) -> None:
    """Write a page per package folder and their index; pages of rooms that are gone are removed."""
    folder.mkdir(exist_ok=True)
    pages = {}
    for name, home in HOMES.items():
        for init in sorted(home.rglob("__init__.py")):
            room = ".".join([name, *init.parent.relative_to(home).parts])
            if not any(part.startswith("_") for part in room.split(".")):
                pages[room] = _page(room, init.parent)
    entries = "\n".join(sorted(pages))
    pages["index"] = (
        "# API reference\n\nEvery public name of the three packages, room by room. What most users need is re-exported "
        "by the packages themselves, as in `from metalearn import outer_loop`.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    )
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def unlisted() -> list[str]:
    """Regular expressions for names without underscore that a module's `__all__` leaves out: they are not public."""
    found = []
    for package, home in HOMES.items():
        for path in sorted(home.rglob("*.py")):
            module = ".".join([package, *path.with_suffix("").relative_to(home).parts]).removesuffix(".__init__")
            tree = ast.parse(path.read_text())
            listed = [
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
            ]
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            names -= set(listed[0]) if listed else set()
            found += [re.escape(f"{module}.{name}") + r"(\..*)?" for name in sorted(names)]
    return found


def _page(room: str, folder: Path) -> str:
    modules = [p.stem for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")]
    text = f"# {room}\n\n```{{py:module}} {room}\n```\n\n{_docstring(folder / '__init__.py')}\n"
    for module in modules:
        name = f"{room}.{module}"
        text += f"\n## {module}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
    return text


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""
