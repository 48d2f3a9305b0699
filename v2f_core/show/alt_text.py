"""A text for who cannot see a figure: what its panels are called, what is drawn over what, and which names stand in it.

Jupyter keeps it beside the picture, and nbconvert and the book put it into the page as the picture's ``alt``.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 600  # characters; a screen reader cannot skim


def described(figure: Figure) -> str:
    """A figure in words, from its titles, axes, legends, colour bars and what is written in it.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> ax = figure.subplots()
        >>> _ = ax.plot([1, 2], label="training")
        >>> _ = ax.set(xlabel="step", ylabel="loss", title="InfoNCE")
        >>> _ = ax.legend()
        >>> described(figure)
        'Figure. InfoNCE: loss against step; training.'
    """
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    panels = [ax for ax in figure.axes if ax not in bars]
    said = [text for text in dict.fromkeys(_panel(ax) for ax in panels) if text]
    said += [f"colour: {label}" for ax in bars if (label := _plain(ax.get_ylabel() or ax.get_xlabel()))]
    count = f" of {len(panels)} panels" if len(panels) > 1 else ""
    text = ". ".join([f"Figure{count}", *filter(None, [_plain(figure.get_suptitle())]), *said])
    return f"{text if len(text) < _LONGEST else text[:_LONGEST].rsplit(' ', 1)[0] + ' …'}."


def speak() -> None:
    """Let every figure that a notebook shows from here on carry its text; outside of Jupyter nothing happens."""
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython
    from IPython.core.pylabtools import print_figure
    from matplotlib.figure import Figure

    shell = get_ipython()
    if shell is None or shell.display_formatter is None:
        return

    def spoken(figure: Figure) -> tuple[str, dict[str, str]]:
        return print_figure(figure, base64=True, bbox_inches="tight"), {"alt": described(figure)}

    shell.display_formatter.formatters["image/png"].for_type(Figure, spoken)


def _panel(ax: Axes) -> str:
    """One panel: its title, its axes and the names in it."""
    title = " ".join(filter(None, (_plain(ax.get_title(loc)) for loc in ("left", "center", "right"))))
    across, up = _plain(ax.get_xlabel()), _plain(ax.get_ylabel())
    axes = f"{up} against {across}" if across and up else across or up
    legend = ax.get_legend()
    names = [_plain(text.get_text()) for text in legend.get_texts()] if legend else []
    ticks = [*ax.get_xticklabels(), *ax.get_yticklabels()] if ax.axison else []
    named = [text for tick in ticks if re.search("[a-zA-Z]{2}", text := _plain(tick.get_text()))]
    written = [text for note in ax.texts if re.search("[a-zA-Z]{2}", text := _plain(note.get_text()))]
    what = "; ".join(filter(None, [axes, *(", ".join(dict.fromkeys(texts)) for texts in (names, named, written))]))
    return ": ".join(filter(None, [title, what]))


def _plain(text: str) -> str:
    """Text without the marks of mathematics and without line breaks."""
    return " ".join(re.sub(r"\\(bar|hat|sqrt|mathdefault)|[\\${}]", "", text).split())
