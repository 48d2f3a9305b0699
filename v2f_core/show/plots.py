"""One style for every figure, galleries of voices and faces, forests of intervals, and alternative texts."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WOMEN, MEN = "#b5446e", "#2f6690"
OURS, REFERENCE, CEILING = "#d1603d", "#9aa0a6", "#3a7d44"
SEX = {"f": WOMEN, "m": MEN}
SAMPLE_RATE = 16_000
LONGEST = 600  # characters of an alternative text: a screen reader reads all of it
STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "font.size": 10,
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Set this package's style for matplotlib and seaborn; in Jupyter, figures get alternative texts too."""
    import seaborn as sns
    from matplotlib.figure import Figure

    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.display_formatter.formatters["image/png"].for_type(Figure, _with_text)
    sns.set_theme(context="notebook", style="ticks", palette=[OURS, MEN, CEILING, WOMEN, REFERENCE], rc=STYLE)


@dataclass(frozen=True)
class GalleryRow:
    """One line of a gallery."""

    label: str  # the speaker's name
    wave: Float[np.ndarray, " samples"]  # the beginning, at 16 kHz
    generated: Sequence[UInt8[np.ndarray, "_ _ 3"]]  # faces drawn from the voice
    truth: UInt8[np.ndarray, "_ _ 3"] | None = None  # the speaker's face
    captions: Sequence[str] = ()  # one for each generated face


def gallery(rows: Sequence[GalleryRow], title: str = "") -> Figure:
    """Voice → true face | generated faces, one line a recording."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)  # not use_style: seaborn and pandas would take a second to import
    widths = [1.9, 1.0, *([1.0] * max(len(row.generated) for row in rows))]
    size = (1.35 * sum(widths), 1.5 * len(rows) + 0.7)
    figure, axes = plt.subplots(
        len(rows), len(widths), figsize=size, squeeze=False, layout="constrained", width_ratios=widths
    )
    for row, line in zip(rows, axes, strict=True):
        _spectrogram(line[0], row.wave)
        line[0].set_ylabel(row.label, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
        for ax, face, caption in zip_longest(line[1:], [row.truth, *row.generated], ["", *row.captions]):
            _face(ax, face)
            ax.set_xlabel(caption or "", fontsize=8)
    for ax, head in zip(axes[0], ("voice", "true face"), strict=False):
        ax.set_title(head, fontsize=10)
    axes[0, 2].set_title("synthetic, from voice alone", fontsize=10, loc="left")
    figure.suptitle(title, fontsize=12)
    return figure


def forest(table: pd.DataFrame, metrics: Sequence[str], against: str) -> Figure:
    """One panel a metric: every system's value and interval, and a dotted line at the value of ``against``.

    The table has a row for each system and metric, with ``value``, ``low`` and ``high`` (a thin bar: the interval over
    persons). If it has paired gains, ``gain low`` and ``gain high``, their interval is a thick bar: a system differs
    from ``against`` if its thick bar is clear of the dotted line.
    """
    import matplotlib.pyplot as plt

    use_style()
    systems = list(dict.fromkeys(table.system))
    size = (3.1 * len(metrics) + 1.5, 0.42 * len(systems) + 1.2)
    figure, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        rows = table[table.metric == metric].set_index("system")
        base = rows.value.get(against, np.nan)
        for system, row in rows.iterrows():
            place, colour = systems.index(system), REFERENCE if system == against else MEN
            paired = np.isfinite(row.get("gain low", np.nan))
            if np.isfinite(row.get("low", np.nan)):
                ax.plot([row.low, row.high], [place, place], color=colour, lw=1 if paired else 2)
            if paired:
                ends = [base + row["gain low"], base + row["gain high"]]
                ax.plot(ends, [place, place], color=colour, lw=4, solid_capstyle="butt")
            ax.plot(row.value, place, "o", color=colour, ms=6)
        if np.isfinite(base):
            ax.axvline(base, color=REFERENCE, lw=0.8, ls=":", zorder=0)
        ax.set_xlabel(metric)
        ax.locator_params(axis="x", nbins=5)  # with more ticks the numbers touch
    axes[0, 0].set_yticks(range(len(systems)), systems)
    axes[0, 0].set_ylim(len(systems) - 0.5, -0.5)
    figure.tight_layout()
    return figure


def _spectrogram(ax: Axes, wave: np.ndarray) -> None:
    ax.set(xticks=[], yticks=[])
    if len(wave) < 512:
        return
    frames = np.lib.stride_tricks.sliding_window_view(wave[: 3 * SAMPLE_RATE], 512)[::160] * np.hanning(512)
    power = np.log10(np.abs(np.fft.rfft(frames)) ** 2 + 1e-7)[:, :160].T  # up to 5 kHz
    ax.imshow(power, origin="lower", aspect="auto", cmap="magma", vmin=power.max() - 5)


def _face(ax: Axes, face: np.ndarray | None) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if face is None:
        ax.text(0.5, 0.5, "unknown", ha="center", va="center", fontsize=8, color=REFERENCE)
        ax.set(xlim=(0, 1), ylim=(0, 1))
    else:
        ax.imshow(face)


# --- texts


def described(figure: Figure) -> str:
    """A figure in words: its label, which diagrams have, or its titles, axes, legends, colour bars and texts."""
    if text := str(figure.get_label()):
        return text
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    panels = [ax for ax in figure.axes if ax not in bars]
    parts = [text for text in dict.fromkeys(_panel(ax) for ax in panels) if text]
    parts += [f"colour: {label}" for ax in bars if (label := plain(ax.get_ylabel() or ax.get_xlabel()))]
    count = f" of {len(panels)} panels" if len(panels) > 1 else ""
    return sentence(". ".join([f"Figure{count}", *filter(None, [plain(figure.get_suptitle())]), *parts]))


def _with_text(figure: Figure) -> tuple[str, dict[str, str]]:
    """A figure as Jupyter stores it, with its alternative text; nbconvert and the book read it there."""
    from IPython.core.pylabtools import print_figure

    return print_figure(figure, base64=True, bbox_inches="tight"), {"alt": described(figure)}


def _panel(ax: Axes) -> str:
    """One panel in words: its title, axes, legend, tick labels and texts."""
    title = " ".join(filter(None, (plain(ax.get_title(loc)) for loc in ("left", "center", "right"))))
    across, up = plain(ax.get_xlabel()), plain(ax.get_ylabel())
    axes = f"{up} against {across}" if across and up else across or up
    legend = ax.get_legend()
    names = [plain(text.get_text()) for text in legend.get_texts()] if legend else []
    ticks, notes = (
        [text for label in labels if re.search("[a-zA-Z]{2}", text := plain(label.get_text()))]
        for labels in ([*ax.get_xticklabels(), *ax.get_yticklabels()] if ax.axison else [], ax.texts)
    )
    content = "; ".join(filter(None, [axes, *(", ".join(dict.fromkeys(texts)) for texts in (names, ticks, notes))]))
    return ": ".join(filter(None, [title, content]))


def sentence(text: str) -> str:
    """A text that is not too long to be read out, with a full stop."""
    return f"{text if len(text) < LONGEST else text[:LONGEST].rsplit(' ', 1)[0] + ' …'}."


def plain(text: str) -> str:
    """A label without TeX's signs and line breaks, to be read out."""
    return " ".join(re.sub(r"\\(bar|hat|sqrt|math[a-z]+|rm|text|var(?=phi))|[\\${}]", "", text).split())
