"""The command line at toy size: results, pictures, resume, and what it says to bad input."""

import dataclasses
import json
import re
import shutil
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from sklearn.datasets import load_digits

from metalearn.cli.main import main
from metalearn.cli.train import parse
from metalearn.errors import RunError
from metalearn.pictures import draw_meta_loss, draw_training, new_figure
from metalearn.recipes.driving import compile_outer_loop, initial_state
from metalearn.recipes.in_context import config as configs
from metalearn.recipes.in_context.build import load_data, prepare, read_theta
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.scoring import evaluations, learner_scorers, table, tasks_to_score
from metalearn.recipes.streams import stream
from metalearn.runs.checkpoints import checkpoint_steps
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics
from metalearn.runs.weights import theta_sha256
from metalearn_models import InContextClassifier
from metalearn_models.learners.library import load

TINY = [
    *("--learner.width", "8", "--learner.layers", "1", "--learner.heads", "2", "--learner.key-size", "4"),
    *("--family.length", "8", "--batch", "4", "--eval-tasks", "3", "--eval-sequences", "2", "--quiet", "--json"),
    *("--steps-per-call", "2", "--evaluate-every", "4", "--checkpoint-every", "2", "--outer-optimizer.warmup", "1"),
    *("--references", "1nn", "--outer-optimizer.schedule", "constant"),  # a cosine would depend on the number of steps
]


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "digits", "--steps", "4", "--run", str(folder), *TINY]) == 0
    return folder


def test_train_leaves_a_complete_run_folder(trained):
    assert (trained / "learning_curves.png").stat().st_size > 10_000
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 4 and 0 <= result["unseen_accuracy"] <= 1
    assert set(result["curves"]) >= {"training", "unseen", "reference: 1nn"}
    assert {len(row) for row in result["curves"]["unseen"].values()} == {8}
    assert [r["step"] for r in read_metrics(open_run(trained)) if "loss" in r] == [1, 2, 3, 4]
    assert checkpoint_steps(open_run(trained)) == [2, 4]
    assert list((trained / "tensorboard").iterdir())
    assert configs.from_json(open_run(trained).config).learner.width == 8


def test_a_resumed_run_ends_in_the_same_bytes_and_prints_them_last(trained, capsys, tmp_path):
    folder = tmp_path / "half"
    assert run(capsys, "train", "digits", "--steps", 2, "--run", folder, *TINY)[0] == 0
    picture = folder / "learning_curves.png"
    picture.unlink()
    picture.symlink_to("/dev/full")  # the disk is full when the picture is written
    status, out, err = run(capsys, "train", "--resume", folder, "--steps", 4, "--quiet", "--json")
    assert status == 0, err
    assert re.search(rf"cannot write the picture {picture}: .*No space left", err) and "unseen" in out
    result = json.loads(out.splitlines()[-1])
    assert set(result) == {"unseen_accuracy", "seconds", "steps", "theta_sha256", "run"}
    assert result["theta_sha256"] == json.loads((trained / "result.json").read_text())["theta_sha256"]
    status, _, err = run(capsys, "train", "--resume", folder, "--seed", 3, "--quiet")
    assert status == 1 and "seed" in err


def test_evaluate_on_other_data_with_fewer_features_and_classes(trained, capsys):
    words = ("--tasks", 3, "--sequences", 2, "--references", "1nn", "--json")
    status, out, err = run(capsys, "evaluate", trained, "--data", "wine", *words)
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert set(result["last_positions"]) == {"unseen", "reference: 1nn"}
    stem = "evaluate-wine-tasks3-sequences2"  # so that evaluations with other options do not replace each other
    assert result["picture"] == str(trained / f"{stem}.png") and (trained / f"{stem}.png").exists()
    written = json.loads((trained / f"{stem}.json").read_text())
    options = {"size": None, "pca": None, "identity": False, "average": 1, "tasks": 3, "sequences": 2, "seed": 0}
    assert options.items() <= written.items() and options.items() <= result.items()


def test_evaluate_mixes_the_learner_with_kernel_ridge_regression(trained, capsys):
    """A learner of a few steps knows little, so that the mixture is nearer to kernel ridge regression than it is."""
    words = ("--data", "wine", "--tasks", 8, "--sequences", 4, "--references", "kernel", "--json")
    answers = [run(capsys, "evaluate", trained, *words, *more)[1] for more in ((), ("--mix-kernel",))]
    plain, mixed = (json.loads(out.splitlines()[-1]) for out in answers)
    alone, together = (found["last_positions"]["unseen"]["mean"] for found in (plain, mixed))
    assert alone + 0.1 < together <= mixed["last_positions"]["reference: kernel"]["mean"] + 0.05
    assert mixed["mix_kernel"] and mixed["picture"].endswith("-mix_kernel.png")


def test_copies_belong_to_the_images_of_meta_training_alone(trained, capsys, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    values = json.loads((folder / "config.json").read_text())
    values["config"]["data"]["copies"] = 3
    (folder / "config.json").write_text(json.dumps(values))
    words = ("--tasks", 2, "--sequences", 1, "--references", "1nn")
    status, _, err = run(capsys, "evaluate", folder, "--data", "iris", *words)
    assert status == 0, err


def test_evaluate_on_other_data_does_not_need_those_of_the_run(trained, capsys, tmp_path):
    folder, gone = tmp_path / "moved", tmp_path / "gone"
    shutil.copytree(trained, folder)
    words = ("--data", "wine", "--tasks", 3, "--sequences", 2, "--references", "1nn", "--json")
    expected = json.loads(run(capsys, "evaluate", trained, *words)[1].splitlines()[-1])["last_positions"]
    content = json.loads((folder / "config.json").read_text())
    content["config"]["data"]["source"] = str(gone)
    (folder / "config.json").write_text(json.dumps(content))
    status, out, err = run(capsys, "evaluate", folder, *words)
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["last_positions"] == expected
    status, _, err = run(capsys, "evaluate", folder, *words[2:])
    assert status == 1 and str(gone) in err


def test_evaluate_scores_the_identity_task_and_refuses_it_before_any_work_where_it_does_not_fit(trained, capsys):
    words = ("--tasks", 3, "--sequences", 2, "--references", "1nn", "--identity", "--json")
    status, out, err = run(capsys, "evaluate", trained, *words)
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])["last_positions"]
    assert set(found) == {"training", "unseen", "identity", "identity, labels as they are", "reference: 1nn"}
    status, _, err = run(capsys, "evaluate", trained, "--data", "wine", *words)
    assert status == 1 and "learner's width 16, wine has 13" in err


def test_evaluate_does_not_need_the_run_that_its_run_began_from(trained):
    recipe = prepare(configs.from_json(open_run(trained).config))
    moved = recipe._replace(config=dataclasses.replace(recipe.config, start="no-longer-there"))
    theta = read_theta(trained, moved)
    assert theta_sha256(theta) == json.loads((trained / "result.json").read_text())["theta_sha256"]


@pytest.fixture
def old(trained, tmp_path):
    """The run as version 0.1 left it: under the names of then, and without weights beside the checkpoints."""
    folder = tmp_path / "old"
    shutil.copytree(trained, folder)
    content = json.loads((folder / "config.json").read_text())
    values = content["config"]
    for old_name, name in (("task", "family"), ("tasks", "batch"), ("optimizer", "outer_optimizer")):
        values[old_name] = values.pop(name)
    values["window"] = values["gradient"].pop("window")
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "theta.safetensors").unlink()
    return folder


def test_a_run_of_version_0_1_is_read_under_todays_names(old, trained, capsys):
    assert configs.from_json(open_run(old).config) == configs.from_json(open_run(trained).config)
    words = ("--tasks", 3, "--sequences", 2, "--references", "1nn", "--json")
    runs = [run(capsys, "evaluate", folder, *words) for folder in (old, trained)]
    assert [status for status, _, _ in runs] == [0, 0], runs
    of_old, of_new = (json.loads(out.splitlines()[-1]) for _, out, _ in runs)
    assert of_old["last_positions"] == of_new["last_positions"]


def test_a_run_of_version_0_1_resumes_and_leaves_its_weights(old, trained, capsys):
    with pytest.raises(RunError, match=r"holds no theta\.safetensors.*train --resume"):
        load(old)
    status, _, err = run(capsys, "train", "--resume", old, "--steps", 4, "--quiet")
    assert status == 0, err
    assert theta_sha256(load(old).theta) == theta_sha256(load(trained).theta)


def test_a_run_says_what_it_trained(trained):
    found, result = load(trained), json.loads((trained / "result.json").read_text())
    assert theta_sha256(found.theta) == result["theta_sha256"]
    assert found.card["steps"] == 4 and found.card["config"] == open_run(trained).config
    assert found.config == configs.from_json(open_run(trained).config).learner
    X, y = load_digits(return_X_y=True)
    assert InContextClassifier(trained, n_estimators=1).fit(X[:50], y[:50]).predict(X[50:60]).shape == (10,)


def test_plot_draws_from_the_files_alone(trained, capsys, tmp_path):
    status, out, _ = run(capsys, "plot", trained, "--out", tmp_path / "p.png", "--json")
    assert status == 0 and json.loads(out.splitlines()[-1])["steps"] == 4
    assert (tmp_path / "p.png").read_bytes() == (trained / "learning_curves.png").read_bytes()  # as the run drew itself


def test_plot_knows_what_an_unfinished_run_is_scored_by(trained, capsys, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    asked = Mock()
    monkeypatch.setattr("metalearn.recipes.in_context.run.draw_training", asked)
    assert run(capsys, "plot", tmp_path / "run")[0] == 0
    assert asked.call_args.args[2:] == (None, "accuracy", min(10, open_run(trained).config["family"]["length"]))


@pytest.mark.parametrize("finished", [True, False])
def test_plot_draws_runs_without_learning_curves_too(finished, capsys, tmp_path):
    """Such as those of optimizers and of learners of tables, whose configurations have a kind."""
    written = {"config": {"kind": "tables"}, "free": [], "environments": [{}], "format": 1, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps(written))
    lines = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.7}, {"step": 2, "eval/real_log_loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (tmp_path / "result.json").write_text("{}")
    status, _, err = run(capsys, "plot", tmp_path)
    assert status == 0, err
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_the_picture_of_a_meta_loss_has_every_loss_of_evaluations_and_may_lack_those_of_training():
    lines = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.7}, {"step": 2, "eval/real_log_loss": 0.5, "eval/x": 1.0}]
    for records, names in (
        (lines, ["meta-training loss", "evaluation, real log loss"]),
        (lines[2:], ["evaluation, real log loss"]),
    ):
        _, [left] = new_figure()
        draw_meta_loss(left, records)
        legend = left.get_legend()
        assert legend is not None and [text.get_text() for text in legend.get_texts()] == names
        [right] = [ax for ax in left.figure.axes if ax is not left]
        assert [list(map(float, line.get_xydata()[0])) for line in right.get_lines()] == [[2.0, 0.5]]


def test_list_names_everything(capsys):
    status, out, _ = run(capsys, "list", "--json")
    names = json.loads(out.splitlines()[-1])
    assert status == 0 and "digits" in names["presets"] and "vsml" in names["learners"] and "1nn" in out
    assert names["families of tasks"] == ["projected", "regression", "testbed"]
    assert names["families of tasks for Python alone"] == ["synthetic", "tables"]


def test_evaluation_uses_held_out_examples_only():
    config = PRESETS["digits"][1]
    recipe, dataset = prepare(config), load_data(config)
    np.testing.assert_array_equal(recipe.test_data.inputs, dataset.test.inputs)
    np.testing.assert_array_equal(recipe.data.inputs, dataset.train.inputs)
    train = {row.tobytes() for row in np.asarray(dataset.train.inputs)}
    assert not any(row.tobytes() in train for row in np.asarray(dataset.test.inputs))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_its_json_form(preset):
    config = PRESETS[preset][1]
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train' or 'train-gpt'?"),
        (["train", "digit"], "unknown preset 'digit'. Did you mean 'digits'?"),
        (["train", "--learner", "transformr"], "unknown learner 'transformr'. Did you mean 'transformer'?"),
        (["train", "--learner", "ridge"], "ridge has nothing to meta-train"),
        (["train", "--data.source", "digitz", "--run", "{tmp}"], "digitz"),
        (["train", "--resume", "{tmp}"], "{tmp}"),
        (["train", "--family.num-tasks", "0", "--run", "{tmp}"], "--family.num-tasks must be a whole number from 1 to"),
        (["train", "--learner", "--steps", "5"], "--learner needs a value"),
        (
            ["train", "--learner", "lstmm"],
            "? Known: learned-optimizer, lstm, maml, mlp, outer-lstm, tr",
        ),
        (["train", "--steps", "500", "digits"], "unexpected word 'digits': the preset comes first"),
        (["train", "--data.source", "iris", "--run", "{tmp}"], "--data.source iris: --data.pca 16, but 117 training"),
        (["train", "digits", "--learner.widht", "8"], "unknown option --learner.widht. Did you mean --learner.width"),
        (["train", "--resum", "x"], "unknown option --resum. Did you mean --resume or --run?"),
        (["sweep", "--learnr", "x"], "unknown option --learnr. Did you mean --learner or "),
        (["evaluate", "--tasks", "3"], "metalearn evaluate needs RUN"),
        (["evaluate", "{tmp}", "{tmp}"], "unexpected word"),
        (
            ["train", "--family.length", "5000", "--run", "{tmp}"],
            "5000 different examples cannot be drawn from the 1400",
        ),
        (["evaluate", "{tmp}"], "{tmp}"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, tmp_path, words, message):
    words = [word.replace("{tmp}", str(tmp_path / "x")) for word in words]
    status, _, err = run(capsys, *words)
    assert status in (1, 2)
    assert message.replace("{tmp}", str(tmp_path / "x")) in err
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--outer-optimizer.warmup", "9"],
            "warmup must be shorter than the run: it is 9 and --steps is 4",
        ),
        (["--references", "1nnn"], "got '1nnn'. Did you mean '1nn'?"),
        (["--references", "lstm"], "--references must be the name of a reference learner (1nn, centroid,"),
        (["--steps-per-call", "0"], "--steps-per-call must be a whole number from 1 to 2147483647, got 0"),
    ],
)
def test_what_cannot_run_is_refused_before_an_older_run_is_removed(trained, capsys, words, message):
    before = {f: f.stat().st_mtime_ns for f in trained.rglob("*")}
    start = ("train", "digits", "--steps", 4, "--run", trained, "--overwrite")
    status, _, err = run(capsys, *start, *TINY, *words)
    assert status in (1, 2) and message in err
    assert {f: f.stat().st_mtime_ns for f in trained.rglob("*")} == before


def test_resume_takes_nothing_that_would_be_ignored(trained, capsys):
    status, _, err = run(capsys, "train", "mnist", "--resume", trained)
    assert status == 2 and "remove the preset and --learner" in err
    status, _, err = run(capsys, "train", "--resume", trained, "--overwrite")
    assert status == 2 and "remove --run and --overwrite" in err


def test_a_cosine_schedule_says_why_its_run_cannot_be_lengthened(trained, capsys, tmp_path):
    folder = tmp_path / "cosine"
    folder.mkdir()
    text = (trained / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"schedule": "constant"', '"schedule": "cosine"'))
    status, _, err = run(capsys, "train", "--resume", folder, "--steps", 200)
    assert status == 2 and "--steps must stay 4: --outer-optimizer.schedule cosine" in err and "--start" in err


@pytest.mark.parametrize("preset", ["digits", "linear"])
def test_a_run_shorter_than_the_warm_up_of_its_preset_gets_a_shorter_one(preset, capsys):
    usual = PRESETS[preset][1].outer_optimizer.warmup
    for steps, warmup in ((50, 5), (usual, usual // 10), (1, 0), (usual + 1, usual)):
        assert parse([preset, "--steps", str(steps)])[1].config.outer_optimizer.warmup == warmup
        said = f"the warm-up is {warmup} outer steps, since the usual {usual} do not fit into {steps}\n"
        assert capsys.readouterr().err == (said if steps <= usual else "")


def test_the_picture_of_a_run_says_which_line_is_the_loss_and_which_the_accuracy_of_guessing():
    records = [{"step": 1, "loss": 2.0, "score": 0.1}, {"step": 2, "loss": 1.0, "score": 0.3, "eval/unseen_score": 0.2}]
    for chance, measure in ((0.1, "accuracy"), (None, "squared error")):
        _, [left] = new_figure()
        draw_training(left, records, chance, measure, 4)
        [right] = [ax for ax in left.figure.axes if ax is not left]
        lines = {str(line.get_label()): line for line in right.get_lines()}
        assert [str(line.get_label()) for line in left.get_lines()] == ["loss, left axis"]
        guessing = {"accuracy of guessing"} if chance else set()
        assert set(lines) == {f"{measure}, unseen tasks, last 4", f"{measure} in meta-training"} | guessing
        assert all(set(line.get_ydata()) == {chance} for name, line in lines.items() if name in guessing)
        legend = left.get_legend()
        assert legend is not None and {text.get_text() for text in legend.get_texts()} == {"loss, left axis", *lines}
        colours = [str(line.get_color()) for line in (*left.get_lines(), *lines.values())]
        assert len(set(colours)) == len(colours) and right.get_ylabel() == measure


def test_ten_images_of_noise_come_again_in_a_sequence():
    words = ["digits", *TINY, "--steps", "2", "--data.source", "random", "--data.pca", "none", "--family.length", "30"]
    with pytest.raises(ValueError, match=r"or draw some again with --family\.repeats"):
        prepare(parse(list(words))[1].config)
    config = parse([*words, "--family.repeats"])[1].config
    recipe = prepare(config)
    task = recipe.family.unseen(recipe.test_data, 3)
    xs, ys = recipe.family.episode(recipe.test_data, task, jax.random.key(0))
    assert xs.shape == (30, 196) and 5 < len(np.unique(np.asarray(ys))) <= 10
    for label in np.unique(np.asarray(ys)):
        assert len({row.tobytes() for row in np.asarray(xs)[np.asarray(ys) == label]}) == 1
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config
    assert "repeats" not in configs.to_json(PRESETS["digits"][1])["family"]


def test_a_single_task_has_no_interval_in_the_table():
    assert "nan" not in table({"unseen": np.full((1, 20), 0.5)}, False)
    assert "0.500 ± 0.000" in table({"unseen": np.full((2, 20), 0.5)}, False)


def test_every_use_of_the_seed_has_keys_of_its_own():
    uses = ("theta", "outer", "evaluation", "training tasks", "reference")
    roots = [jax.random.key_data(stream(0, use)).tobytes() for use in uses]
    tasks = [jax.random.key_data(jax.random.fold_in(jax.random.key(0), i)).tobytes() for i in range(8)]
    assert len({*roots, *tasks}) == len(roots) + len(tasks)


def test_seen_tasks_are_counted_once_and_permuted_as_they_were_met():
    config = PRESETS["digits"][1]
    few = dataclasses.replace(config, family=dataclasses.replace(config.family, num_tasks=5, permute_prob=0.0))
    assert tasks_to_score("seen", 100, few) == 5 and tasks_to_score("unseen", 100, few) == 100
    (_, seen), (_, unseen) = evaluations(prepare(few)).values()
    assert float(seen.permute_prob) == 0.0 and float(unseen.permute_prob) == 1.0


@pytest.fixture
def compiled(tmp_path):
    """A function that lists the programs compiled from here on, each once, as JAX's compilation cache counts."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX holds on to the folder it used last
    yield lambda: sorted(path.name for path in (tmp_path / "compiled").glob("*-cache"))
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            ("--family.num-tasks", "2", "--family.permute-prob", "0.5"),
            ("--family.num-tasks", "40", "--family.permute-prob", "0.1", "--family.seed", "5", "--seed", "6"),
        ),
        ((), ("--family.permute-prob", "0.1", "--family.seed", "5", "--seed", "6")),
    ],
    ids=["some tasks", "fresh tasks"],
)
def test_seeds_the_number_of_tasks_and_their_bias_are_data_of_one_program(one, other, compiled):
    programs, lowered, rows = [], [], []
    for words in (one, other):
        recipe = prepare(parse(["digits", *TINY, "--steps", "2", *words])[1].config)
        loop, _ = compile_outer_loop(recipe.training, 2)
        state = initial_state(recipe.training, loop)
        lowered.append(loop.step.lower(state, recipe.data).as_text())  # pyright: ignore[reportFunctionMemberAccess]  # jitted
        rows.append([score(state.theta).shape[0] for score in learner_scorers(recipe).values()])
        programs.append(compiled())
    assert lowered[0] == lowered[1]
    assert programs[0] == programs[1] and any(name.startswith("jit_score-") for name in programs[0])
    assert rows == ([[2, 3], [3, 3]] if one else [[3, 3], [3, 3]])


def test_a_run_begins_from_the_theta_of_another(trained, capsys, tmp_path):
    _, command, _ = parse(["digits", *TINY, "--steps", "4", "--start", str(trained)])
    recipe = prepare(command.config)
    state = initial_state(recipe.training, compile_outer_loop(recipe.training, 4)[0])
    assert theta_sha256(state.theta) == json.loads((trained / "result.json").read_text())["theta_sha256"]
    other = ("--learner.width", "16", "--start", trained, "--run", tmp_path / "x")
    status, _, err = run(capsys, "train", "digits", "--steps", 4, *TINY, *other)
    assert status == 1 and "has other sizes than this one" in err


def test_an_existing_run_folder_is_refused_and_kept(trained, capsys):
    before = (trained / "result.json").read_bytes()
    status, _, err = run(capsys, "train", "digits", "--steps", 4, "--run", trained, *TINY)
    assert status == 1 and "already holds a run" in err
    assert (trained / "result.json").read_bytes() == before


@pytest.mark.parametrize("learner", ["lstm", "mlp", "maml"])
def test_learner_options_follow_the_chosen_learner(learner):
    _, command, _ = parse(["digits", "--learner", learner, "--learner.hidden", "5", "--family.num-tasks", "None"])
    assert command.config.learner.hidden in (5, (5,))
