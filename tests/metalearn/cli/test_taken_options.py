"""Options that are read before all others, since they decide which others there are: each wrong value is one line."""

import pytest

from metalearn.cli.main import main

COMMANDS = [
    *((command, "--resume") for command in ("train", "train tables", "train-optimizer", "train-gpt")),
    *((command, "--learner") for command in ("train", "train digits", "sweep")),
]


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_wrong_values_are_refused_in_one_line(command, option, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        ([option], f"{option} needs a value"),
        ([f"{option}="], f"{option} needs a value"),
        ([option, ""], f"{option} needs a value"),
        ([option, "--steps", "3"], f"{option} needs a value"),
        ([option, "mlp", f"{option}=lstm"], f"{option} is there twice: give it once"),
        *(([f"{option}={text}"], text) for text in ("0", "-1", "nan", "mispelt", "9" * 30)),
    ):
        assert main([*command.split(), *words]) in (1, 2)
        out, err = capsys.readouterr()
        assert not out and err.startswith("metalearn: ") and err.count("\n") == 1 and message in err, (words, err)
    assert not list(tmp_path.iterdir())
