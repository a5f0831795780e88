"""Every experiment is in the list, keeps the contract, and is run as the documentation says."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest

from experiments import catalogue
from experiments.catalogue import EXPERIMENTS, ROOT, Entry, format_list
from experiments.suite.command_line import parse, run_command
from metalearn.errors import RunError, UnknownNameError

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SCRIPTS = [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]


def commands(text):
    """What follows `python -m experiments` in a text, at the start of a line or in backticks, without comments."""
    found = re.findall(r"(?:^|`)\s*python -m experiments ([^`\n]*)", text, re.MULTILINE)
    words = [line.split("#")[0].split() for line in found]
    return [tuple(w) for w in words if w and not any(set(word) & set("[]{}") or word == "NAME" for word in w)]


def documented():
    """Commands and the files that name them."""
    found = {}
    for path in (*PAGES, *SCRIPTS):
        for words in commands(path.read_text()):
            found.setdefault(words, []).append(path.relative_to(ROOT))
    return found


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_a_command_in_the_documentation_is_accepted(words):
    if words == ("--list",):
        return
    try:
        parse(words[0], words[1:])
    except SystemExit as error:
        assert error.code == 0 and words[-1] == "--help"


def test_commands_are_found_where_they_stand():
    text = (
        "is `python -m experiments a quick --x 1` and\n    python -m experiments b  # c\nsee python -m experiments d\n"
    )
    assert commands(text) == [("a", "quick", "--x", "1"), ("b",)]
    assert commands("`python -m experiments NAME [PRESET]`, `python -m experiments {name}`") == []
    names = {words[0] for words in documented()}
    assert names >= set(EXPERIMENTS), "every experiment says how it is run"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_keeps_the_contract(name):
    entry = EXPERIMENTS[name]
    module = importlib.import_module(entry.module)
    if hasattr(module, "EXPERIMENT"):
        presets, kind = module.EXPERIMENT.presets, type(next(iter(module.EXPERIMENT.presets.values())))
        assert module.EXPERIMENT.name == name
    else:
        presets = getattr(module, "PRESETS", {})
        kind = type(next(iter(presets.values()))) if presets else module.Options
        assert list(inspect.signature(module.run).parameters)[1] == "progress" and callable(module.format_result)
    assert list(presets) == list(entry.times), "the catalogue has the presets of the module, in order"
    assert all(type(preset) is kind for preset in presets.values()) and "json" not in {f.name for f in fields(kind)}
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            helped = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert helped, f"{ast.unparse(field.target)} has no help text"


def test_every_module_that_runs_something_is_in_the_list():
    listed = {entry.module for entry in EXPERIMENTS.values()}
    for path in (ROOT / "experiments").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert (module in listed) or "format_result" not in names, module
        if path.name != "__main__.py" and "if __name__" in path.read_text():
            assert path.name.startswith("_"), f"{module}: only the processes of an experiment start as modules"


def test_the_list_has_every_name_with_its_presets_and_loads_none():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments", "--list"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.rstrip() == format_list()
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "experiments.catalogue" in imported and not imported & {"jax", "numpy", "tyro"}
    for name, entry in EXPERIMENTS.items():
        (line,) = [at for at, line in enumerate(done.stdout.splitlines()) if line.startswith(f"  {name} ")]
        if entry.times:
            assert done.stdout.splitlines()[line + 1].strip().startswith(next(iter(entry.times)))


@dataclass(frozen=True)
class Config:
    """A toy."""

    steps: int = 3
    """Steps."""


@pytest.fixture
def toy(monkeypatch):
    """A module of an experiment that is called toy, with what it was run with."""
    module = SimpleNamespace(
        __name__="toy", __doc__="A toy.", PRESETS={"short": Config(), "long": Config(9)}, ran=[],
        run=lambda config, progress: module.ran.append(config) or {"steps": config.steps},
        format_result=lambda result: f"{result['steps']} steps",
    )  # fmt: skip
    monkeypatch.setitem(catalogue.EXPERIMENTS, "toy", Entry("toy", {"short": "1 s", "long": ""}))
    monkeypatch.setitem(sys.modules, "toy", module)
    return module


def test_the_first_preset_is_the_default_and_options_change_one_setting(toy, capsys):
    for words, steps in (([], 3), (["long"], 9), (["long", "--steps", "5"], 5), (["--steps", "4"], 4)):
        assert run_command("toy", words) == 0
        assert toy.ran.pop() == Config(steps) and capsys.readouterr().out == f"{steps} steps\n"
    assert run_command("toy", ["--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"steps": 3}


def test_the_process_is_prepared_before_anything_is_run(toy):
    toy.prepare_process = lambda: toy.ran.append("prepared")
    assert run_command("toy", []) == 0 and toy.ran == ["prepared", Config()]


def test_help_says_what_an_experiment_is_its_presets_and_its_options(toy, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command("toy", ["long", "--help"])
    assert caught.value.code == 0 and toy.ran == []
    shown = capsys.readouterr().out
    for text in ("python -m experiments toy [short|long]", "A toy.", "Presets: short (1 s), long.", "default: 9"):
        assert text in shown


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("tyo", [], "experiments: unknown experiment 'tyo'. Did you mean 'toy'?"),
        ("toy", ["lnog"], "toy: unknown preset 'lnog'. Did you mean 'long'? Known: long, short."),
    ],
)
def test_unknown_names_get_the_nearest(name, words, message, toy, capsys):
    assert run_command(name, words) == 1 and toy.ran == []
    assert capsys.readouterr().err.startswith(message)
    with pytest.raises(UnknownNameError):
        parse(name, words)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunError("no such run"), 1, "toy: no such run\n"),
        (FloatingPointError("nan at step 3"), 1, "toy: nan at step 3\n"),
        (KeyboardInterrupt(), 130, "toy: stopped\n"),
        (RuntimeError("a bug"), None, ""),
    ],
)
def test_what_a_person_can_mend_is_one_line_and_the_rest_keeps_its_traceback(error, status, message, toy, capsys):
    def fail(config, progress):
        raise error

    toy.run = fail
    if status is None:
        with pytest.raises(RuntimeError, match="a bug"):
            run_command("toy", [])
    else:
        assert run_command("toy", []) == status
    assert capsys.readouterr().err == message
