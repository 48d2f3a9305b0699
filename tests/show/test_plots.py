"""The forest of a table: which bar stands where, and that its numbers can be read."""

from itertools import pairwise

import pandas as pd
import pytest

from v2f_core.show.plots import forest


def bars(axes):
    """(left, right, thickness) of each horizontal bar, by its place from above."""
    found = {}
    for line in axes.lines:
        x, y = line.get_xdata(), line.get_ydata()
        if len(x) == 2 and y[0] == y[1]:
            found.setdefault(y[0], []).append((*map(float, x), line.get_linewidth()))
    return found


def test_the_paired_interval_is_the_thick_bar_about_what_was_gained():
    plain = {"metric": "cosine", "value": 0.2, "low": 0.1, "high": 0.3, "system": "base"}
    better = {**plain, "system": "new", "value": 0.25, "gain": 0.05, "gain low": 0.04, "gain high": 0.07}
    axes = forest(pd.DataFrame([plain, better]), ["cosine"], "base").axes[0]
    assert bars(axes)[0] == [(0.1, 0.3, 2.0)]
    (_, _, thin), (left, right, thick) = bars(axes)[1]
    assert (left, right) == pytest.approx((0.24, 0.27))
    assert thick > 2 > thin


@pytest.mark.parametrize("systems", [2, 7])
def test_a_forests_numbers_do_not_touch_and_no_system_lies_on_the_frame(systems):
    metrics = {"likeness": (0.48, 0.601), "R@10": (0.003, 0.14)}
    names = [f"system {i}" for i in range(systems)]
    rows = [(name, metric, sum(ends) / 2, *ends) for name in names for metric, ends in metrics.items()]
    table = pd.DataFrame(rows, columns=["system", "metric", "value", "low", "high"])
    figure = forest(table, [*metrics], names[0])
    figure.canvas.draw()
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert len(boxes) > 2
        assert all(left.x1 + left.height < right.x0 for left, right in pairwise(boxes))
        assert ax.get_ylim() == (systems - 0.5, -0.5)  # the first on top, half a line of room
