"""A run of few steps gets a warm-up that fits into it, whatever command begins it; one that was asked for stays."""

import pytest

from metalearn.cli import sweep, train_gpt, train_tables
from metalearn.cli.main import main
from metalearn.errors import RunError


def _sweep(words):
    seen = []

    def run(config, options, out):
        seen.append(config)
        raise RunError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run", run)
        assert main(["sweep", "digits", *words, "--seeds", "2", "--out", "never-made"]) == 1
    return seen[0].outer_optimizer


COMMANDS = {
    "sweep": (_sweep, "--outer-optimizer.warmup", 100),
    "train tables": (lambda words: train_tables.parse(words)[0].config.optimizer, "--optimizer.warmup", 100),
    "train-gpt": (lambda words: train_gpt.parse(words)[1].config.outer_optimizer, "--outer-optimizer.warmup", 50),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_shorter_than_the_usual_warm_up_gets_a_shorter_one_and_says_so(command, capsys):
    read, option, usual = COMMANDS[command]
    for words, warmup in ((["--steps", "40"], 4), (["--steps", "40", option, "60"], 60), (["--steps", "200"], usual)):
        assert read(words).warmup == warmup
        said = f"the warm-up is 4 outer steps, since the usual {usual} do not fit into 40\n"
        assert capsys.readouterr().err.replace("metalearn: far enough\n", "") == (said if warmup == 4 else "")
