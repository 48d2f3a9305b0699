"""Pictures that follow sliders in a running notebook; a stored notebook has a line of text in their place.

Neither pictures nor states of sliders are stored, so a notebook shows the main result in an ordinary figure as well.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets

from v2f_core.show.faces import data_url
from v2f_core.show.plots import described

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sliders(ipywidgets.VBox):
    """Sliders above a picture, for the last line of a cell.

    ``draw`` takes a value of each slider by name and returns HTML or a matplotlib figure; a picture is drawn once, when
    its values are first reached. ``places`` are the values of each slider, ``start`` the initial ones, else the first.

    Example:
        >>> sliders = Sliders(lambda t: f"<b>{t:.0%}</b>", {"t": [0.0, 0.5, 1.0]}, {"t": 0.5})
        >>> sliders.children[-1].value
        '<b>50%</b>'
        >>> sliders
        (slider for t: run this cell in Jupyter to move it)
    """

    def __init__(
        self,
        draw: Callable[..., str | Figure],
        places: Mapping[str, Sequence[float | int]],
        start: Mapping[str, float | int] | None = None,
    ) -> None:
        self._draw, self._drawn = draw, {}  # type: ignore[var-annotated]
        self._picture = ipywidgets.HTML(layout={"width": "auto"})
        self._controls = {}
        for name, values in places.items():
            options, value = [(f"{value:g}", value) for value in values], (start or {}).get(name, values[0])
            self._controls[name] = ipywidgets.SelectionSlider(options=options, value=value, description=name)
            self._controls[name].observe(self._follow, names="value")
        super().__init__([*self._controls.values(), self._picture])
        self._follow()

    def _follow(self, _: object = None) -> None:
        place = {name: control.value for name, control in self._controls.items()}
        key = tuple(place.values())
        if key not in self._drawn:
            drawn = self._draw(**place)
            self._drawn[key] = drawn if isinstance(drawn, str) else _as_html(drawn)
        self._picture.value = self._drawn[key]

    def __repr__(self) -> str:
        names, many = " and ".join(self._controls), len(self._controls) > 1
        return f"(slider{'s' * many} for {names}: run this cell in Jupyter to move {'them' if many else 'it'})"


def _as_html(figure: Figure) -> str:
    """A figure as an ``img`` element. It is closed, or Jupyter would show it a second time."""
    import matplotlib.pyplot as plt

    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=figure.dpi)
    plt.close(figure)
    image = data_url("image/png", data.getvalue())
    return f'<img style="max-width:100%" src="{image}" alt="{html.escape(described(figure))}">'
