"""What sparse training can be asked for by name, with a line of text each."""

from __future__ import annotations

__all__ = ["DISTRIBUTIONS", "RULES"]

RULES = {
    "static": "connections stay as they were drawn",
    "set_rule": "SET: drop the smallest weights, grow at random",
    "snfs": "SNFS: grow where the running mean of the dense gradient is largest",
    "rigl": "RigL as in the paper: grow where the dense gradient is largest",
    "rigl_released": "RigL as in the released code: first change at step 0, alpha constant",
    "srigl": "RigL with the same number of inputs for every unit; units of little use go",
    "gradual_pruning": "from dense to sparse along a cubic curve",
    "learned_rule": "scores of five features; SET, SNFS and RigL are points of the family",
}
"""Rules by the name of the function that makes them."""

DISTRIBUTIONS = {
    "erk": "Erdos-Renyi-Kernel: density by the sum of a kernel's axes over their product",
    "erdos_renyi": "density by inputs plus outputs over their product",
    "uniform": "the same density in every layer",
}
"""Distributions of connections over layers by the name of the function."""
