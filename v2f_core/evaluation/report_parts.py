"""Pieces of the report's page: cells, tables, faces, players."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from v2f_core.evaluation.report_charts import Bar


def bar(label: str, found: Any, kind: str = "", note: str = "") -> Bar:
    """A bar of a measure (value, low, high), of a bare number, or of nothing."""
    values = found if isinstance(found, dict) else {"value": found, "low": None, "high": None}
    value, low, high = (float("nan") if values[key] is None else values[key] for key in ("value", "low", "high"))
    return Bar(label, value, low, high, kind, note)


def cell(found: Mapping[str, Any] | None) -> str:
    """A measure in a table: the value, its interval small below."""
    if found is None or found["value"] is None or not isfinite(found["value"]):
        return ""
    low = "" if found["low"] is None else f"<small>{found['low']:.3f} to {found['high']:.3f}</small>"
    return f"{found['value']:.3f}{low}"


def grid(heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table that scrolls sideways where the page is narrow."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def picture(
    media: Mapping[str, str], kind: str, person: str, label: str, synthetic: bool = False, true: bool = False
) -> str:
    """A face with a word below it; a drawn one is marked, a true one framed."""
    source = media.get(f"{kind}:{person}")
    alt = f"{'synthetic face drawn for' if synthetic else 'photograph of'} {person}"
    image = f'<img src="{source}" alt="{escape(alt)}">' if source else f'<img alt="{escape(alt)}: missing">'
    badge = "<b>synthetic</b>" if synthetic else ""
    return f'<div class="face{" true" if true else ""}">{image}{badge}<span>{escape(label)}</span></div>'


def audio(media: Mapping[str, str], person: str) -> str:
    """A player of a person's voice."""
    source = media.get(f"voice:{person}")
    if source is None:
        return "<p><small>the voice cannot be played here</small></p>"
    return f'<audio controls preload="none" src="{source}" aria-label="voice of {escape(person)}"></audio>'


def escape(text: object) -> str:
    """Text as HTML.

    Example:
        >>> escape("<Ada & Bea>")
        '&lt;Ada &amp; Bea&gt;'
    """
    return html.escape(str(text))


def likeness_table(rows: Sequence[Mapping[str, Any]], chance: Mapping[str, Any], ceiling: Mapping[str, Any]) -> str:
    """Systems and ways of looking as rows, measures as columns; chance and ceiling below."""
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    lines = []
    for row in rows:
        cells = "".join(f"<td>{cell(row['measures'].get(name))}</td>" for name in names)
        head = f"<td>{escape(row['system'])}</td><td class='by'>{escape(row['by'])}</td><td>{row['n']}</td>"
        lines.append(f"<tr>{head}{cells}</tr>")
    for label, values in (("chance", chance), ("ceiling", ceiling)):
        if values:
            cells = "".join(f"<td>{values[name]:.3f}</td>" if name in values else "<td></td>" for name in names)
            lines.append(f'<tr class="edge"><td>{label}</td><td></td><td></td>{cells}</tr>')
    return grid(["system", "by", "n", *names], lines)


def sets_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is said of sets of faces, each with its size."""
    lines = []
    numbered = [name for name in ("kernel distance", "Fréchet distance", "FID") if any(name in row for row in rows)]
    spreads = [name for name in ("diversity", "LPIPS") if any(name in row for row in rows)]
    for row in rows:
        vfs = (
            f"{row['VFS']:.2f} ± {row['VFS deviation']:.2f}<small>N = {row['VFS images']}</small>"
            if "VFS" in row
            else ""
        )
        numbers = "".join(f"<td>{row[name]:.3g}</td>" if name in row else "<td></td>" for name in (*numbered, *spreads))
        scale = f"{row['guidance']:g}" if "guidance" in row else ""
        lines.append(
            f"<tr><td>{escape(row['system'])}</td><td>{row['images']}</td><td>{scale}</td><td>{row['undetected']}</td>"
            f"<td>{vfs}</td>{numbers}</tr>"
        )
    return grid(["system", "images", "guidance", "no face found", "VFS", *numbered, *spreads], lines)
