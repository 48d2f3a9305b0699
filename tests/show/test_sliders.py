"""Sliders move a picture in a live notebook and leave a line of text in a stored one."""

import nbformat
import pytest
import run_notebooks
from matplotlib import pyplot as plt
from nbformat import v4

from v2f_core.show.sliders import Sliders

VIEW = "application/vnd.jupyter.widget-view+json"


def test_each_place_is_drawn_once_and_kept():
    drawn = []

    def draw(s, m):
        drawn.append((s, m))
        return f"{s} {m}"

    sliders = Sliders(draw, {"s": [1, 2], "m": [0, 0.5]}, {"s": 2})
    assert sliders.shown == "2 0"
    sliders.move(m=0.5)
    sliders.move(s=1)
    sliders.move(s=2)
    assert sliders.shown == "2 0.5"
    assert drawn == [(2, 0), (2, 0.5), (1, 0.5)]


def test_a_figure_is_shown_once_with_its_text():
    def draw(t):
        figure, ax = plt.subplots()
        ax.set_title(f"at {t}")
        return figure

    open_before = plt.get_fignums()
    sliders = Sliders(draw, {"t": [0, 1]})
    assert plt.get_fignums() == open_before  # else the inline backend shows it below the cell, too
    assert 'alt="Figure. at 0' in sliders.shown
    assert "data:image/png;base64," in sliders.shown


@pytest.mark.slow
def test_a_front_end_gets_a_widget_and_a_stored_notebook_a_line_of_text(tmp_path):
    path = tmp_path / "a.ipynb"
    source = 'from v2f_core.show.sliders import Sliders\n\nSliders(lambda t: f"<b>{t}</b>", {"t": [0, 1]})'
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source)]), path)
    bundle = Sliders(lambda t: "", {"t": [0]})._repr_mimebundle_()
    assert set(bundle) == {"text/plain", VIEW}
    run_notebooks.run(path)
    book = nbformat.read(path, as_version=4)
    (output,) = book.cells[0].outputs
    assert output.data == {"text/plain": "(slider for t: run this cell in Jupyter to move it)"}
    assert "widgets" not in book.metadata
