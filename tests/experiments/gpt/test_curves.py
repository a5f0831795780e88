"""Curves of a generator beside Adam's: what a budget counts."""

import numpy as np

from experiments.gpt import curves


def test_jumps_are_paid_for_in_steps():
    steps = np.exp(-0.01 * np.arange(100.0))
    adam = np.stack([steps, 1.1 * steps, 0.9 * steps])
    # A curve that is 20 steps ahead, and paid 20 steps, is level: the same numbers at equal operations.
    level = curves.compare(adam * np.exp(-0.2), adam, 60, 20)
    np.testing.assert_allclose(level["ratio"], 1, rtol=1e-6)
    better = curves.compare(adam * np.exp(-0.3), adam * np.array([[1.01], [1.0], [0.99]]), 60, 20)
    assert better["verdict"] == "better" and better["ratio"] < better["interval"][1] < 1
    assert curves.compare(adam, adam * 0.5 * np.array([[1.01], [1.0], [0.99]]), 100, 0)["verdict"] == "worse"
    assert curves.compare(adam, adam, 30, 25)["loss"] is None


def test_the_table_names_all_rows():
    row = {"30": curves.compare(np.ones((3, 40)), np.ones((3, 40)), 30, 0)}
    text = curves.format_result({"rows": {"Adam": row}, "steps_per_jump": 4.25, "picture": "x", "seconds": 1})
    assert "Adam" in text and "4.2" in text and "1.00 [1.00, 1.00]" in text
