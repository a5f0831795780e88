"""Every option of every command, with six values that users type: right ones are taken, wrong ones refused in a line.

The cases come from the configurations themselves, so an option that is added later is tested too. Nothing is loaded or
compiled: what a command does once its words are read is replaced by an error.
"""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import get_args, get_origin

import pytest

from metalearn.cli import (
    catalogue,
    evaluate,
    loss,
    plot,
    search_loss,
    sweep,
    train,
    train_gpt,
    train_optimizer,
    train_tables,
)  # fmt: skip
from metalearn.cli.main import COMMANDS, main
from metalearn.errors import UsageError
from metalearn.ranges import Existing, Within, allows, check, describe, fields_of, members
from metalearn.recipes.gpt.config import PRESETS as GENERATORS
from metalearn.recipes.in_context.build import load_data
from metalearn.recipes.in_context.config import learner_names, validate, with_learner
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.learned_optimizer.config import optimizer_names, recommended
from metalearn.recipes.options import check_words, options_of, read
from metalearn_models.learners.registry import LEARNERS
from metalearn_models.optimizers.handmade.table import HANDMADE
from metalearn_tasks.families.registry import FAMILIES

CLI = Path(train.__file__).parent
VALUES = {
    "zero": "0", "minus one": "-1", "nan": "nan", "empty": "", "far too large": "1" + "0" * 400, "misspelt": "mispelt",
}  # fmt: skip


def _with_settings_of_their_own():
    """Optimizers made by hand with a setting that none before them has: all other options are those of any other."""
    seen, found = set(), []
    for name in HANDMADE:
        settings = set(vars(recommended(name).settings))
        found += [name] if settings - seen else []
        seen |= settings
    return found


WITH_SETTINGS_OF_THEIR_OWN = _with_settings_of_their_own()
COMMANDS_BY_WORDS = {
    **{f"train {name}": train.TrainCommand(config) for name, (_, config) in PRESETS.items()},
    **{
        f"train linear --learner {name}": train.TrainCommand(with_learner(PRESETS["linear"][1], name))
        for name in learner_names()
    },
    **{f"sweep {name}": sweep.SweepCommand(config) for name, (_, config) in PRESETS.items()},
    **{
        f"train-optimizer {name}": train_optimizer.TrainOptimizerCommand(recommended(name))
        for name in (*(n for n in optimizer_names() if n not in HANDMADE), *WITH_SETTINGS_OF_THEIR_OWN)
    },
    "train tables": train_tables.TrainTablesCommand(),
    **{f"train-gpt {name}": train_gpt.TrainGPTCommand(config) for name, (config, _) in GENERATORS.items()},
    "evaluate RUN": evaluate.EvaluateCommand(),
    "plot RUN": plot.PlotCommand(),
    "search-loss": search_loss.SearchLossCommand(),
    "loss": loss.LossCommand(),
    "list": catalogue.ListCommand(),
}


@pytest.fixture(autouse=True)
def _nothing_is_done(monkeypatch):
    def begin(*args, **kwargs):
        raise AssertionError("the words were taken, and the command would now do its work")

    for module, name in [
        (train, "meta_train"), (sweep, "run"), (train_optimizer, "meta_train"), (train_gpt, "train_gpt"),
        (train_tables, "meta_train_tables"), (evaluate, "evaluate"),
        (search_loss, "search_loss"), (plot, "open_run"), (catalogue, "catalogue"),
        (loss, "list_losses"),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, begin)
    for module in (train, train_optimizer, train_gpt):
        monkeypatch.setattr(module, "use_all_cores", lambda: None)


def item_of(field):
    """The type of one word of a field's value."""
    return next((get_args(kind)[0] for kind in members(field.hint) if get_origin(kind) is tuple), field.hint)


def is_right(field, text):
    """Whether a text is a value of a field, by the field's type alone."""
    if bool in members(field.hint) or any(isinstance(part, Existing) for part in _parts(field.hint)):
        return False  # a switch takes no value, and nothing on this machine has such a name
    item = item_of(field)
    for kind in set(members(item)) & {int, float, str, Path}:
        try:
            if (kind is not Path or text) and allows(item, kind(text)):
                return True
        except ValueError:
            continue
    return False


def test_every_command_is_there():
    assert {words.split()[0] for words in COMMANDS_BY_WORDS} == set(COMMANDS)
    commands = {type(command) for command in COMMANDS_BY_WORDS.values()}
    assert commands == {
        found
        for module in map(importlib.import_module, (f"metalearn.cli.{path.stem}" for path in CLI.glob("*.py")))
        for name, found in vars(module).items()
        if name.endswith("Command") and dataclasses.is_dataclass(found)
    }


@pytest.mark.unchecked_types
@pytest.mark.parametrize("words", COMMANDS_BY_WORDS)
def test_wrong_values_are_refused_in_one_line_and_right_ones_are_taken(words, capsys):
    command, right = COMMANDS_BY_WORDS[words], []
    for option, field in options_of(command).items():
        for text in VALUES.values():
            if is_right(field, text):
                right.append((option, text))
                continue
            status = main([*words.split(), f"{option}={text}"])
            out, err = capsys.readouterr()
            assert status == 2 and not out, (option, text)
            assert re.fullmatch(rf"metalearn: {re.escape(option)}\b.*\n", err) and len(err) < 700, (option, text, err)
            assert any(said in err for said in ("takes no value", describe(item_of(field)), "on this machine")), err
    mechanisms = {"--prior.causal", "--prior.direct", "--prior.clusters"}
    while right:  # as many options at once as there are, each with one of its right values
        now = dict(right)
        if mechanisms <= now.keys():  # weights that are all 0 are refused together: one waits for the next round
            now.pop("--prior.causal")
        right = [case for case in right if case not in now.items()]
        given = [f"{option}={text}" for option, text in now.items()]
        found = read(command, ["RUN", *given] if "RUN" in words else given, "metalearn")
        values = {field.option: field.value for field in options_of(found).values()}
        for option, text in now.items():
            value = values[option][0] if isinstance(values[option], tuple) else values[option]
            assert str(value) == text or value == float(text), option


@pytest.mark.parametrize("words", COMMANDS_BY_WORDS)
def test_every_number_has_a_range(words):
    for option, field in options_of(COMMANDS_BY_WORDS[words]).items():
        if {int, float} & set(members(item_of(field))):
            found = [part for part in _parts(field.hint) if isinstance(part, Within)]
            assert found, f"{option} has no range: give its field a type of metalearn/ranges.py"


def _parts(hint):
    yield from getattr(hint, "__metadata__", ())
    for part in get_args(hint):
        yield from _parts(part)


def test_which_values_are_right_is_what_a_person_would_say():
    right = {
        option: {kind for kind, text in VALUES.items() if is_right(field, text)}
        for option, field in options_of(train.TrainCommand(PRESETS["digits"][1])).items()
    }
    zero, path = {"zero"}, {"zero", "minus one", "nan", "misspelt"}
    assert {option for option in right if right[option] == path} == {"--run", "--data.source"}
    assert {option for option in right if right[option] == zero} == {
        "--data.size", "--family.permute-prob", "--family.anneal-steps", "--family.seed", "--outer-optimizer.warmup",
        "--outer-optimizer.b1", "--outer-optimizer.b2", "--outer-optimizer.eps", "--outer-optimizer.eps-root",
        "--outer-optimizer.weight-decay", "--curriculum.steps", "--seed", "--evaluate-every", "--checkpoint-every",
    } - {"--data.size"}  # fmt: skip
    assert all(found in (zero, path, set()) for found in right.values())
    assert len(right) > 50


@pytest.mark.parametrize("config", [e.config() for e in (*LEARNERS.values(), *FAMILIES.values())], ids=repr)
def test_defaults_are_right_and_other_types_are_not(config):
    check(config)
    for field in fields_of(config):
        assert not allows(field.hint, object()), field
        assert not allows(field.hint, float("nan")), field


@pytest.mark.parametrize("text", ["0", "-1", "nan", "mispelt"])
def test_a_data_set_that_does_not_exist_is_named_with_its_option(text):
    command = read(train.TrainCommand(PRESETS["digits"][1]), ["--data.source", text], "metalearn train")
    with pytest.raises(ValueError, match=rf"^--data\.source: unknown data set '{text}'"):
        load_data(command.config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train --steps 50 --outer-optimizer.warmup 60",
            "--outer-optimizer.warmup must be shorter than the run: it is 60 and --steps is 50",
        ),
        ("train --curriculum.steps 5 --curriculum.first 60", "--curriculum.first must be at most --family.length"),
    ],
)
def test_options_that_do_not_fit_each_other_are_both_named(words, message):
    with pytest.raises(ValueError, match=message):
        validate(train.parse(words.split()[1:])[1].config)


@pytest.mark.parametrize("text", ["none", "None", "NONE"])
def test_none_is_taken_however_it_is_written(text):
    options = options_of(train.TrainCommand(PRESETS["digits"][1]))
    given = [f"{option}={text}" for option, field in options.items() if type(None) in members(field.hint)]
    found = read(train.TrainCommand(PRESETS["digits"][1]), given, "metalearn train")
    values = {field.option: field.value for field in options_of(found).values()}
    assert len(given) > 8 and {values[word.partition("=")[0]] for word in given} == {None}


def test_the_home_folder_is_expanded_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    for words, command in COMMANDS_BY_WORDS.items():
        positional = ["~/x"] if "RUN" in words else []
        assert check_words(command, positional, "metalearn") == [str(tmp_path / "x")][: len(positional)]
        for option, field in options_of(command).items():
            if field.name.endswith(("data_dir", "start", "source", "run", "out", "picture")):
                assert check_words(command, [*positional, f"{option}=~/x"], "metalearn")[-1] == str(tmp_path / "x")


def test_right_values_that_a_configuration_refuses_together_give_one_line(capsys):
    assert main("train tables --prior.causal 0 --prior.direct 0 --prior.clusters 0".split()) == 2
    said = (
        "--prior: causal, direct and clusters are the weights of the three mechanisms and must not all be 0, got 0.0, "
    )
    assert capsys.readouterr().err == f"metalearn: {said}0.0 and 0.0\n"


def test_a_switch_takes_no_value_and_has_an_opposite(capsys):
    assert read(train.TrainCommand(PRESETS["digits"][1], quiet=True), ["--no-quiet"], "metalearn").quiet is False
    assert main(["train", "--quiet=yes"]) == 2
    assert "--quiet takes no value, got 'yes': write --quiet or --no-quiet" in capsys.readouterr().err
    assert main(["train", "--seed", "1", "--family.repeats", "5"]) == 2
    said = "unexpected word '5' after --family.repeats, which takes no value: the preset comes first"
    assert said in capsys.readouterr().err


def test_bytes_that_are_no_text_here_name_a_folder():
    """As Python reads a folder "ü" on the command line where names are ASCII (LC_ALL=C PYTHONUTF8=0)."""
    name = "ü".encode().decode("ascii", "surrogateescape")
    assert check_words(COMMANDS_BY_WORDS["evaluate RUN"], [name], "metalearn") == [name]
    assert check_words(train.TrainCommand(PRESETS["digits"][1]), ["--run", name], "metalearn") == ["--run", name]
    with pytest.raises(UsageError, match="no part of it longer than 255 bytes"):
        check_words(train.TrainCommand(PRESETS["digits"][1]), ["--run", 128 * name], "metalearn")
