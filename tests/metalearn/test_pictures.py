"""Pictures: numbers on logarithmic axes, and one colour for one thing."""

import numpy as np
import pytest

from metalearn.curves import Curve
from metalearn.pictures import draw_learning_curves, draw_training, new_figure, save, with_readable_names


@pytest.mark.parametrize("ends", [(0.21, 0.29), (2, 9), (3, 99), (11, 90), (300, 1600), (0.02, 1.9), (1e-5, 1)])
def test_a_logarithmic_axis_has_two_numbers_or_more_however_short_it_is(ends, tmp_path):
    figure, [ax] = new_figure()
    ax.plot(ends, ends)
    ax.set_xscale("log")
    ax.set_yscale("log")
    save(figure, tmp_path / "p.png")
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        shown = [t.label1.get_text() for t in ticks if low <= t.get_loc() <= high and t.label1.get_text()]
        assert len(shown) >= 2, (ends, shown)
        if high < 90 * low:  # plain numbers where powers of ten are too far apart
            assert all(low <= float(text) <= high for text in shown)


def test_ticks_of_ones_own_stay_alone(tmp_path):
    figure, [ax] = new_figure()
    ax.plot([2, 7], [0, 1])
    ax.set_xscale("log")
    ax.set_xticks([2, 7], ["two", "seven"])
    save(figure, tmp_path / "p.png")
    ticks = [*ax.xaxis.get_major_ticks(), *ax.xaxis.get_minor_ticks()]
    assert [t.label1.get_text() for t in ticks if t.label1.get_text()] == ["two", "seven"]


def test_the_scores_of_one_kind_of_task_have_one_colour_in_both_halves():
    _, (left, right) = new_figure(columns=2)
    curve = Curve(*np.ones((3, 4)))
    names = ("training", "unseen", "seen")
    draw_learning_curves(left, with_readable_names(dict.fromkeys((*names, "reference: 1nn", "x"), curve)), 0.1)
    draw_training(right, [{"step": 1, "loss": 1.0, **{f"eval/{n}_score": 0.3 for n in names}}], 0.1, "accuracy", 10)
    twin = right.figure.axes[-1]
    curves = {str(line.get_label()): line.get_color() for line in left.get_lines()}
    points = {str(line.get_label()): line.get_color() for line in twin.get_lines()}
    same = {
        "training examples": "accuracy, training, last 10",
        "seen tasks, held-out examples": "accuracy, seen tasks, last 10",
        "unseen tasks, held-out examples": "accuracy, unseen tasks, last 10",
    }
    assert all(curves[a] == points[b] for a, b in same.items())
    assert len({*curves.values()} | {*points.values()}) == len(curves) + len(points) - len(same)
