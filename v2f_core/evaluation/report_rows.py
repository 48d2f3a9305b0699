"""Tables as rows that JSON can hold, and back."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

_ENDS = {"value": "", "low": " low", "high": " high"}


def records(table: pd.DataFrame, nested: bool = True) -> list[dict[str, Any]]:
    """Rows as dictionaries; measures with intervals go below ``measures``, what is missing is left out."""
    measures = [c for c in table.columns if f"{c} low" in table.columns or c == "VFS"] if nested else []
    found = []
    for row in table.to_dict("records"):
        kept = {k: v for k, v in row.items() if not (isinstance(v, float) and np.isnan(v))}
        if nested:
            kept["measures"] = {m: {k: row.get(f"{m}{e}") for k, e in _ENDS.items()} for m in measures if m in kept}
            kept = {k: v for k, v in kept.items() if k not in measures and not k.endswith((" low", " high"))}
        found.append({k: int(v) if k.endswith("images") else v for k, v in kept.items()})
    return found


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The way back: a record as a row of a CSV."""
    flat = {k: v for k, v in row.items() if k != "measures"}
    for name, found in row.get("measures", {}).items():
        flat |= {f"{name}{end}": found[key] for key, end in _ENDS.items()}
    return flat


def plain(value: Any) -> Any:
    """Numbers and nestings as JSON can hold them: seven decimals, None for NaN.

    Example:
        >>> plain({"a": (np.float64(0.5), float("nan"))})
        {'a': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 7) if isfinite(value) else None
    return value
