"""Pictures that follow sliders in a running notebook; a stored notebook has a line of text in their place.

Neither pictures nor states of sliders are stored, so a notebook shows the main result in an ordinary figure as well.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from v2f_core.show.plots import described

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VIEW = "application/vnd.jupyter.widget-view+json"


class Sliders:
    """Sliders above a picture, for the last line of a cell.

    ``draw`` takes a value of each slider by name and returns HTML or a matplotlib figure; a picture is drawn once, when
    its values are first reached. ``places`` are the values of each slider, ``start`` the initial ones, else the first.

    Example:
        >>> sliders = Sliders(lambda t: f"<b>{t:.0%}</b>", {"t": [0.0, 0.5, 1.0]}, {"t": 0.5})
        >>> sliders.shown
        '<b>50%</b>'
        >>> sliders.move(t=1.0)
        >>> sliders.shown
        '<b>100%</b>'
        >>> sliders
        (slider for t: run this cell in Jupyter to move it)
    """

    def __init__(
        self,
        draw: Callable[..., str | Figure],
        places: Mapping[str, Sequence[float | int]],
        start: Mapping[str, float | int] | None = None,
    ) -> None:
        import ipywidgets

        self._draw, self._drawn = draw, {}  # type: ignore[var-annotated]
        self._picture = ipywidgets.HTML(layout=ipywidgets.Layout(width="auto"))
        self._controls = {
            name: ipywidgets.SelectionSlider(
                options=[(f"{value:g}", value) for value in values],
                value=(start or {}).get(name, values[0]),
                description=name,
            )
            for name, values in places.items()
        }
        for control in self._controls.values():
            control.observe(self._follow, names="value")
        self._box = ipywidgets.VBox([*self._controls.values(), self._picture])
        self._follow()

    @property
    def shown(self) -> str:
        """The HTML below the sliders."""
        return str(self._picture.value)

    def move(self, **values: float | int) -> None:
        """Set sliders by program, as a reader would by hand."""
        for name, value in values.items():
            self._controls[name].value = value

    def _follow(self, _: object = None) -> None:
        place = {name: control.value for name, control in self._controls.items()}
        key = tuple(place.values())
        if key not in self._drawn:
            drawn = self._draw(**place)
            self._drawn[key] = drawn if isinstance(drawn, str) else _as_html(drawn)
        self._picture.value = self._drawn[key]

    def __repr__(self) -> str:
        names = " and ".join(self._controls)
        plural = len(self._controls) > 1
        return f"(slider{'s' * plural} for {names}: run this cell in Jupyter to move {'them' if plural else 'it'})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        return {"text/plain": repr(self), VIEW: view}


def _as_html(figure: Figure) -> str:
    """A figure as an ``img`` element. It is closed, or Jupyter would show it a second time."""
    import matplotlib.pyplot as plt

    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=figure.dpi)
    plt.close(figure)
    code = base64.b64encode(data.getvalue()).decode()
    return f'<img style="max-width:100%" src="data:image/png;base64,{code}" alt="{html.escape(described(figure))}">'
