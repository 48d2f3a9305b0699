"""Charts for the report's page: plain HTML and SVG, coloured by the page's style sheet, so that both themes fit.

Bars are HTML, so that their text keeps its size on a telephone; curves and histograms are SVG.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 230, 40, 34, 8


@dataclass(frozen=True)
class Bar:
    """A bar with its interval (NaN where there is none), and a word about it."""

    label: str
    value: float
    low: float
    high: float
    kind: str = ""  # a class of the style sheet: ours, women, men, few
    note: str = ""


def bars(title: str, rows: Sequence[Bar], marks: Mapping[str, float], digits: int = 2) -> str:
    """Horizontal bars from 0 with whiskers, and dashed lines at marks such as chance and ceiling.

    Example:
        >>> "whisker" in bars("R@10", [Bar("ours", 0.3, 0.2, 0.4)], {"chance": 0.1})
        True
    """
    known = [x for row in rows for x in (row.value, row.low, row.high) if isfinite(x)] + list(marks.values())
    top, bottom = max([*known, 1e-6]) * 1.04, min([*known, 0.0])

    def place(x: float) -> str:
        return f"{100 * (x - bottom) / (top - bottom):.2f}%"

    lines = []
    for row in rows:
        text = "none" if not isfinite(row.value) else f"{row.value:.{digits}f}"
        inside = ""
        if isfinite(row.value):
            start, end = sorted((0.0, row.value))
            inside = (
                f'<i class="bar" style="left:{place(start)};width:{100 * (end - start) / (top - bottom):.2f}%"></i>'
            )
        if isfinite(row.low):
            text += f" <small>[{row.low:.{digits}f}, {row.high:.{digits}f}]</small>"
            width = 100 * (row.high - row.low) / (top - bottom)
            inside += f'<i class="whisker" style="left:{place(row.low)};width:{width:.2f}%"></i>'
        inside += "".join(
            f'<i class="mark {_slug(name)}" style="left:{place(x)}" title="{html.escape(name)} {x:.3f}"></i>'
            for name, x in marks.items()
        )
        note = f" <small>{html.escape(row.note)}</small>" if row.note else ""
        lines.append(
            f'<div class="row {row.kind}"><span class="name">{html.escape(row.label)}{note}</span>'
            f'<span class="track">{inside}</span><span class="number">{text}</span></div>'
        )
    keys = "".join(
        f'<span><i class="key mark {_slug(name)}"></i>{html.escape(name)} {x:.{digits}f}</span>'
        for name, x in marks.items()
    )
    legend = f'<div class="legend">{keys}</div>' if keys else ""
    return f'<figure class="bars"><figcaption>{html.escape(title)}</figcaption>{"".join(lines)}{legend}</figure>'


def rank_curves(
    title: str, curves: Mapping[str, Sequence[float]], ceiling: Mapping[str, Sequence[float]] | None, most: int = 50
) -> str:
    """R@k over k for several systems, with the line of chance and, where the world is known, the ceiling's band.

    Args:
        title: above it.
        curves: name → R@k for k = 1, 2, … up to the gallery's size.
        ceiling: ``value``, ``low`` and ``high``, as long as the curves.
        most: how many k are shown.

    Example:
        >>> rank_curves("R@k", {"ours": [0.2, 0.5, 1.0]}, None).count("<polyline")
        2
    """
    size = max(map(len, curves.values()))
    most = min(most, size)
    highest = max([max(c[:most]) for c in curves.values()] + ([max(ceiling["high"][:most])] if ceiling else []))
    highest = min(1.0, highest * 1.08)

    def x(k: int) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (k - 1) / max(1, most - 1)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share / highest)

    def line(values: Sequence[float], kind: str) -> str:
        points = " ".join(f"{x(k + 1):.1f},{y(v):.1f}" for k, v in enumerate(values[:most]))
        return f'<polyline class="{kind}" points="{points}"/>'

    parts = [_frame(highest, y, "share found")]
    legend = {}
    if ceiling:
        up = [f"{x(k + 1):.1f},{y(v):.1f}" for k, v in enumerate(ceiling["high"][:most])]
        down = [f"{x(k + 1):.1f},{y(v):.1f}" for k, v in enumerate(ceiling["low"][:most])][::-1]
        parts += [f'<polygon class="band" points="{" ".join(up + down)}"/>', line(ceiling["value"], "line c-ceiling")]
        legend["ceiling"] = "c-ceiling"
    parts.append(line([(k + 1) / size for k in range(most)], "line c-chance"))
    legend["chance"] = "c-chance"
    for number, (name, values) in enumerate(curves.items()):
        parts.append(line(values, f"line c-{number % 6}"))
        legend[name] = f"c-{number % 6}"
    ticks = sorted({1, *(k for k in (5, 10, 20, 30, 40, 50) if k <= most), most})
    parts += [_tick(x(k), str(k)) for k in ticks]
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 3}" text-anchor="middle">k, of {size}</text>'
    )
    return _svg(title, "".join(parts), legend)


def histogram(title: str, found: Mapping[str, Any]) -> str:
    """Shares of cosines as outlines, one a group of pairs, with a line at each mean."""
    edges, shares = found["edges"], found["shares"]
    highest = max(max(values) for values in shares.values()) * 1.08

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (value - edges[0]) / (edges[-1] - edges[0])

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share / highest)

    parts, legend = [_frame(highest, y, "share of pairs")], {}
    for number, (name, values) in enumerate(shares.items()):
        steps = [f"{x(edges[0]):.1f},{y(0.0):.1f}"]
        for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
            steps += [f"{x(left):.1f},{y(value):.1f}", f"{x(right):.1f},{y(value):.1f}"]
        steps.append(f"{x(edges[-1]):.1f},{y(0.0):.1f}")
        mean = x(found["means"][name])
        parts.append(f'<polygon class="area f-{number}" points="{" ".join(steps)}"/>')
        parts.append(f'<line class="line c-{number}" x1="{mean:.1f}" x2="{mean:.1f}" y1="{TOP}" y2="{y(0.0):.1f}"/>')
        legend[f"{name} (mean {found['means'][name]:.2f})"] = f"c-{number}"
    parts += [_tick(x(value), f"{value:g}") for value in (-0.5, 0.0, 0.5, 1.0)]
    return _svg(title, "".join(parts), legend)


def _frame(highest: float, y: Any, label: str) -> str:
    lines = []
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if highest / s <= 5 or s == 0.5)
    value = 0.0
    while value <= highest:
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        lines.append(f'<text class="axis" x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        value = round(value + step, 4)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turn = f'transform="rotate(-90 9 {middle})"'
    return "".join(lines) + f'<text class="axis" x="9" y="{middle}" text-anchor="middle" {turn}>{label}</text>'


def _tick(x: float, text: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>'


def _svg(title: str, inside: str, legend: Mapping[str, str]) -> str:
    keys = "".join(f'<span><i class="key {kind}"></i>{html.escape(name)}</span>' for name, kind in legend.items())
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{inside}</svg>'
        f'<div class="legend">{keys}</div></figure>'
    )


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
