"""CI, the workflow and the hooks before a commit say the same things, and versions agree."""

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from metalearn import __version__

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "run"


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def jobs():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]


def test_an_unknown_stage_is_refused_with_those_that_exist():
    done = subprocess.run([SCRIPT, "lnit"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "unknown stage lnit: choose from tests, newest, wheel, lint, types, docs\n"


def test_the_workflow_runs_every_stage_on_every_python_of_the_classifiers(project, jobs):
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    stages = [word for command in commands if command.startswith(".ci/run ") for word in command.split()[1:]]
    # the matrix is what `newest` is for on a single machine
    assert stages == ["tests", "wheel", "lint", "types", "docs"]
    prefix = "Programming Language :: Python :: 3."
    pythons = [c.removeprefix(prefix[:-2]) for c in project["classifiers"] if c.startswith(prefix)]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == pythons
    assert project["requires-python"] == f">={pythons[0]}"


def test_the_hooks_before_a_commit_are_commands_of_ci():
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    lines = [line.strip() for line in SCRIPT.read_text().splitlines()]
    assert [hook["entry"] for hook in local["hooks"] if hook["entry"] in lines] == [
        "ruff check .",
        "ruff format --check .",
        "pyright",
    ]
    assert len(local["hooks"]) == 3


def test_version_and_licence_are_the_same_wherever_they_stand(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == (project["name"], __version__)
    assert citation["license"] == project["license"]
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
