"""ShrinkBench's table and pictures: means, spreads, the control, and what is missing."""

import pytest

from metalearn.pictures import new_figure
from metalearn_models.sparsity.report import Layer, Report
from metalearn_models.sparsity.tradeoffs import Outcome, draw_tradeoffs, format_tradeoffs, outcome

CONTROL = [Outcome(1, 1, 0.9, 0.99), Outcome(1, 1, 0.94, 1.0)]
METHODS = {
    "magnitude": [[Outcome(c, 2 * c, 0.8 - c / 100, 0.9), Outcome(c, 4 * c, 0.7 - c / 100, 0.9)] for c in range(2, 7)],
    "random": [[Outcome(2, 2, 0.5, 0.6)]],
}


def test_the_table_has_means_and_deviations_over_seeds():
    lines = format_tradeoffs(METHODS, CONTROL).splitlines()
    assert len(lines) == 1 + 1 + 5 + 1 + 1
    assert lines[1].split() == ["unpruned", "1.00", "1.00", "92.00", "±", "2.83", "99.50", "±", "0.71", "2"]
    assert lines[2].split() == ["magnitude", "2.00", "6.00", "73.00", "±", "7.07", "90.00", "±", "0.00", "2"]
    assert lines[-2].split() == ["random", "2.00", "2.00", "50.00", "60.00", "1"]
    assert lines[-1] == "ShrinkBench asks for at least 5 compressions; fewer have random"


def test_the_pictures_have_accuracy_over_compression_and_over_speed_up():
    _, axes = new_figure(columns=2)
    draw_tradeoffs(axes, METHODS, CONTROL)
    for ax, xs in zip(axes, ([2, 3, 4, 5, 6], [6, 9, 12, 15, 18]), strict=True):
        control, magnitude = ax.get_lines()[0], ax.containers[0].lines[0]
        assert control.get_ydata()[0] == pytest.approx(92)
        assert magnitude.get_xdata() == pytest.approx(xs)
        assert magnitude.get_ydata() == pytest.approx([75 - x for x in range(2, 7)])
        assert ax.get_ylabel() == "top-1, %"
    assert [ax.get_xlabel() for ax in axes] == ["compression", "theoretical speed-up"]
    _, axes = new_figure(columns=2)
    draw_tradeoffs(axes, METHODS, CONTROL, top=5)
    assert axes[0].containers[0].lines[0].get_ydata() == pytest.approx([90] * 5)
    with pytest.raises(ValueError, match="top must be 1 or 5, got 3"):
        draw_tradeoffs(axes, METHODS, CONTROL, top=3)


def test_an_outcome_needs_accuracies():
    layers = {"w": Layer(size=10, kept=4, multiply_adds=10)}
    assert outcome(Report(layers, 10, 5.0, 0.5, 0.75, 0.0, 0.0)) == Outcome(2.5, 2.0, 0.5, 0.75)
    with pytest.raises(ValueError, match="give labels"):
        outcome(Report(layers, 10, 5.0, None, None, 0.0, 0.0))
