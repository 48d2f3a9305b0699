"""Boxes and arrows: how a network is built, and the way of the values and of the gradients through it.

Every diagram of the notebooks is drawn here, so that one colour has one meaning throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.textpath import TextPath

from v2f_core.show.plots import CEILING, MEN, OURS, REFERENCE, plain, sentence

INK = "#222222"
BOXES = {"value": ("#ffffff", REFERENCE), "frozen": ("#dfe8f0", MEN), "trained": ("#fbe3da", OURS)}
BOXES["loss"] = ("#dcebdf", CEILING)
ARROWS = {"value": (INK, "-", ""), "gradient": (OURS, "--", "gradient")}
ARROWS["stopped"] = (REFERENCE, ":", "gradient stopped")


class Box(NamedTuple):
    """A box; its kind is "value" for a tensor, "frozen" or "trained" for a layer or a net, "loss"."""

    text: str
    column: float  # to the right
    row: float  # down
    kind: str = "value"


class Arrow(NamedTuple):
    """An arrow between two boxes; its kind is "value", "gradient", or "stopped" for a gradient that goes no further."""

    start: str
    end: str
    text: str = ""
    kind: str = "value"
    bend: float = 0.0  # 0 is straight, the sign says to which side it curves


def draw(
    boxes: Mapping[str, Sequence[str | float | int]], arrows: Sequence[Sequence[str | float | int]], title: str = ""
) -> Figure:
    """A diagram of boxes (name → the fields of a :class:`Box`) and arrows (the fields of each :class:`Arrow`).

    It has a legend of the kinds that occur in it and an alternative text that names every arrow.

    Example:
        >>> boxes = {"v": ("$v$", 0, 0), "net": ("aligner", 1, 0, "trained"), "z": (r"$\\hat z$", 2, 0)}
        >>> draw(boxes, [("v", "net"), ("net", "z", "512 numbers")]).get_label()
        'Diagram. v to aligner; aligner to z (512 numbers).'
    """
    placed = {name: Box(*fields) for name, fields in boxes.items()}  # type: ignore[arg-type]
    links = [Arrow(*fields) for fields in arrows]  # type: ignore[arg-type]
    # all lengths are inches
    width = max(0.6, *(_width(box.text, 9) for box in placed.values())) + 0.24
    height = 0.17 * max(box.text.count("\n") + 1 for box in placed.values()) + 0.2
    step = (width + max([0.5, *(_width(link.text, 8) + 0.3 for link in links)]), height + 0.42)
    columns, rows = [box.column for box in placed.values()], [box.row for box in placed.values()]
    kinds = {*(box.kind for box in placed.values()), *(link.kind for link in links)} - {"value"}
    legend, head = 0.35 * bool(kinds), 0.3 * bool(title)
    margin = 0.15 + max([0.5 * abs(link.bend) for link in links], default=0.0)
    size = ((max(columns) - min(columns)) * step[0] + width + 0.3, (max(rows) - min(rows)) * step[1] + height)
    figure, ax = plt.subplots(figsize=(size[0], size[1] + 2 * margin + legend + head))
    left, top = min(columns) * step[0] - width / 2 - 0.15, -min(rows) * step[1] + height / 2 + margin
    ax.set(xlim=(left, left + size[0]), ylim=(top - size[1] - 2 * margin - legend, top), aspect="equal", title=title)
    ax.axis("off")
    figure.subplots_adjust(0, 0, 1, 1 - head / figure.get_figheight())
    patches = {
        name: _box(ax, box, box.column * step[0], -box.row * step[1], width, height) for name, box in placed.items()
    }
    for link in links:
        _arrow(ax, link, patches)
    handles: list[Artist] = [Patch(fc=BOXES[kind][0], ec=BOXES[kind][1], label=kind) for kind in BOXES if kind in kinds]
    for kind, (colour, style, name) in ARROWS.items():
        handles += [Line2D([], [], color=colour, ls=style, lw=1.4, label=name)] if kind in kinds else []
    if handles:
        ax.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False, borderaxespad=0)
    parts = []
    for link in links:
        name, ends = ARROWS[link.kind][2], " to ".join(plain(placed[end].text) for end in (link.start, link.end))
        parts.append((f"{name} from {ends}" if name else ends) + (f" ({plain(link.text)})" if link.text else ""))
    figure.set_label(sentence(f"Diagram. {f'{plain(title)}: ' if title else ''}{'; '.join(parts)}"))
    return figure


def _width(text: str, size: int) -> float:
    """Width of a text's longest line in inches, formulas included."""
    lines = [TextPath((0, 0), line, size=size).get_extents().width for line in text.split("\n") if line]
    return float(max(lines, default=0.0)) / 72


def _box(ax: Axes, box: Box, x: float, y: float, width: float, height: float) -> FancyBboxPatch:
    fill, edge = BOXES[box.kind]
    corner, shape = (x - width / 2 + 0.06, y - height / 2 + 0.06), "round,pad=0.06,rounding_size=0.09"
    patch = FancyBboxPatch(corner, width - 0.12, height - 0.12, boxstyle=shape, fc=fill, ec=edge, lw=1.3, zorder=2)
    ax.add_patch(patch)
    ax.text(x, y, box.text, ha="center", va="center", fontsize=9, color=INK, zorder=3)
    return patch


def _arrow(ax: Axes, arrow: Arrow, patches: Mapping[str, FancyBboxPatch]) -> None:
    colour, line, _ = ARROWS[arrow.kind]
    ends = [patches[name] for name in (arrow.start, arrow.end)]
    start, end = (np.array([p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2]) for p in ends)
    style: dict[str, Any] = {"color": colour, "ls": line, "lw": 1.4, "shrinkA": 1, "shrinkB": 2, "zorder": 1}
    style |= {"arrowstyle": "-|>" if arrow.kind != "stopped" else "-[,widthB=0.35,lengthB=0", "mutation_scale": 11}
    style |= {"connectionstyle": f"arc3,rad={arrow.bend}", "patchA": ends[0], "patchB": ends[1]}
    ax.add_patch(FancyArrowPatch(tuple(start), tuple(end), **style))
    if arrow.text:
        across, down = end - start
        # the curve's middle lies half of the bend from the chord, as a share of its length
        x, y = (start + end) / 2 + arrow.bend / 2 * np.array([down, -across])
        level = abs(down) < 0.01 and not arrow.bend  # above a short arrow, not on its head
        ground = None if level else {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        up = "bottom" if level else "center"
        ax.text(x, y + 0.03 * level, arrow.text, ha="center", va=up, fontsize=8, color=colour, zorder=4, bbox=ground)
