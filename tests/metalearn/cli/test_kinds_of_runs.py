"""Every command that takes a run says what a run of another kind is, and what to do with it."""

import re

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


def test_each_recipe_reads_its_own_runs_and_a_kind_of_tomorrow_is_refused():
    for recipe, kind in ((in_context, "train"), (tables, "train tables"), (gpt, "train-gpt")):
        assert recipe.to_json(recipe.from_json(CONFIGURATIONS[kind])) == CONFIGURATIONS[kind]
    for kind in ("spline", [], {}):
        with pytest.raises(RunError, match=re.escape(f"knows no runs of kind {kind!r}")):
            refuse_other_kinds({"kind": kind}, LEARNER)
