"""Every figure can be read aloud: titles, axes, legends and colour bars, in Jupyter beside the picture itself."""

import base64
import io

import nbformat
import numpy as np
import pytest
import run_notebooks
from matplotlib.figure import Figure
from nbformat import v4
from PIL import Image

from v2f_core.show.plots import described


def test_panels_are_named_with_what_they_show():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], label=r"$\bar\alpha_t$")
    left.set(title="amplitudes", xlabel="t", ylabel="share")
    left.legend()
    right.barh([0, 1], [1, 2])
    right.set_yticks([0, 1], ["chance", "ours"])
    right.set_xlabel("R@10")
    assert described(figure) == ("Figure of 2 panels. amplitudes: share against t; alpha_t. R@10; chance, ours.")


def test_colour_bars_are_no_panels_and_texts_are_kept_without_powers_of_ten():
    figure = Figure()
    ax = figure.subplots()
    figure.colorbar(ax.imshow(np.eye(2)), ax=ax, label="cosine")
    ax.text(1, 1, "378 persons")
    ax.text(0, 0, "A")
    assert described(figure) == "Figure. 378 persons. colour: cosine."
    figure = Figure()
    figure.subplots().loglog([1, 1000], [1, 1000])
    assert described(figure) == "Figure."


def test_panels_that_say_the_same_are_named_once_and_a_long_text_is_cut():
    figure = Figure()
    for ax in figure.subplots(1, 4):
        ax.set_xlabel("face")
    assert described(figure) == "Figure of 4 panels. face."
    figure.axes[0].set_title("word " * 400)
    assert len(described(figure)) < 620
    assert described(figure).endswith(" ….")


@pytest.mark.slow
def test_a_notebook_that_is_run_keeps_texts_and_at_most_256_colours_and_of_sliders_a_line(tmp_path):
    path = tmp_path / "a.ipynb"
    source = (
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nimport numpy as np\nfrom v2f_core.show import plots\n"
        "plots.use_style()\nplt.imshow(np.random.default_rng(0).random((64, 64, 3)))\nplt.title('noise')\nplt.show()"
    )
    sliders = 'from v2f_core.show.sliders import Sliders\n\nSliders(lambda t: f"<b>{t}</b>", {"t": [0, 1]})'
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source), v4.new_code_cell(sliders)]), path)
    run_notebooks.run(path)
    book = nbformat.read(path, as_version=4)
    (output,) = book.cells[0].outputs
    assert output.metadata == {"image/png": {"alt": "Figure. noise."}}
    picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
    assert picture.mode == "P"
    (output,) = book.cells[1].outputs
    assert output.data == {"text/plain": "(slider for t: run this cell in Jupyter to move it)"}
    assert "widgets" not in book.metadata
    stored = path.read_text(encoding="utf-8").rstrip("\n")
    assert nbformat.writes(run_notebooks.clean(book)) == stored  # it is clean already
