"""Diagrams: every box and arrow is drawn where it was put, and a text says the same in words."""

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


def test_boxes_hold_their_texts_and_lie_apart_within_the_picture_and_the_text_says_what_occurs():
    figure = diagrams.draw(BOXES, ARROWS, "Stage I")
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(BOXES)
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == len(ARROWS)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for text in axes.texts:
        corners = text.get_window_extent().min, text.get_window_extent().max
        inside = [box for box in boxes if all(box.contains(*corner) for corner in corners)]
        assert len(inside) == (text.get_text() != "512 numbers"), text.get_text()
    for artist in (*axes.patches, *axes.texts, axes.get_legend(), axes.title):
        extent = artist.get_window_extent()
        assert figure.bbox.contains(*extent.min), artist
        assert figure.bbox.contains(*extent.max), artist
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["trained", "loss", "gradient"]
    assert described(figure) == (
        "Diagram. Stage I: v to aligner three layers; aligner three layers to z (512 numbers); z to L_id; "
        "gradient from L_id to z."
    )
