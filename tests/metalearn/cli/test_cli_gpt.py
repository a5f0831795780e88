"""`metalearn train-gpt` at toy size: what it leaves, that it resumes to the same bytes, what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.cli.main import main
from metalearn.recipes.gpt.config import PRESETS, from_json, to_json
from metalearn_models import optimizers
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import library

CHECKPOINTS = [
    *("--data", "iris", "--hidden", "3", "--checkpoints.runs", "10", "--checkpoints.unseen", "4"),
    *("--checkpoints.shard", "5", "--checkpoints.steps", "20", "--checkpoints.snapshots", "4", "--examples", "8"),
]
TINY = [
    *("train-gpt", "mlp-diffusion", *CHECKPOINTS, "--generator.steps", "3", "--generator.network.width", "8"),
    *("--generator.network.layers", "1", "--generator.network.heads", "2", "--steps", "4", "--steps-per-call", "2"),
    *("--outer-optimizer.warmup", "1", "--batch", "4", "--eval-runs", "2", "--prompts", "3"),
    *("--evaluate-every", "0", "--checkpoint-every", "2", "--quiet", "--json"),
]


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt") / "run"
    assert main([*TINY, "--run", str(folder)]) == 0
    return folder


def test_a_run_leaves_an_optimizer_for_its_network(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 4 and result["diverged"] == 0 and np.isfinite(result["alignment_unseen"])
    assert (trained / "alignment.png").stat().st_size > 10_000
    assert main(["plot", str(trained)]) == 0  # draws what the run drew
    assert (trained / "training.png").read_bytes() == (trained / "alignment.png").read_bytes()
    found = library.read(trained)
    assert found.name == "gpt" and found.card["alignment"] == result["alignment_unseen"]
    assert (np.asarray(found.theta["errors"]) > 0).all()  # they were measured
    params = mlp(4, (3,), 3).init(jax.random.key(0))
    transform = optimizers.load(trained, prompt=float(found.theta["losses"][1]), jumps=1, learning_rate=0.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state, moved = transform.init(params), []
    for _ in range(2):
        updates, state = transform.update(zeros, state, params, value=jnp.float32(1.0))
        moved.append(max(float(jnp.abs(x).max()) for x in jax.tree.leaves(updates)))
    assert moved[0] > 0 == moved[1]


def test_a_killed_run_resumes_to_the_same_bytes(trained, capsys, tmp_path, monkeypatch):
    folder, zoo = tmp_path / "run", trained.with_name("run-checkpoints")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "save", killed)
    assert run(capsys, *TINY, "--run", folder, "--zoo", zoo)[0] == 130
    monkeypatch.undo()
    status, out, err = run(capsys, "train-gpt", "--resume", folder, "--quiet", "--json")
    assert status == 0, err
    whole = json.loads((trained / "result.json").read_text())
    assert json.loads(out.splitlines()[-1])["theta_sha256"] == whole["theta_sha256"]


def test_checkpoints_that_are_damaged_or_of_another_network_are_refused(trained, capsys, tmp_path):
    zoo = trained.with_name("run-checkpoints")
    status, _, err = run(capsys, *TINY, "--run", tmp_path / "a", "--zoo", zoo, "--hidden", 5)
    assert status == 1 and "other checkpoints" in err and "widths" in err and not (tmp_path / "a").exists()
    copy = tmp_path / "zoo"
    copy.mkdir()
    for file in zoo.iterdir():
        data = file.read_bytes()
        (copy / file.name).write_bytes(data[:-100] if "00001" in file.name else data)
    status, _, err = run(capsys, *TINY, "--run", tmp_path / "b", "--zoo", copy)
    assert status == 1 and "shard-00001" in err and "truncated" in err and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--hidden", "3", "3"), "take --tokens chunks"),
        (("--generator.steps", "1001"), "from 1 to 1000 steps, got 1001"),
        (("--checkpoints.unseen", "0"), "--checkpoints.unseen must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(capsys, tmp_path, words, text):
    status, _, err = run(capsys, *TINY, *words, "--run", tmp_path / "run")
    assert status != 0 and text in err and not list(tmp_path.iterdir())  # nor are checkpoints recorded


def test_an_unknown_preset_comes_with_the_nearest(capsys):
    status, _, err = run(capsys, "train-gpt", "mlp-difusion")
    assert status == 1 and "mlp-diffusion" in err


def test_presets_survive_json():
    for config, _ in PRESETS.values():
        assert from_json(json.loads(json.dumps(to_json(config)))) == config
