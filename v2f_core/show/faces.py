"""Faces in a notebook: a table of pictures with headings, alternative texts and a note that they are synthetic.

Pictures are embedded as WebP of about 2 kB, a tenth of their size in a figure. Headings are text of the page, readable
in its light and its dark style.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from v2f_core.artefacts.profiles import load_profile
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from IPython.display import HTML

Picture = UInt8[np.ndarray, "_ _ 3"]
_CELL = "padding:3px; text-align:center; vertical-align:bottom; font-weight:normal; white-space:nowrap"
_SIDE = "padding:3px 8px; text-align:right; vertical-align:middle; font-weight:normal"


def face_table(
    rows: Sequence[Sequence[Picture | None]], columns: Sequence[str] = (), labels: Sequence[str] = (), size: int = 110
) -> HTML:
    """Faces of ``size`` CSS pixels in rows and columns (None is an empty place), with headings and labels, or none."""
    from IPython.display import HTML

    width = len(rows[0])
    if {len(row) for row in rows} != {width} or len(columns) not in (0, width) or len(labels) not in (0, len(rows)):
        raise InputError(
            f"rows of {[len(row) for row in rows]} pictures, {len(columns)} column headings, {len(labels)} labels; "
            "give rows of one length, and one heading a column, one label a row, or none"
        )
    heads = [f'<th style="{_CELL}">{html.escape(text)}</th>' for text in columns]
    lines = [["<th></th>"] * bool(labels) + heads] if columns else []
    for i, row in enumerate(rows):
        cells = [f'<th style="{_SIDE}">{html.escape(text)}</th>' for text in labels[i : i + 1]]
        for j, face in enumerate(row):
            alt = ", ".join(text for text in (*labels[i : i + 1], *columns[j : j + 1]) if text) or "a face"
            cells.append(f'<td style="{_CELL}">{"" if face is None else picture(face, size, alt)}</td>')
        lines.append(cells)
    note = f'<caption style="caption-side:bottom; text-align:right; font-size:80%">{mark()}</caption>'
    table = "\n".join(f'<tr style="background:none; border:none">{"".join(cells)}</tr>' for cells in lines)
    return HTML(f'<table style="border:none; border-collapse:collapse; margin-left:0">{note}\n{table}</table>')


def mark() -> str:
    """The note below faces: MiniVox's faces are all synthetic; with other data only the drawn ones are."""
    return "all faces are synthetic" if load_profile().dataset_is_packed else "faces drawn by the model are synthetic"


def picture(face: Picture, size: int, alt: str = "") -> str:
    """An ``img`` element of ``size`` CSS pixels with its picture embedded as WebP."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(face).save(data, "WEBP", quality=80, method=6)
    image = data_url("image/webp", data.getvalue())
    return f'<img src="{image}" width="{size}" height="{size}" alt="{html.escape(alt)}">'


def data_url(kind: str, data: bytes) -> str:
    """A picture or sound as the address of an element that embeds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
