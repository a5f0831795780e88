"""The search: the training against one written by hand, resumption, caching, devices, errors."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import RunError
from metalearn_models.losses.formulas import Const, Op, evaluate, parse, size
from metalearn_models.losses.search import file as search_file
from metalearn_models.losses.search import keeping
from metalearn_models.losses.search import search as search_module
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.neighbours import neighbours
from metalearn_models.losses.search.population import LossTask, TrainingConfig, trainer
from metalearn_models.losses.search.search import (
    FILE,
    SearchConfig,
    Trained,
    pareto_front,
    prefer_small,
    random_control,
    search,
)

_compiled = {}


@pytest.fixture
def reused(monkeypatch):
    """Searches of the test share their compiled trainings: compiling is most of their time."""

    def get(task, config, devices=None):
        name = (task.name, task.train[1].tobytes(), config)
        if name not in _compiled:
            _compiled[name] = trainer(task, config, devices)
        return _compiled[name]

    monkeypatch.setattr(search_module, "trainer", get)


def linear(inputs, outputs):
    def init(key):
        return {"w": jax.random.normal(key, (inputs, outputs)) * 0.1, "b": jnp.zeros(outputs)}

    def apply(params, xs):
        return xs @ params["w"] + params["b"][None, :]

    return init, apply


def classes_task(name="classes", examples=48):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 4))
    labels = rng.integers(3, size=2 * examples).astype(np.int32)
    xs = (centres[labels] + 0.7 * rng.normal(size=(2 * examples, 4))).astype(np.float32)
    init, apply = linear(4, 3)
    train, valid = (xs[:examples], labels[:examples]), (xs[examples:], labels[examples:])
    return LossTask(name, train, valid, "classification", 3, init, apply)


def numbers_task(corrupt=0.2):
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(120, 3)).astype(np.float32)
    ys = (xs @ np.array([0.5, -0.8, 0.3]) + 0.02 * rng.normal(size=120)).astype(np.float32)
    noisy = ys[:60] + np.where(rng.random(60) < corrupt, 5, 0).astype(np.float32)
    init, apply = linear(3, 1)
    return LossTask("numbers", (xs[:60], noisy), (xs[60:], ys[60:]), "regression", 1, init, apply)


TRAINING = TrainingConfig(steps=30, batch=16, learning_rates=(0.01, 0.1), seeds=2, candidates=3)
CONFIG = SearchConfig(EvolutionConfig(population=8), TRAINING, generations=4, finalists=3, seed=1)
SEEDED = dataclasses.replace(CONFIG, evolution=EvolutionConfig(population=8, seeds=SEEDS["classification"]))
KEYS = jax.random.split(jax.random.key(0), 2)


def by_hand(task, expr, rate, key, config=TRAINING):
    """Train one network by the formula itself, its gradient by JAX, step by step."""
    key_init, key_batches = jax.random.split(key)
    params = task.init(key_init)
    rule = optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate, 0.9, nesterov=True)
    with jax.numpy_dtype_promotion("standard"):
        state = rule.init(params)
    xs, ys = map(jnp.asarray, task.train)

    def loss(params, x, y):
        out = task.apply(params, x)
        if task.kind == "regression":
            return evaluate(expr, None, y, out[:, 0]).mean()
        return evaluate(expr, None, jax.nn.one_hot(y, task.outputs), jax.nn.softmax(out)).sum(-1).mean()

    @jax.jit
    def step(params, state, t):
        chosen = jax.random.randint(jax.random.fold_in(key_batches, t), (config.batch,), 0, len(ys))
        gradient = jax.grad(loss)(params, xs[chosen], ys[chosen])
        with jax.numpy_dtype_promotion("standard"):
            updates, state = rule.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

    for t in range(config.steps):
        params, state = step(params, state, t)
    out = np.asarray(task.apply(params, jnp.asarray(task.valid[0])))
    if task.kind == "regression":
        return np.square(out[:, 0] - task.valid[1]).mean()
    return (out.argmax(-1) != task.valid[1]).mean()


@pytest.mark.parametrize(
    ("task", "texts"),
    [
        (classes_task(), (*SEEDS["classification"], "mul(-1, mul(y, f))")),
        (numbers_task(), (*SEEDS["regression"], "square(tanh(sub(y, f)))", "mul(square(sub(y, f)), sqrt(y))")),
    ],
)
def test_training_by_tables_is_training_by_formulas(task, texts):
    """Four losses in groups of three, two rates, two seeds, in one function, against a loop with jax.grad."""
    losses = [parse(text) for text in texts]
    train = trainer(task, TRAINING)
    scores = train.train(losses, KEYS)
    assert scores.shape == (4, 2, 2) and train.compilations() == 1
    for i, rate, s in ((0, 1, 0), (1, 0, 1), (3, 0, 0)):
        exact = by_hand(task, losses[i], TRAINING.learning_rates[rate], KEYS[s])
        # A jump of the gradient is one cell wide in the table; a class may change at the boundary.
        np.testing.assert_allclose(
            scores[i, rate, s], exact, rtol=5e-3, atol=1 / 48 + 1e-6 if task.outputs > 1 else 1e-4
        )


def test_sgd_takes_the_loss_divided_by_its_mean_gradient():
    """So that multiples of a loss, which share a fingerprint, also share their result."""
    config = dataclasses.replace(TRAINING, optimizer="sgd", learning_rates=(0.05,))
    one, two = parse("square(sub(y, f))"), parse("mul(add(1, 1), square(sub(y, f)))")
    scores = trainer(numbers_task(), config).train([one, two], KEYS)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)


def test_a_network_that_diverges_is_infinitely_bad_in_regression():
    task = numbers_task()
    config = dataclasses.replace(TRAINING, optimizer="sgd", learning_rates=(1e30,))
    assert np.isinf(trainer(task, config).train([parse("square(sub(y, f))")], KEYS)).all()


def same(one, two):
    """Everything but the seconds."""
    assert one.best == two.best and one.trained == two.trained
    assert [g._replace(seconds=0) for g in one.generations] == [g._replace(seconds=0) for g in two.generations]


def test_one_compilation_a_task_serves_all_generations_and_the_finals():
    tasks = [classes_task(), classes_task("fewer", 40)]
    result = search(tasks, SEEDED)
    assert sum(g.trained > 0 for g in result.generations) >= 2
    assert result.compilations == 2


def test_each_distinct_loss_is_trained_once(monkeypatch, reused):
    seen = []
    real = search_module._judge

    def recording(losses, *args):
        seen.append(list(losses))
        return real(losses, *args)

    monkeypatch.setattr(search_module, "_judge", recording)
    result = search([numbers_task()], dataclasses.replace(CONFIG, generations=6))
    during = sum(map(len, seen[:-1]))
    assert during == len(result.trained) == sum(g.trained for g in result.generations)
    for g in result.generations:
        assert sum(g.rejected.values()) + g.known + g.trained == 8
    assert sum(g.known for g in result.generations) >= 5 * 2  # the elites at least


def test_the_smallest_formula_of_a_table_is_kept(reused):
    seeds = ("add(square(sub(y, f)), mul(1, y))", "square(sub(y, f))")
    config = dataclasses.replace(CONFIG, generations=1, evolution=EvolutionConfig(population=2, seeds=seeds))
    result = search([numbers_task()], config)
    assert [entry.expr for entry in result.trained] == [parse("square(sub(y, f))")]
    assert result.generations[0].known == 1


def test_results_are_ordered_and_finals_use_fresh_seeds(reused):
    result = search([numbers_task()], CONFIG)
    for entries in (result.best, result.trained):
        assert list(entries) == sorted(entries, key=lambda e: e.fitness)
    assert {e.expr for e in result.best} == {e.expr for e in result.trained[:3]}
    before = {e.expr: e.fitness for e in result.trained}
    assert all(e.fitness != before[e.expr] for e in result.best)
    front = pareto_front(result.trained)
    assert front[-1].fitness == result.trained[0].fitness
    assert all(size(a.expr) < size(b.expr) and a.fitness > b.fitness for a, b in itertools.pairwise(front))


def test_a_search_with_outliers_finds_a_loss_that_beats_squared_error(reused):
    evolution = EvolutionConfig(population=8, seeds=SEEDS["regression"])
    training = dataclasses.replace(TRAINING, steps=60)
    config = dataclasses.replace(CONFIG, generations=8, training=training, evolution=evolution)
    trainers = [search_module.trainer(numbers_task(), config.training)]
    mse = search_module._judge([parse("square(sub(y, f))")], trainers, config, search_module._keys(config, 1))
    assert search([numbers_task()], config).best[0].fitness < 0.2 * mse[0].fitness


def test_finalists_are_judged_on_tasks_of_their_own(reused):
    task = numbers_task()
    other = task._replace(name="other", valid=(task.valid[0][:20], task.valid[1][:20] + 1))
    config = dataclasses.replace(CONFIG, generations=1)
    usual, moved = search([task], config), search([task], config, final_tasks=[other])
    assert moved.trained == usual.trained and moved.compilations >= usual.compilations
    losses = [entry.expr for entry in moved.best]
    assert set(losses) == {entry.expr for entry in usual.best}
    exact = trainer(other, config.training).train(losses, search_module._keys(config, 1)).mean(-1).min(-1)
    np.testing.assert_allclose([entry.fitness for entry in moved.best], exact, rtol=1e-5)
    with pytest.raises(ValueError, match="one kind, got classification and regression"):
        search([task], config, final_tasks=[classes_task()])


def test_in_the_geometric_mean_a_task_counts_by_ratios_and_no_error_as_half_an_example(reused):
    config = dataclasses.replace(SEEDED, generations=1, average="geometric")
    result = search([classes_task(), classes_task("the same again")], config)
    for entry in result.trained:
        np.testing.assert_allclose(entry.fitness, np.sqrt(np.prod(np.maximum(entry.errors, 0.5 / 48))), rtol=1e-6)
    trainers = [trainer(classes_task(), CONFIG.training), trainer(numbers_task(), CONFIG.training)]
    assert search_module._average((0.0, 0.0), trainers, config) == pytest.approx((0.5 / 48 * 1e-4) ** 0.5)
    assert search_module._average((0.5, 0.125), trainers, config) == pytest.approx(0.25)
    assert search_module._average((0.5, 0.125), trainers, CONFIG) == 0.3125


def test_the_last_generations_are_all_neighbours_of_the_best_so_far(reused):
    bred = search([numbers_task()], dataclasses.replace(CONFIG, generations=2))
    climbed = search([numbers_task()], dataclasses.replace(CONFIG, generations=3, climbs=1))
    tried = neighbours(bred.trained[0].expr)
    last = climbed.generations[-1]
    assert last.trained + last.known + sum(last.rejected.values()) == len(tried) > 0
    new = {entry.expr for entry in climbed.trained} - {entry.expr for entry in bred.trained}
    assert new <= set(tried) and last.trained <= len(new)
    control = random_control(dataclasses.replace(CONFIG, generations=3, climbs=1), climbed)
    assert control.climbs == 0 and control.max_trained == len(climbed.trained)


class Killed(Exception):
    pass


def test_a_killed_search_goes_on_to_the_same_result(tmp_path, monkeypatch, reused):
    whole = search([classes_task()], SEEDED)
    real, calls = keeping.write_atomically, []

    def killing(path, content):
        real(path, content)
        calls.append(path)
        if len(calls) == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(keeping, "write_atomically", killing)
        search([classes_task()], SEEDED, tmp_path)
    assert len(json.loads((tmp_path / FILE).read_text())["generations"]) == 2
    told = []

    class Watching:
        def start(self, done, steps):
            told.append((done, steps))

        def update(self, done, metrics):
            told.append((done, metrics["loss"]))

        def close(self):
            told.append("closed")

        def note(self, text):
            pass

    same(search([classes_task()], SEEDED, tmp_path, Watching()), whole)
    best = [g.best for g in whole.generations]
    assert told == [(2, 4), (3, best[2]), (4, best[3]), "closed"]
    same(search([classes_task()], SEEDED, tmp_path), whole)  # finished: nothing is trained again but the finals


def test_a_search_without_any_finite_error_survives_its_file(tmp_path, reused):
    """Infinity has no word in JSON."""
    config = dataclasses.replace(
        CONFIG, generations=2, training=dataclasses.replace(TRAINING, optimizer="sgd", learning_rates=(1e30,))
    )
    for _ in range(2):
        with pytest.raises(ValueError, match="trained without a finite error"):
            search([numbers_task()], config, tmp_path)
    path, identity = tmp_path / FILE, search_file.identity_of([numbers_task()], dataclasses.asdict(config))
    assert search_file.load(path.read_bytes(), path, identity).fitness[0] == math.inf


def test_folders_of_other_searches_are_refused(tmp_path, reused):
    short = dataclasses.replace(CONFIG, generations=1)
    search([numbers_task()], short, tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(
        RunError, match=r"another search, old -> new: config.seed: 1 -> 2\. Use the old values, or another folder"
    ):
        search([numbers_task()], dataclasses.replace(short, seed=2), tmp_path)
    with pytest.raises(RunError, match=r"another search, old -> new: tasks\.0 numbers: "):
        search([numbers_task(0.3)], short, tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    for damaged in (before[:-20], b"[]", b'{"format": 1}', before.replace(b'"format": 1', b'"format": 9')):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(RunError, match="another folder"):
            search([numbers_task()], short, tmp_path)


def test_random_search_gets_as_many_trainings(reused):
    evolved = search([numbers_task()], CONFIG)
    config = random_control(CONFIG, evolved)
    result = search([numbers_task()], config)
    assert config.strategy == "random" and len(result.trained) == len(evolved.trained)


def test_a_search_whose_every_candidate_is_refused_says_why(monkeypatch, reused):
    backwards = tuple(
        Op("mul", (Const(-1.0), parse(text)))
        for text in ("square(sub(y, f))", "abs(sub(y, f))", "tanh(square(sub(y, f)))")
    )
    monkeypatch.setattr(search_module, "initial_population", lambda *_: backwards)
    config = dataclasses.replace(CONFIG, generations=1, evolution=EvolutionConfig(population=3))
    with pytest.raises(ValueError, match=r"none of 3 candidates can be used \(rejected: 3 wrong sign; 0 trained"):
        search([numbers_task()], config)


def with_train(task, xs=None, ys=None):
    return task._replace(train=(task.train[0] if xs is None else xs, task.train[1] if ys is None else ys))


C, R = classes_task(), numbers_task()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one task"),
        ([C, R], "one kind, got classification and regression"),
        ([with_train(C, ys=C.train[1] + 1)], "labels must be from 0 to 2, got 1 to 3"),
        ([with_train(C, ys=C.train[1].astype(np.float32))], "labels must be integers from 0 to 2, got float32"),
        ([with_train(C, xs=np.where(np.arange(4) == 1, np.nan, C.train[0]))], "48 of 192 inputs are not finite"),
        ([with_train(R, ys=R.train[1] * np.inf)], "60 of 60 targets are not finite"),
        ([with_train(R, ys=R.train[1][:, None])], r"got \(60, 3\) and \(60, 1\)"),
        ([with_train(R, xs=R.train[0][:, :2])], r"inputs must have the shape \(2,\) as in train, got \(3,\)"),
        ([with_train(C, xs=C.train[0][:0], ys=C.train[1][:0])], "N > 0"),
        ([C._replace(outputs=4)], r"must give \[2, 4\], got \(2, 3\)"),
        ([R._replace(outputs=2)], "outputs of regression must be 1"),
        ([C._replace(kind="ranking")], "unknown kind of task 'ranking'"),
    ],
)
@pytest.mark.unchecked_types
def test_tasks_that_cannot_be_trained_on_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        search(tasks, CONFIG)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingConfig(steps=0), "steps must be at least 1, got 0"),
        (lambda: TrainingConfig(learning_rates=()), "at least one"),
        (lambda: TrainingConfig(learning_rates=(0.1, -1.0)), "at least one positive number, got"),
        (lambda: TrainingConfig(optimizer="adan"), "Did you mean 'adam'"),
        (lambda: SearchConfig(strategy="randm"), "Did you mean 'random'"),
        (lambda: SearchConfig(average="geometrical"), "Did you mean 'geometric'"),
        (lambda: SearchConfig(generations=3, climbs=3), "climbs must be from 0 to 2, less than the generations, got 3"),
        (lambda: SearchConfig(generations=0), "generations must be at least 1"),
        (lambda: SearchConfig(seed=-1), "seed must not be negative"),
    ],
)
@pytest.mark.unchecked_types
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pareto_front_keeps_what_no_smaller_formula_beats():
    entries = [Trained(parse(t), v, (), ()) for t, v in (("y+f", 3.0), ("abs(y-f)", 1.0), ("y-f", 2.0), ("y*f*f", 1.5))]
    assert [e.fitness for e in pareto_front(entries)] == [2.0, 1.0]


def test_the_smallest_formula_within_the_noise_of_the_best_is_preferred():
    def entry(text, *errors):
        return Trained(parse(text), float(np.exp(np.mean(np.log(errors)))), errors, ())

    best = entry("abs(sub(y, mul(f, 1)))", 0.10, 0.20, 0.30)
    near, far = entry("abs(y-f)", 0.11, 0.19, 0.31), entry("y*f", 0.11, 0.22, 0.33)  # far is worse in every task
    assert prefer_small([best, near, far]) == near
    assert prefer_small([best, far]) == best
    alone = [one._replace(errors=one.errors[:1], fitness=one.errors[0]) for one in (near, best)]
    assert prefer_small(alone) == alone[1]  # a single task has no standard error


SCRIPT = """
import jax, numpy as np
from tests.models.losses.search import test_search as t
assert len(jax.devices()) == 3
result = t.search([t.classes_task()], t.SEEDED)
print([(str(e.expr), e.errors) for e in result.trained], result.compilations)
"""


def test_several_devices_give_the_same_numbers(reused):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=3"
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    result = search([classes_task()], SEEDED)
    assert out.stdout.strip() == f"{[(str(e.expr), e.errors) for e in result.trained]} 1"
