"""A drawing of MiniVox's causal graph, made from the table that the sampler reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minivox import world

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACE_ONLY = ("ancestry", "skin tone", "hair", "brows", "eyes", "beard", "freckles")
VOICE_ONLY = ("timbre", "accent", "intonation", "tilt", "resonances")
INK, FACE_COLOUR, VOICE_COLOUR, SHARED_COLOUR, PRIVATE_COLOUR = "#22303c", "#c8553d", "#2f6690", "#e3b23c", "#c9cfd4"


def draw() -> Figure:
    """Shared factors in the middle, traits of the face on the left, traits of the voice on the right.

    An arrow's width is the link's strength, dashed if negative; grey boxes are factors of the face or the voice alone.

    Example:
        >>> figure = draw()
        >>> len(figure.axes)
        1
    """
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(10, 6.2))
    shared = ("sex", "age", *world.SHARED)
    face = ("jaw", "skin_age", "length", "neck", "fat", "nose")  # few arrows cross in this order
    places = {name: (0.0, y) for name, y in zip(shared, _rows(len(shared)), strict=True)}
    places |= {f"face.{t}": (-1.25, y) for t, y in zip(face, _rows(len(face)), strict=True)}
    places |= {f"voice.{t}": (1.25, y) for t, y in zip(world.VOICE_Z, _rows(len(world.VOICE_Z)), strict=True)}
    links = [(k.cause, k.effect, k.strength) for k in world.LINKS]
    links += [("age", "face.skin_age", 0.98), ("sex", "voice.f0", 0.9), ("sex", "voice.vtl", 0.9)]
    links += [("sex", "face.jaw", 0.9), ("sex", "face.length", 0.4), ("sex", "face.neck", 0.6)]
    for cause, effect, strength in links:
        colour = FACE_COLOUR if effect.startswith("face") else VOICE_COLOUR
        side = -1 if effect.startswith("face") else 1
        (x0, y0), (x1, y1) = places[cause], places[effect]
        style = {"arrowstyle": "-|>", "color": colour, "lw": 0.6 + 3.4 * abs(strength), "alpha": 0.75}
        style |= {"linestyle": "-" if strength > 0 else (0, (3, 2)), "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x1 - side * 0.24, y1), (x0 + side * 0.2, y0), arrowprops=style)
    for name, (x, y) in places.items():
        label = name.partition(".")[2] or name
        fill = SHARED_COLOUR if x == 0 else FACE_COLOUR if x < 0 else VOICE_COLOUR
        _box(ax, x, y, label.replace("_", " "), fill, INK if x == 0 else "white")
    for x, names in ((-2.15, FACE_ONLY), (2.15, VOICE_ONLY)):
        for name, y in zip(names, _rows(len(names)), strict=True):
            _box(ax, x, y, name, PRIVATE_COLOUR, INK)
    heads = ((-2.15, "the face's own"), (-1.25, "what the face shows"), (0, "shared causes"))
    for x, title in (*heads, (1.25, "what the voice shows"), (2.15, "the voice's own")):
        ax.text(x, 1.14, title, ha="center", va="bottom", color=INK, fontsize=9.5, weight="bold")
    ax.set(xlim=(-2.6, 2.6), ylim=(-1.12, 1.3))
    ax.axis("off")
    figure.tight_layout()
    return figure


def _rows(n: int) -> list[float]:
    """Evenly spaced heights from 1 down to -1."""
    return [1 - 2 * i / (n - 1) for i in range(n)]


def _box(ax: Axes, x: float, y: float, text: str, fill: str, ink: str) -> None:
    box = {"boxstyle": "round,pad=0.35", "facecolor": fill, "edgecolor": "none"}
    ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=11, bbox=box)
