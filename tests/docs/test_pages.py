"""What the documentation shows is true: its Python runs, its commands parse, its links and files are there."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import yaml

from metalearn.cli import evaluate, plot, processes, sweep, train, train_gpt, train_optimizer, train_tables
from metalearn.cli.main import main
from metalearn.recipes.in_context.config import to_json
from metalearn.recipes.in_context.presets import PRESETS

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    ROOT / "models" / "README.md",
    ROOT / "tasks" / "README.md",
]
SMALLER = {
    "for _ in range(20)": "for _ in range(1)",
    "for _ in range(10)": "for _ in range(1)",
    "for _ in range(100)": "for _ in range(3)",
    "steps_per_call=50": "steps_per_call=1",
    "steps_per_call=20": "steps_per_call=1",
    "batch=64": "batch=2",
    "pairs=16": "pairs=2",
}
"""Sizes that take minutes, and what they are in the test."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def name(value) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else ""


RUN = [
    (page, i) for page in (ROOT / "README.md", ROOT / "docs" / "start.md") for i in range(len(blocks(page, "python")))
]


@pytest.mark.parametrize(("page", "number"), RUN, ids=[f"{name(page)}-{i}" for page, i in RUN])
def test_python_of_the_first_pages_runs(page, number, capsys):
    code = blocks(page, "python")[number]
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    exec(compile(code, str(page), "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_of_every_page_is_python(page):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


def jobs(page):
    """Commands in jobs of SLURM, behind srun, and of Kubernetes, with their variables filled in."""
    scripts = [line.removeprefix("srun ") for text in blocks(page, "bash") for line in text.splitlines()]
    for text in blocks(page, "yaml"):
        spec = yaml.safe_load(text)["spec"]["template"]["spec"]
        scripts += [container["args"][0] for container in spec["containers"]]
    return [text.replace("$SCRATCH", "/scratch").replace("$JOB_COMPLETION_INDEX", "1") for text in scripts]


class _Reached(Exception):
    """The command line was read, and its work would begin."""


COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for page in PAGES
        for text in [*blocks(page, "bash"), *re.findall(r"`(metalearn [^`]*)`", page.read_text()), *jobs(page)]
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip().startswith("metalearn ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_every_page_are_read(line, monkeypatch, capsys, tmp_path):
    def reached(*args, **kwargs):
        raise _Reached

    monkeypatch.chdir(tmp_path)  # a command that is not stopped leaves nothing in the repository
    run = SimpleNamespace(config=to_json(PRESETS["digits"][1]))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: None)
    monkeypatch.setattr(processes, "all_do", lambda compare: None)  # it would miss the other processes
    monkeypatch.setattr(train, "meta_train", reached)
    monkeypatch.setattr(train, "open_run", lambda folder: run)
    monkeypatch.setattr(train_tables, "meta_train_tables", reached)
    monkeypatch.setattr(train_optimizer, "meta_train", reached)
    monkeypatch.setattr(train_gpt, "train_gpt", reached)
    monkeypatch.setattr(evaluate, "evaluate", reached)
    monkeypatch.setattr(plot, "open_run", reached)
    monkeypatch.setattr(sweep, "run", reached)
    words = shlex.split(line)[1:]
    if re.search(r"\b(COMMAND|PRESET|NAME|FIELD)\b|\.\.\.", line) or words[0] == "search-loss":
        pytest.skip("a command to be filled in, or one that its own tests read")
    try:
        status = main([*words, "--help"] if words == ["sweep"] else words)
    except _Reached:
        return
    except SystemExit as error:
        status = error.code
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_are_there(page):
    """By the end of their path: a table gives the folder once."""
    known = [f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*.py")]
    named = re.findall(r"`([\w./-]+\.py)`", page.read_text())
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in known)] == []


def test_the_readme_is_short_and_its_two_commands_are_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "pip install . && metalearn train" in text
    assert re.search(r"<!-- test command -->\n```bash\n(.+)\n```\n<!-- end -->", text)
