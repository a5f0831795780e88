"""The guard, the ablation of dynamic mode decomposition and the trade-offs, at toy size; claims that hold there too."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.learned_optimizers import dmd_ablation, guard_demo
from experiments.learned_optimizers import pareto as optimizer_pareto
from experiments.learned_optimizers._training import tune_baselines
from experiments.learned_optimizers.cost import measure_costs
from experiments.learned_optimizers.dmd_ablation import DMDAblationConfig, log_gap, verdict
from experiments.learned_optimizers.guard_demo import GuardDemoConfig, compare_with_parts, contenders, run_contender
from experiments.learned_optimizers.pareto import OptimizerParetoConfig, pareto_front
from metalearn.errors import UnknownNameError
from metalearn_models.optimizers import LearnedOptimizer, learnable_adam, learnable_sgd
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives import Objective, mlp_classification
from metalearn_tasks.objectives.objective import draw_nothing

GUARD = GuardDemoConfig(far=24, train_batches=4, fresh_batches=2, steps=2, length=6, seeds=2)
BOWL = Objective(
    draw_nothing,
    lambda problem, key: 1 + jax.random.uniform(key, (3,)),
    lambda problem, params, batch: 0.5 * jnp.square(params).sum(),
    lambda problem, data, key: jnp.zeros(()),
)
"""A loss of which the closed form of gradient descent is known; no noise."""


def little() -> tuple[Objective, Split]:
    """Logistic regression on noise, which compiles fast, and its data."""
    rng = np.random.default_rng(0)
    data = Split(jnp.asarray(rng.normal(size=(20, 3)), jnp.float32), jnp.asarray(rng.integers(0, 2, 20)))
    return mlp_classification(3, (), 2, batch=5), data


def descends_but(diverges: Any) -> LearnedOptimizer:
    """Gradient descent at rate 0.5, whose updates are NaN at the steps t where `diverges(t)`."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda g: jnp.where(diverges(state), jnp.nan, -0.5 * g), updates), state + 1

    transform = optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), update)
    return LearnedOptimizer(lambda key: jnp.zeros(()), lambda theta, num_steps=None: transform)


def pairs(optimizer: LearnedOptimizer) -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(3), 2)
    return jax.vmap(optimizer.init)(keys), keys


@pytest.mark.parametrize("name", ["LGL2O, SGD", "LGL2O, Adam"])
def test_the_guard_is_chosen_exactly_where_the_learned_part_diverges(name):
    optimizer = descends_but(lambda t: (t >= 8) & (t < 15))  # all of round 2, and a part of round 3
    thetas, keys = pairs(optimizer)
    losses, share = run_contender(contenders(GUARD)[name], optimizer, BOWL, thetas, (), keys, GUARD)
    np.testing.assert_array_equal(share, [[0, 0, 1, 1, 0, 0]] * 2)
    if name == "LGL2O, SGD":
        start = jax.vmap(lambda k: BOWL.loss((), BOWL.init((), jax.random.split(jax.random.fold_in(k, 0))[1]), ()))
        factors = np.where(share, (1 - GUARD.sgd) ** 8, 0.5**8)
        expected = np.asarray(start(keys))[:, None] * np.cumprod(factors, 1)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_gl2o_takes_the_learned_part_on_a_bowl_and_never_where_it_diverges():
    """Without noise the guard's step after gradient descent at rate 0.5 is half of what it was."""
    optimizer = descends_but(lambda t: t >= 12)
    thetas, keys = pairs(optimizer)
    losses, share = run_contender(contenders(GUARD)["GL2O, SGD"], optimizer, BOWL, thetas, (), keys, GUARD)
    np.testing.assert_array_equal(share, [[0, 0, 0, 1, 1, 1]] * 2)
    assert np.isfinite(losses).all() and (np.diff(losses) < 0).all()


def test_around_a_part_that_always_diverges_a_guarded_run_is_its_guard_and_alone_it_is_lost():
    """So all contenders start alike and meet the same batches."""
    (objective, data), optimizer = little(), descends_but(lambda t: t >= 0)
    thetas, keys = pairs(optimizer)
    who = {n: CONTENDERS[n] for n in ("learned", "Adam", "LGL2O, Adam")}
    curves = {
        n: np.asarray(run_contender(c, optimizer, objective, thetas, data, keys, GUARD)[0]) for n, c in who.items()
    }
    np.testing.assert_allclose(curves["LGL2O, Adam"], curves["Adam"], rtol=1e-5)
    assert np.isnan(curves["learned"]).all()
    found = compare_with_parts(curves, {n: np.ones(1) for n in curves}, who, slack=0.02)
    assert np.isinf(found["learned"]["final"]).all() and "ratio" not in found["learned"]
    np.testing.assert_allclose(found["LGL2O, Adam"]["ratio"], 1, rtol=1e-5)
    assert found["LGL2O, Adam"]["held"] == 1


CONTENDERS = {n: c for n, c in contenders(GUARD).items() if not n.startswith("GL2O")}


def test_a_guarded_run_is_compared_with_the_better_of_its_own_parts_run_by_run():
    curves = {
        "learned": np.array([[9, 2.0], [9, np.nan], [9, 8.0]]),
        "Adam": np.array([[9, 4.0], [9, 4.0], [9, 4.0]]),
        "SGD": np.array([[9, 1.0], [9, 1.0], [9, 1.0]]),
        "LGL2O, Adam": np.array([[9, 2.2], [9, 4.04], [9, 3.0]]),
        "LGL2O, SGD": np.array([[9, 1.0], [9, np.inf], [9, 0.5]]),
    }
    shares = {"LGL2O, Adam": np.array([[1, 0], [1, 0], [1, 1.0]]), "LGL2O, SGD": np.zeros((3, 2))}
    found = compare_with_parts(curves, shares, CONTENDERS, slack=0.02)
    np.testing.assert_allclose(found["LGL2O, Adam"]["ratio"], [1.1, 1.01, 0.75])
    np.testing.assert_allclose([found["LGL2O, Adam"][k] for k in ("worst", "held", "guard_share")], [1.1, 2 / 3, 2 / 3])
    np.testing.assert_allclose(found["LGL2O, SGD"]["ratio"], [1, np.inf, 0.5])
    assert found["LGL2O, SGD"]["worst"] == np.inf


def test_the_guard_demo_writes_what_it_found(tmp_path, monkeypatch):
    few = {n: contenders(GUARD)[n] for n in ("learned", "SGD", "LGL2O, SGD")}
    monkeypatch.setattr(guard_demo, "contenders", lambda config: few)
    monkeypatch.setattr(guard_demo, "LEARNED", learnable_sgd(0.5))
    monkeypatch.setattr(guard_demo, "comparison_tasks", lambda penalty: {"as meta-trained, longer": little()})
    found = guard_demo.run(dataclasses.replace(GUARD, out=tmp_path))
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert (tmp_path / "guard_demo.png").stat().st_size > 10_000
    assert list(found["tasks"]) == ["as meta-trained, longer"]
    table = guard_demo.format_result(found)
    assert (
        "as meta-trained, longer, 2 runs" in table
        and f"({found['tasks']['as meta-trained, longer']['LGL2O, SGD']['worst']:.3f})" in table
    )
    for rows in found["tasks"].values():
        final = {n: np.array(row["final"]) for n, row in rows.items()}
        better = np.minimum(final["learned"], final["SGD"])
        np.testing.assert_allclose(rows["LGL2O, SGD"]["ratio"], final["LGL2O, SGD"] / better, rtol=1e-6)
        assert 0 <= rows["LGL2O, SGD"]["guard_share"] <= 1


def test_a_penalty_is_added_to_the_loss():
    params, bowl = jnp.array([3.0, 4.0]), guard_demo.add_penalty(BOWL, 0.1)
    np.testing.assert_allclose(bowl.loss((), params, ()), 12.5 + 0.5 * 0.1 * 25)


def test_rounds_longer_than_the_run_are_refused():
    with pytest.raises(ValueError, match="far=24"):
        guard_demo.run(dataclasses.replace(GUARD, train_batches=25))


def test_the_log_gap_leaves_out_runs_that_either_lost():
    ours = np.array([[1.0, 2.0, np.inf], [3.0, np.inf, 5.0]])
    others = np.array([[2.0, 8.0, 1.0], [np.inf, 1.0, np.inf]])
    gaps = log_gap(ours, others)
    np.testing.assert_allclose(gaps[0], (np.log(1 / 2) + np.log(2 / 8)) / 2)
    assert np.isnan(gaps[1])


def test_a_gap_counts_only_where_its_interval_leaves_out_zero():
    names = [verdict({"low": low, "high": high}) for low, high in ((-2, -1), (1, 2), (-1, 1), (None, None))]
    assert names == ["better", "worse", "open", "open"]


def test_the_ablated_optimizers_differ_in_their_inputs_only():
    shapes = [
        [np.shape(x) for x in jax.tree.leaves(jax.eval_shape(o.init, jax.random.key(0)))]
        for o in dmd_ablation.contenders().values()
    ]
    differing = [(a, b) for a, b in zip(*shapes, strict=True) if a != b]
    assert len(differing) == 1
    # Three horizons and a growth, beside logarithm and sign.
    assert np.prod(differing[0][1]) - np.prod(differing[0][0]) == 4 * 80


@pytest.mark.parametrize("tasks", [dmd_ablation.comparison_tasks, lambda: guard_demo.comparison_tasks(0.001)])
def test_elsewhere_is_not_where_it_was_meta_trained(tasks):
    """No two tasks have the same loss of random parameters on their own data."""
    losses = []
    for objective, data in tasks().values():
        params = jax.tree.map(lambda x: x + 0.1, objective.init((), jax.random.key(0)))
        losses.append(float(objective.loss((), params, data)))
    assert np.isfinite(losses).all() and len(np.unique(np.round(losses, 3))) == len(losses)


def test_the_ablation_pairs_seeds_and_writes_what_it_found(tmp_path, monkeypatch):
    """Of two optimizers that are one the gap is 0, and the seeds differ."""
    monkeypatch.setattr(dmd_ablation, "comparison_tasks", lambda: {"as meta-trained": little(), "elsewhere": little()})
    same = learnable_sgd(0.01)
    monkeypatch.setattr(dmd_ablation, "contenders", lambda: {"LSTM": same, "LSTM + DMD": same})
    config = DMDAblationConfig(steps=3, batch=1, window=2, length=6, seeds=2, runs=2, out=tmp_path)
    found = dmd_ablation.run(config)
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert (tmp_path / "dmd_ablation.png").stat().st_size > 10_000
    assert dmd_ablation.format_result(found).count("+0.000 [+0.000, +0.000]") == 2
    for row in found["tasks"].values():
        assert row["gaps"] == [0, 0]
        assert row["final"]["LSTM"] == row["final"]["LSTM + DMD"]
        assert row["final"]["LSTM"]["high"] > row["final"]["LSTM"]["mean"]
    # Adam is tuned on the very runs that are compared.
    runs = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 2)
    adam = tune_baselines(("Adam",), *little(), runs, 7)["Adam"]
    expected = np.exp(np.log(adam.final).mean(1)[adam.best])
    np.testing.assert_allclose(found["tasks"]["elsewhere"]["Adam"], expected, rtol=1e-6)


def point(loss: float, state: float, nanoseconds: float) -> dict[str, Any]:
    return {"final": np.array([loss, loss]), "state": state, "nanoseconds": nanoseconds}


def test_the_front_is_what_no_other_betters():
    rows = {
        "cheap": point(3, 1, 1),
        "good": point(1, 4, 9),
        "between": point(2, 2, 2),
        "small and slow": point(2.5, 1, 3),
        "worse than between": point(2, 2, 2.5),
        "lost": {"final": np.array([0.1, np.inf]), "state": 0, "nanoseconds": 0},
    }
    assert pareto_front(rows) == ["cheap", "good", "between", "small and slow"]


def test_costs_are_those_of_the_optimizer():
    _, found = measure_costs({"learnable-adam": learnable_adam(), "sgd": learnable_sgd()}, width=4, turns=2)
    size = 784 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10
    # Two moments, and a step that is counted; SGD has nothing.
    np.testing.assert_allclose([found[n].state for n in ("adam", "learnable-adam", "sgd")], [2 + 1 / size] * 2 + [0])
    for c in found.values():
        np.testing.assert_allclose(c.nanoseconds * size, c.milliseconds * 1e6)
        np.testing.assert_allclose(c.ratio, c.milliseconds / found["adam"].milliseconds)
    with pytest.raises(ValueError, match="turns must be at least 1, got 0"):
        measure_costs({}, width=4, turns=0)


def test_losses_are_compared_with_tuned_adam_run_by_run(tmp_path):
    config = OptimizerParetoConfig(
        ("learnable-adam",),
        "quadratic",
        steps=2,
        length=6,
        pairs=1,
        window=3,
        seeds=2,
        runs=3,
        width=4,
        turns=1,
        out=tmp_path,
    )
    found = optimizer_pareto.run(config)
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert (tmp_path / "optimizer_pareto.png").stat().st_size > 10_000
    adam, ours = (np.array(found["rows"][n]["final"]) for n in ("adam", "learnable-adam"))
    np.testing.assert_allclose(found["rows"]["learnable-adam"]["ratios"], ours / np.tile(adam, 2))
    assert found["rows"]["learnable-adam"]["meta_parameters"] == 4
    assert f"{np.exp(np.log(ours).mean()):.4g}" in optimizer_pareto.format_result(found)
    # At its initial rate of 0.001 it cannot do in 6 steps what Adam does at its best.
    assert (ours > np.tile(adam, 2)).all()
    with pytest.raises(UnknownNameError, match="'star'"):
        optimizer_pareto.run(dataclasses.replace(config, optimizers=("starr",)))
