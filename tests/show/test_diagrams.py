"""Diagrams: every box and arrow is drawn where it was put, and a text says the same in words."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from v2f_core.show import diagrams
from v2f_core.show.plots import described

BOXES = {
    "v": ("$v$", 0, 0),
    "net": ("aligner\nthree layers", 1, 0, "trained"),
    "z": (r"$\hat z$", 2, 0),
    "loss": (r"$L_{\mathrm{id}}$", 2, 1, "loss"),
}
ARROWS = [("v", "net"), ("net", "z", "512 numbers"), ("z", "loss"), ("loss", "z", "", "gradient", 0.4)]


@pytest.fixture
def figure():
    drawn = diagrams.draw(BOXES, ARROWS, "Stage I")
    yield drawn
    plt.close(drawn)


def of(figure, kind):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, kind)]


def test_as_many_boxes_and_arrows_as_were_asked_for(figure):
    assert len(of(figure, FancyBboxPatch)) == len(BOXES)
    assert len(of(figure, FancyArrowPatch)) == len(ARROWS)


def test_boxes_do_not_overlap_and_hold_their_texts(figure):
    figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in of(figure, FancyBboxPatch)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for text in figure.axes[0].texts:
        inside = [
            b for b in boxes if b.contains(*text.get_window_extent().min) and b.contains(*text.get_window_extent().max)
        ]
        assert len(inside) == (text.get_text() != "512 numbers"), text.get_text()


def test_everything_lies_within_the_picture(figure):
    figure.canvas.draw()
    shown = figure.bbox
    for artist in (*figure.axes[0].patches, *figure.axes[0].texts, figure.axes[0].get_legend(), figure.axes[0].title):
        extent = artist.get_window_extent()
        assert shown.contains(*extent.min), artist
        assert shown.contains(*extent.max), artist


def test_the_legend_explains_the_kinds_that_occur_and_no_others(figure):
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["trained", "loss", "gradient"]
    plain = diagrams.draw({"a": ("a", 0, 0), "b": ("b", 1, 0)}, [("a", "b")])
    assert plain.axes[0].get_legend() is None
    plt.close(plain)


def test_the_alternative_text_names_every_arrow(figure):
    assert described(figure) == (
        "Diagram. Stage I: v to aligner three layers; aligner three layers to z (512 numbers); z to L_id; "
        "gradient from L_id to z."
    )


def test_a_long_alternative_text_is_cut_between_words():
    names = {f"number {i}": (f"the box number {i}", i, 0) for i in range(40)}
    long = diagrams.draw(names, list(zip(names, list(names)[1:], strict=False)))
    assert len(long.get_label()) <= 603
    assert long.get_label().endswith(" ….")
    plt.close(long)
