"""The tutorials run, and end where their pages say."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from metalearn.outer import outer_loop
from metalearn.recipes.outer_optimizer import OptimizerConfig
from metalearn.zoo import ZooConfig
from metalearn_models.optimizers.gpt import GeneratorConfig, TransformerConfig
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.learner import network
from metalearn_models.tabular.transformer.library import save

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def example(name):
    (path,) = EXAMPLES.glob(f"*/{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tutorial_has_a_page_and_a_test():
    pages = {path.stem for path in (EXAMPLES.parent / "tutorials").glob("*.md")}
    assert {path.stem for path in EXAMPLES.glob("*/*.py")} == pages
    assert all(f"def test_{name}" in Path(__file__).read_text() for name in pages)


def test_in_context_learner():
    curves = example("in_context_learner").main(steps=2, batch=2, width=16, length=6, tasks=2)
    assert curves.shape == (1, 6) and ((curves >= 0) & (curves <= 1)).all()


def test_meta_gradients(monkeypatch):
    """The last outer step's loss against that of the first one, which has the timid constants."""
    module, timid = example("meta_gradients"), []

    def recorded(*args, **settings):
        init, step = outer_loop(*args, **settings)

        def record(state, data):
            state, metrics = step(state, data)
            timid.append(float(metrics["loss"][0]))
            return state, metrics

        return init, record

    monkeypatch.setattr(module, "outer_loop", recorded)
    losses = module.main(steps=100)
    assert list(losses) == ["backprop", "nres"]
    assert all(loss < 0.7 * first for loss, first in zip(losses.values(), timid, strict=True))


def test_learned_optimizer():
    final = example("learned_optimizer").main(steps=60)
    assert len(final) == 6
    assert max(final["orthogonal adam"], final["compass, learned"]) < final["adam 0.001"]
    assert final["small-fc, learned"] < 2.0 < final["adam 0.001"] * 1.5
    assert np.isfinite(list(final.values())).all()


def test_learned_loss():
    found = example("learned_loss").main(steps=200)
    assert min(found["gce"], found["label-noise"]) > found["cross-entropy"] > 0.5


def test_sparse_layers():
    accuracy, difference = example("sparse_layers").main(epochs=3, hidden=64)
    assert accuracy > 0.85 and difference < 1e-5


def test_pruning(capsys):
    outcomes, control = example("pruning").main(steps=120, compressions=(8,), seeds=1)
    points = {name: point for name, ((point,),) in outcomes.items()}
    assert control[0].compression == control[0].speed_up == 1
    assert all(8 <= point.compression < 8.01 for point in points.values())
    assert control[0].top1 > points["global magnitude"].top1 > points["random"].top1 + 0.1
    assert "fewer have global magnitude" in capsys.readouterr().out


def test_curvature():
    """A few steps, in which the one that reads curvature is ahead of SGD."""
    final = example("curvature").main(12, ("sgd", "foof"))
    assert np.isfinite(list(final.values())).all() and final["foof"] < 0.8 * final["sgd"]


def test_slow_weights():
    """A few steps, after which all have learned something, and the slow weights have the form of the parameters."""
    final, tested = example("slow_weights").main(12)
    assert np.isfinite(list(final.values())).all() and max(final.values()) < 2.0
    assert tested["first"].shape == (64, 64) and set(tested) == {"first", "bias", "second"}


def test_sparsity():
    found = example("sparsity").main(steps=300)
    assert found["dense"] > 0.9 and min(found["SET"], found["RigL"]) > found["static"] + 0.05


def test_large_batches(capsys):
    found = example("large_batches").main(steps=60)
    assert min(found.values()) > 0.85 and len(found) == 5
    assert "all-reduce: accuracy" in capsys.readouterr().out


def test_gpt(tmp_path):
    """Too short to be exact: what it got follows what was wished."""
    before, got = example("gpt").main(
        tmp_path / "run",
        checkpoints=ZooConfig(40, 8, 200, 10, 40),
        chunk=650,
        generator=GeneratorConfig("regression", TransformerConfig(64, 1)),
        outer_optimizer=OptimizerConfig(5e-3),
        average=0.9,
        batch=32,
        steps=100,
        eval_runs=2,
        prompts=3,
    )
    assert got[0.4] < got[0.8] < got[1.6] < before and got[0.4] < 0.5 * before


def test_epistemic():
    """A few steps, after which one network gives the product of its marginals and an epinet does not."""
    found = example("epistemic").main(steps=20, polyads=8)
    together, apart = found["mlp"]
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert found["epinet"][0] > found["epinet"][1] + 0.1


def test_own_family():
    curve = example("own_family").main(steps=150, width=16, length=10, tasks=32)
    assert curve.shape == (10,) and curve[5:].mean() > 0.6  # guessing gives .5


def test_tables():
    accuracy, share = example("tables").main(rows=60, count=40)
    assert accuracy > 0.7 and 0.2 < share < 0.7


def test_whole_tables(tmp_path):
    config = TableTransformerConfig(width=8, layers=1, cell_layers=1, key_size=4, hidden=8)
    save(tmp_path / "small.safetensors", config, network(config).init(jax.random.key(0)))
    accuracy, log_loss = example("whole_tables").main(tmp_path / "small.safetensors", rows=20, views=1)
    assert 0 <= accuracy <= 1 and 0 < log_loss < 3


def test_saved_learner():
    assert 0 <= example("saved_learner").main(steps=2, width=16, rows=20) <= 1


def test_flax_inner_loop():
    first, last = example("flax_inner_loop").main(outer_steps=15, steps=10, width=4, batch=2)
    assert last < 0.9 * first


def test_handmade_optimizers():
    final, before, after = example("handmade_optimizers").main(("adam", "foof"), (0.01, 0.1), 20)
    assert final.keys() == {"adam", "foof"} and all(0 < x < 0.69 for x in final.values())
    assert before.keys() == after.keys() == {"learning_rate", "damping", "momentum", "decay"}
    assert all(float(after[name]) != float(before[name]) for name in ("learning_rate", "damping", "decay"))


def test_architecture_search(capsys):
    errors, correlations = example("architecture_search").main(steps=32, budget=2)
    assert set(errors) == {"halving", "random"} and max(errors.values()) < 0.5  # guessing gives .9
    assert [row.step for row in correlations] == [2, 8, 32] and correlations[-1].spearman == pytest.approx(1)
    assert "162 architectures" in capsys.readouterr().out
