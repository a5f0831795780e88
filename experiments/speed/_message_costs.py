"""A model of what evolution strategies cost on many accelerators: compute, messages, and what a message tells.

The arithmetic of docs/scaling.md. Nothing here is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["SIZES", "Accelerators", "all_reduce_seconds", "compute_seconds", "cosine", "predict", "rebuild_seconds"]

SIZES = (10**4, 10**6, 10**8)
"""Numbers of parameters to predict for."""


@dataclass(frozen=True)
class Accelerators:
    """Assumptions, not measurements, about the devices of the prediction."""

    devices: int = 1000
    """D."""
    bandwidth: float = 100e9
    """B, bytes per second that a device can send."""
    latency: float = 10e-6
    """Seconds that an empty message takes from one device to another."""
    rate: float = 100e12
    """R, floating-point operations per second in matrix products."""
    pairs: int = 64
    """Antithetic pairs on each device."""
    steps: int = 1600
    """K W: inner steps of a particle per outer step, over all its tasks."""


def all_reduce_seconds(parameters: float, devices: int, bandwidth: float, latency: float) -> float:
    """Seconds to add up P float32 numbers over D devices.

    Each device sends and receives 2 (D - 1) / D times the array, as in a reduce-scatter and an all-gather; the
    messages go up and down a tree.
    """
    return 8 * parameters * (devices - 1) / devices / bandwidth + 2 * math.ceil(math.log2(devices)) * latency


def rebuild_seconds(parameters: float, pairs: int, devices: int, rate: float, latency: float, rank: int = 1) -> float:
    """Seconds to gather one number per pair instead, and contract the rank-r noise of all pairs on every device."""
    return 2 * rank * parameters * pairs / rate + math.ceil(math.log2(devices)) * latency


def compute_seconds(parameters: float, pairs: int, steps: int, rate: float) -> float:
    """Seconds of the forward passes of a device: two particles per pair, 2 P operations per step."""
    return 4 * parameters * pairs * steps / rate


def cosine(parameters: float, pairs: int) -> float:
    """Expected cosine of an estimate from n pairs with the gradient, for dense noise and a linear loss."""
    return 1 / math.sqrt(1 + (parameters + 1) / pairs)


def predict(config: Accelerators) -> list[dict[str, float]]:
    """The prediction: one row per size of theta, with seconds, the share of the messages and the cosine."""
    c, rows = config, []
    for size in SIZES:
        compute = compute_seconds(size, c.pairs, c.steps, c.rate)
        reduce = all_reduce_seconds(size, c.devices, c.bandwidth, c.latency)
        rebuild = rebuild_seconds(size, c.pairs * c.devices, c.devices, c.rate, c.latency)
        share, angle = reduce / (reduce + compute), cosine(size, c.pairs * c.devices)
        row = {"parameters": size, "compute": compute, "all_reduce": reduce, "share": share, "rebuild": rebuild}
        rows.append({**row, "cosine": angle})
    return rows
