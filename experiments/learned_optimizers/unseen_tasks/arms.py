"""Compass with one thing changed, and the meta-training of each such arm for the same number of inner steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learned_optimizers.unseen_tasks.rules import cosine
from metalearn.gradients import backprop, together
from metalearn.outer import outer_loop
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.learned.compass import (
    FEATURES,
    CompassTheta,
    compass,
    raw_compass,
    scale_by_compass,
)
from metalearn_tasks import objectives
from metalearn_tasks.objectives import log_transform_losses, reparametrise, training_loop, weigh_late_losses

__all__ = ["ARMS", "Arm", "count_outer_steps", "directions", "hide_features", "meta_train"]

FLOOR = 1e-4
"""Losses far below this count as equal in meta-training, as in `metalearn train-optimizer`."""


class Arm(NamedTuple):
    """The whole rule, or the rule with something changed.

    Attributes:
        lengths: what happens to the direction of a tensor: "orthogonal" (matrices become nearly orthogonal, all tensors
            get a root mean square of 1), "normalised" (only the latter), "raw" (nothing).
        units: hidden units.
        horizon: steps of a training run, over those of the whole rule.
        rescale: bounds of the unit of the parameters, drawn per run; None: no augmentation.
        features: numbers of the features that the rule sees.
        expected: where its loss over that of `against` should lie: above 1, below 1, or 0 if nothing is expected.
        against: the arm that it differs from in one thing.
        trained: whether it is meta-trained at all.
    """

    lengths: str = "orthogonal"
    units: int = 8
    horizon: float = 1.0
    rescale: tuple[float, float] | None = (0.3, 3.0)
    features: tuple[int, ...] = tuple(range(FEATURES))
    expected: int = 0
    against: str = "whole"
    trained: bool = True


ARMS: dict[str, Arm] = {
    "whole": Arm(),
    "no meta-training": Arm(expected=1, trained=False),
    "no augmentation": Arm(rescale=None, expected=1),
    "no orthogonal matrices": Arm("normalised", expected=1),
    "no normalisation either": Arm("raw", expected=1, against="no orthogonal matrices"),
    "4 hidden units": Arm(units=4, expected=1),
    "16 hidden units": Arm(units=16, expected=1),
    "a third of the horizon": Arm(horizon=1 / 3, expected=1),
    "twice the horizon": Arm(horizon=2, expected=-1),
    "only Adam's measure": Arm(features=(4, 5, 6, 7), expected=1),
}
"""By name. The features of "only Adam's measure" are gradient and momenta over the root of each entry's own second
moment: no measures of whole tensors, rows and columns, and no agreement of gradient and momentum."""


def directions(lengths: str, theta: CompassTheta) -> optax.GradientTransformationExtraArgs:
    """From gradients to directions; see `Arm.lengths`."""
    return raw_compass(theta) if lengths == "raw" else scale_by_compass(theta, lengths == "orthogonal")


def hide_features(arm: Arm, theta: CompassTheta) -> CompassTheta:
    """Theta without weights on the features that the arm does not see."""
    seen = np.isin(np.arange(FEATURES), arm.features).astype(np.float32)
    return theta._replace(direct=theta.direct * seen, hidden=theta.hidden * seen[:, None])


def count_outer_steps(arm: Arm, outer_steps: int, length: int) -> tuple[int, int]:
    """Outer steps and steps per training run of an arm: as many inner steps as the whole rule has."""
    horizon = max(1, round(length * arm.horizon))
    return max(1, round(outer_steps * length / horizon)), horizon


def meta_train(
    arm: Arm, names: tuple[str, ...], outer_steps: int, length: int, batch: int, learning_rate: float, seeds: int
) -> list[tuple[CompassTheta, float]]:
    """Meta-train an arm once per seed by exact gradients of whole runs, with one compilation.

    Measure, learning rates and clipping are those of `metalearn train-optimizer compass`.

    Args:
        arm: what is meta-trained.
        names: objectives of equal shares.
        outer_steps: of the whole rule, see `count_outer_steps`.
        length: steps of a training run of the whole rule.
        batch: training runs per objective and outer step.
        learning_rate: root mean square of the first inner update.
        seeds: number of meta-trainings.

    Returns:
        Theta, in which features that are not seen have no weight, and the mean measure of the last tenth of the outer
        steps, per seed; NaN if there was no meta-training.
    """
    init = compass(arm.units).init
    keys = jax.random.split(jax.random.key(0), seeds)
    if not arm.trained:
        return [(init(key), math.nan) for key in keys]
    steps, horizon = count_outer_steps(arm, outer_steps, length)

    def transform(theta: Any, num_steps: Any = None) -> Any:
        rule = directions(arm.lengths, hide_features(arm, theta))
        return optax.chain(rule, optax.scale_by_learning_rate(cosine(learning_rate, num_steps)))

    optimizer, data, estimators = LearnedOptimizer(init, transform), {}, {}
    for name in names:
        objective, data[name], _ = objectives.load(name)
        objective = objective if arm.rescale is None else reparametrise(objective, *arm.rescale)
        loop = training_loop(objective, optimizer, horizon)
        loop = weigh_late_losses(log_transform_losses(loop, FLOOR))
        estimators[name] = backprop(loop, batch, horizon, remat=True)
    outer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(2e-2, steps, 0.01)))
    meta_loop, found = outer_loop(together(estimators), outer, 1), []
    for key in keys:
        theta_key, outer_key = jax.random.split(key)
        state, losses = meta_loop.init(init(theta_key), data, outer_key), []
        for _ in range(steps):
            state, metrics = meta_loop.step(state, data)
            losses.append(metrics["loss"].mean())
        last = losses[-max(1, steps // 10) :]
        found.append((hide_features(arm, state.theta), float(jnp.stack(last).mean())))
    return found
