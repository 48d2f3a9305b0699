"""Sliders move a picture in a live notebook and leave a line of text in a stored one."""

from matplotlib import pyplot as plt

from v2f_core.show.sliders import Sliders


def test_each_place_is_drawn_once_and_kept():
    drawn = []

    def draw(s, m):
        drawn.append((s, m))
        return f"{s} {m}"

    sliders = Sliders(draw, {"s": [1, 2], "m": [0, 0.5]}, {"s": 2})
    s, m, picture = sliders.children
    assert picture.value == "2 0"
    m.value, s.value = 0.5, 1
    s.value = 2
    assert picture.value == "2 0.5"
    assert drawn == [(2, 0), (2, 0.5), (1, 0.5)]
    assert set(sliders._repr_mimebundle_()) == {"text/plain", "application/vnd.jupyter.widget-view+json"}


def test_a_figure_is_shown_once_with_its_text():
    def draw(t):
        figure, ax = plt.subplots()
        ax.set_title(f"at {t}")
        return figure

    open_before = plt.get_fignums()
    sliders = Sliders(draw, {"t": [0, 1]})
    assert plt.get_fignums() == open_before  # else the inline backend shows it below the cell, too
    picture = sliders.children[-1].value
    assert 'alt="Figure. at 0' in picture
    assert "data:image/png;base64," in picture
