"""One small step of each learner, estimator, optimizer and loss: does it run on this device, and is it finite?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn import gradients
from metalearn.inner import unroll
from metalearn.learner import Family, Learner, Signature, prediction_loss, predictions
from metalearn.outer import outer_loop
from metalearn_models import learners, losses, optimizers
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives import mlp_classification, training_loop

__all__ = ["KINDS", "smoke_test"]

SIGNATURE, STEPS = Signature(4, 3, 8), 3
KINDS = ("learners", "estimators", "optimizers", "losses")


def smoke_test(cases_per_kind: int | None = None) -> dict[str, dict[str, Any]]:
    """Run every case.

    Args:
        cases_per_kind: so many of each kind; None: all.

    Returns:
        By "kind, name": `seconds`, compilation included, and `error`: "" if all results were finite, otherwise what
        went wrong. An error of one case does not stop the others.
    """
    found = {}
    for kind, cases in _cases().items():
        for name, case in list(cases)[:cases_per_kind]:
            began, error = time.perf_counter(), ""
            try:
                values = [np.asarray(x, np.float32) for x in jax.tree.leaves(case())]
                if not all(np.isfinite(value).all() for value in values):
                    error = "not finite"
            except Exception as problem:  # whatever a device or its driver does is a finding, not the end
                error = f"{type(problem).__name__}: {problem}".splitlines()[0]
            found[f"{kind}, {name}"] = {"seconds": time.perf_counter() - began, "error": error}
    return found


def _cases() -> dict[str, Iterator[tuple[str, Callable[[], Any]]]]:
    return {
        "learners": ((name, lambda name=name: _try_learner(name)) for name in learners.names()),
        "estimators": ((name, lambda make=make: _try_estimator(make)) for name, make in _estimators().items()),
        "optimizers": ((name, lambda name=name: _try_optimizer(name)) for name in optimizers.names()),
        "losses": ((name, lambda name=name: _try_loss(name)) for name in losses.names()),
    }


def _family() -> Family:
    def episode(data: Any, task: Any, key: Any) -> Any:
        xs = jax.random.normal(key, (SIGNATURE.length, SIGNATURE.inputs))
        return xs, jnp.argmax(xs @ task, -1)

    shape = (SIGNATURE.inputs, SIGNATURE.outputs)
    return Family(SIGNATURE, lambda data, key: jax.random.normal(key, shape), None, lambda data, i: data, episode)


def _try_learner(name: str) -> Any:
    """The loss of a sequence and its gradient with respect to theta."""
    learner: Learner = learners.make(name, SIGNATURE)
    family, theta = _family(), jax.jit(learner.init)(jax.random.key(0))
    xs, ys = family.episode((), jnp.ones((SIGNATURE.inputs, SIGNATURE.outputs)), jax.random.key(1))

    def loss(theta: Any) -> Any:
        logits = predictions(learner, theta, xs, ys, jax.random.key(2))
        return prediction_loss(logits, ys).mean()

    return jax.jit(jax.value_and_grad(loss))(theta) if jax.tree.leaves(theta) else jax.jit(loss)(theta)


def _estimators() -> dict[str, Callable[[Any], gradients.Estimator]]:
    return {
        "backprop": lambda loop: gradients.backprop(loop, 4),
        "truncated backprop": lambda loop: gradients.truncated_backprop(loop, 4, 5),
        "full ES": lambda loop: gradients.full_es(loop, 0.01, 4),
        "full ES, rank 1": lambda loop: gradients.full_es(loop, 0.01, 4, noise=gradients.low_rank(1)),
        "NRES": lambda loop: gradients.nres(loop, 0.01, 4, 5),
        "PES": lambda loop: gradients.pes(loop, 0.01, 4, 5),
        "GPES": lambda loop: gradients.gpes(loop, 0.01, 4, 5, 10),
        "PES-A": lambda loop: gradients.pes_a(loop, 0.01, 4, 5),
        "NRES-A": lambda loop: gradients.nres_a(loop, 0.01, 4, 5),
        "truncated ES": lambda loop: gradients.truncated_es(loop, 0.01, 4, 5),
        "DODGE": lambda loop: gradients.dodge(loop, 4, 5),
        "RTRL": lambda loop: gradients.rtrl(loop, 4, 5),
    }


def _try_estimator(make: Callable[[Any], gradients.Estimator]) -> Any:
    """Two outer steps on the learning rate of Adam."""
    objective = mlp_classification(4, 8, 3, batch=8)
    optimizer = optimizers.learnable_adam()
    data = _table()
    init, step = outer_loop(make(training_loop(objective, optimizer, 10)), optax.adam(1e-3), 2)
    state, metrics = step(init(optimizer.init(jax.random.key(1)), data, jax.random.key(2)), data)
    return state.theta, metrics["loss"]


def _try_optimizer(name: str) -> Any:
    """Three steps of a small network, statistics of its layers included where the optimizer needs them."""
    objective, optimizer = mlp_classification(4, 8, 3, batch=8), optimizers.make(name)
    loop = training_loop(objective, optimizer, STEPS)
    theta, keys = jax.jit(optimizer.init)(jax.random.key(1)), jax.random.split(jax.random.key(2), 1)
    return jax.jit(lambda data: unroll(loop, theta, data, keys, STEPS))(_table())


def _table() -> Any:
    xs = jax.random.normal(jax.random.key(0), (32, 4))
    return Split(xs, jnp.argmax(xs[:, :3], -1))


def _try_loss(name: str) -> Any:
    """The value and the gradient of a batch."""
    loss = losses.load(name)
    logits = jax.random.normal(jax.random.key(0), (16, 3))
    labels = jnp.arange(16) % 3 if loss.link == "softmax" else logits + 0.5  # targets of a regression
    return jax.jit(jax.value_and_grad(lambda x: loss(x, labels).mean()))(logits)
