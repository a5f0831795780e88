"""The estimator of meta-gradients that a configuration names: the one place that makes one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from metalearn.gradients import (
    Estimator,
    backprop,
    centred_ranks,
    dense,
    full_es,
    low_rank,
    nres,
    pes,
    truncated_backprop,
    truncated_es,
    z_scores,
)
from metalearn.inner import InnerLoop
from metalearn.ranges import Positive, Size, Steps

__all__ = ["GradientConfig", "make_estimator"]

Method = Literal["backprop", "es", "nres", "pes", "truncated-es"]


@dataclass(frozen=True)
class GradientConfig:
    """Where meta-gradients come from: backpropagation, or evolution strategies, which need forward passes only."""

    method: Method = "backprop"
    """backprop: backpropagation, truncated if there is a window. Evolution strategies: es perturbs whole trajectories;
    nres keeps the noise for a trajectory; pes credits noise with all later losses; truncated-es scores each window by
    itself, and is biased."""
    window: Steps | None = None
    """Inner steps between two outer steps; None: whole trajectories."""
    sigma: Positive = 0.05
    """Evolution strategies: standard deviation of the perturbations of theta."""
    pairs: Steps | None = None
    """Evolution strategies: antithetic pairs, which share the batch evenly; None: one pair per task."""
    rank: Size | None = 1
    """Evolution strategies: rank of the perturbations of matrices; None: dense."""
    shaping: Literal["none", "centred-ranks", "z-scores"] = "none"
    """Evolution strategies: what losses are replaced by, over all pairs; both ranks and z-scores are biased."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form, which is that of before there was `shaping` if there is none."""
        values = dataclasses.asdict(self)
        if self.shaping == "none":
            del values["shaping"]
        return values


def make_estimator(
    loop: InnerLoop,
    config: GradientConfig,
    batch: int,
    *,
    longest: int,
    length_option: str,
    horizon: Any = None,
    remat: bool = False,
) -> Estimator:
    """The estimator of a configuration.

    Args:
        loop: the inner loop that is unrolled.
        config: which estimator, and its numbers.
        batch: trajectories per outer step; with evolution strategies they are divided among the pairs.
        longest: inner steps of the longest trajectory.
        length_option: the option that this length is given by.
        horizon: length of a trajectory, or a schedule of lengths; None: the loop's own length.
        remat: with backpropagation through whole trajectories, keep one state per step; see `scan_steps`.

    Raises:
        ValueError: the method needs a window and has none, or has one and takes none; or numbers do not fit.
    """
    method, window = config.method, config.window
    if window is not None and window > longest:
        raise ValueError(
            f"--gradient.window must be at most the length of a trajectory, got {window} and {longest}: give "
            f"--gradient.window {longest}, or a greater {length_option}"
        )
    if method == "backprop" and config.shaping != "none":
        raise ValueError(f"--gradient.shaping {config.shaping} is for evolution strategies: choose none with backprop")
    if method == "backprop":
        if window is None:
            return backprop(loop, batch, remat=remat)
        return truncated_backprop(loop, batch, window, horizon)
    pairs = batch if config.pairs is None else config.pairs
    if pairs < 1 or batch % pairs:
        raise ValueError(
            f"a batch of {batch} cannot be divided evenly among {pairs} pairs: make --batch a multiple of "
            "--gradient.pairs"
        )
    options: dict[str, Any] = {
        "noise": dense if config.rank is None else low_rank(config.rank),
        "tasks": batch // pairs,
        "horizon": horizon,
        "shaping": {"none": None, "centred-ranks": centred_ranks, "z-scores": z_scores}[config.shaping],
    }
    if method == "es":
        if window is not None:
            raise ValueError(
                f"es updates after whole trajectories: leave out --gradient.window {window}, or choose nres or pes"
            )
        return full_es(loop, config.sigma, pairs, **options)
    if window is None:
        raise ValueError(f"{method} updates every few steps: say after how many with --gradient.window")
    online = {"nres": nres, "pes": pes, "truncated-es": truncated_es}[method]
    return online(loop, config.sigma, pairs, window, **options)
