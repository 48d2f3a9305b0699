"""The report's tables as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETS = ("images", "guidance", "undetected", "VFS", "kernel distance", "Fréchet distance", "FID", "diversity", "LPIPS")


def markdown(report: Mapping[str, Any]) -> str:
    """The tables as Markdown: value [95 % interval], with gallery size and chance."""
    about = report["about"]
    lines = [
        f"# {about['dataset']}: {about['persons']} test persons, {about['draws']} face a person, {about['steps']} steps"
    ]
    lines += ["", about["notice"], ""]
    for where, chance in report["chance"].items():
        rows = [row for row in report["likeness"] if row["gallery"] == where]
        names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
        lines += [f"## Gallery: {where} ({chance['faces']} faces)", "", f"| system | by | n | {' | '.join(names)} |"]
        lines += ["|" + "---|" * (len(names) + 3)]
        for row in rows:
            cells = " | ".join(_text(row["measures"].get(name)) for name in names)
            lines.append(f"| {row['system']} | {row['by']} | {row['n']} | {cells} |")
        for label, edge in (("chance", chance), ("ceiling", report["ceilings"].get(where, {}))):
            if edge:
                cells = " | ".join(f"{edge[name]:.3f}" if name in edge else "" for name in names)
                lines.append(f"| *{label}* | | | {cells} |")
        lines.append("")
    columns = [name for name in SETS if any(name in row for row in report["sets"])]
    lines += ["## Sets of faces", "", f"| system | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for row in report["sets"]:
        cells = " | ".join(f"{row[name]:.4g}" if name in row else "" for name in columns)
        lines.append(f"| {row['system']} | {cells} |")
    lines += ["", "## By group", ""]
    lines += ["| system | by | attribute | group | n | cosine | R@10 | VFS (N) |", "|" + "---|" * 8]
    for row in report["fairness"]:
        shown = row["measures"]
        vfs = f"{shown['VFS']['value']:.2f} ({row['VFS images']})" if "VFS" in shown else ""
        lines.append(
            f"| {row['system']} | {row['by']} | {row['attribute']} | {row['group']} | "
            f"{row['n']}{'*' if row['few'] else ''} | {_text(shown.get('cosine'))} | "
            f"{_text(shown.get('R@10'))} | {vfs} |"
        )
    lines += ["", "\\* fewer than 10 persons", "", "## Failures", ""]
    for found in report["failures"]:
        lines.append(f"- {found['kind']}: {found['count']} of {found['n']} ({_text(found['share'])})")
    lines += ["", "## Left out", "", *(f"- {note}" for note in report["left_out"]["notes"]), ""]
    return "\n".join(lines)


def _text(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return ""
    return f"{found['value']:.3f}" + ("" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]")
