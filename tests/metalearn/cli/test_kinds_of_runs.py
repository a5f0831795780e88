"""Every command that takes a run says what a run of another kind is, and what to do with it."""

import re
import shutil

import pytest

from metalearn.cli.main import main
from metalearn.recipes.gpt import config as gpt
from metalearn.recipes.in_context import config as in_context
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.kinds import LEARNER, refuse_other_kinds
from metalearn.recipes.learned_optimizer import config as learned_optimizer
from metalearn.recipes.tables import config as tables_config
from metalearn.recipes.tables import run as tables
from metalearn.runs.folder import RunError, create_run

CONFIGURATIONS = {
    "train": in_context.to_json(PRESETS["digits"][1]),
    "train tables": tables.to_json(tables_config.TrainTablesConfig()),
    "train-optimizer": learned_optimizer.to_json(learned_optimizer.TrainOptimizerConfig()),
    "train-gpt": gpt.to_json(gpt.PRESETS["mlp"][0]),
}
USES = {
    "train": "`metalearn evaluate RUN` scores it",
    "train tables": "InContextClassifier(weights=RUN) predicts with it, and `python -m experiments keel",
    "train-optimizer": "optimizers.load(RUN) trains with it, and `python -m experiments optimizer_suite",
    "train-gpt": "optimizers.load(RUN, prompt=LOSS, jumps=1) trains with it",
}
COMMANDS = {
    "evaluate": ("train", ["evaluate"]),
    "start": ("train", ["train", "digits", "--quiet", "--run", "new", "--start"]),
    "train": ("train", ["train", "--resume"]),
    "train-optimizer": ("train-optimizer", ["train-optimizer", "--resume"]),
    "train-gpt": ("train-gpt", ["train-gpt", "--resume"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_of_another_kind_is_refused_with_what_it_is_for(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, words = COMMANDS[command]
    for kind, config in CONFIGURATIONS.items():
        if kind == own or (kind, command) == ("train tables", "train"):  # `train --resume` resumes these too
            continue
        folder = tmp_path / kind.replace(" ", "-")
        create_run(folder, config)
        assert main([*words, str(folder)]) == 1
        said = capsys.readouterr().err
        assert f"this is a run of `metalearn {kind}`, not of `metalearn {own}`: " in said and USES[kind] in said
        assert f"`metalearn {kind.removesuffix(' tables')} --resume RUN` continues it" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["evaluate"], ["plot"], *(COMMANDS[name][1] for name in COMMANDS if name != "evaluate")]
)
def test_a_search_and_a_sweep_are_told_apart_from_runs_with_what_reads_them(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = {
        "search.json": "is the search of `metalearn search-loss --out it`; `metalearn loss show it` shows the loss",
        "loss.json": "is the search of `metalearn search-loss",
        "sweep.db": "is the sweep of `metalearn sweep --out it`",
        "sweep.json": "its runs are the folders in it/cells",
    }
    for name, reason in said.items():
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / name).touch()
        assert main([*words, "it"]) == 1
        err = capsys.readouterr().err.replace(f"{tmp_path}/", "")
        assert reason in err and err.count("\n") == 1
        shutil.rmtree(tmp_path / "it")


def test_each_recipe_reads_its_own_runs_and_a_kind_of_tomorrow_is_refused():
    for recipe, kind in ((in_context, "train"), (tables, "train tables"), (gpt, "train-gpt")):
        assert recipe.to_json(recipe.from_json(CONFIGURATIONS[kind])) == CONFIGURATIONS[kind]
    for kind in ("spline", [], {}):
        with pytest.raises(RunError, match=re.escape(f"knows no runs of kind {kind!r}")):
            refuse_other_kinds({"kind": kind}, LEARNER)
