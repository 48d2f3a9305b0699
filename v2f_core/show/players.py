"""Recordings in a notebook: cards of faces, a player and a caption.

The sound is embedded as short MP3: a stored notebook plays it without this package and stays small.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from v2f_core.errors import InputError
from v2f_core.show.faces import mark, picture

if TYPE_CHECKING:
    from IPython.display import HTML

SAMPLE_RATE = 16_000
MP3_LIMIT = 20_000  # bytes a player
_CARD = "display:inline-block; vertical-align:top; margin:0 14px 14px 0; width:{width}px; text-align:center"
_BESIDE = '<img style="display:inline; margin:0"'  # some style sheets put each picture on its own line


def mp3(wave: Float[np.ndarray, " samples"], rate: int = SAMPLE_RATE) -> bytes:
    """A mono recording as MP3, about 4 kB a second.

    Args:
        wave: samples in [-1, 1].
        rate: samples a second.

    Raises:
        InputError: the recording is empty, or too long to embed (more than 20 kB).

    Example:
        >>> second = np.sin(np.arange(16_000) / 20).astype(np.float32)
        >>> 1_000 < len(mp3(second)) < 6_000
        True
    """
    import soundfile

    if len(wave) == 0:
        raise InputError("a recording without samples cannot be played; give at least a few milliseconds")
    data = io.BytesIO()
    settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.8}
    soundfile.write(data, wave, rate, **settings)
    if data.tell() > MP3_LIMIT:
        raise InputError(f"{len(wave) / rate:.1f} s of sound is too long to embed; give about 4 s at most")
    return data.getvalue()


def cards(
    waves: Sequence[Float[np.ndarray, " _"]],
    captions: Sequence[str],
    faces: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]] = (),
    size: int = 96,
) -> HTML:
    """One card a recording: faces (if any) side by side, a player, a caption; below all, a note on the faces.

    Args:
        waves: mono recordings, 16 kHz.
        captions: one line each.
        faces: the pictures above each player, one list a recording; or nothing.
        size: side of a picture on the page, CSS pixels.

    Raises:
        InputError: the lists differ in length.

    Example:
        >>> page = cards([np.zeros(800, np.float32)], ["silence"])
        >>> "<audio controls" in page.data and "silence" in page.data
        True
    """
    from IPython.display import HTML

    rows = list(faces) or [[] for _ in waves]
    if not len(waves) == len(captions) == len(rows):
        raise InputError(f"{len(waves)} recordings, {len(captions)} captions, {len(rows)} rows of faces; give as many")
    width = max([200, *((size + 4) * len(row) for row in rows)])
    page = []
    for wave, caption, row in zip(waves, captions, rows, strict=True):
        pictures = "".join(f"{picture(face, size, f'face: {caption}')} " for face in row).replace("<img", _BESIDE)
        sound = base64.b64encode(mp3(wave)).decode()
        player = f'<audio controls style="width:200px; height:36px" src="data:audio/mpeg;base64,{sound}"></audio>'
        page.append(f'<div style="{_CARD.format(width=width)}">{pictures}<br>{player}<br>{html.escape(caption)}</div>')
    note = [f'<div style="font-size:80%">{mark()}</div>'] if any(rows) else []
    return HTML("\n".join(page + note))
