"""Hair: a hairline over azimuth, and a sheet over the skull that falls beside the face when it is long.

The sheet is a grid (rows from the crown down, columns around the head). Its edge is not the grid's: coverage is soft,
from the hairline's height and the strands, so that the hair begins and ends in tufts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from minivox.build.portrait.basis import CURTAIN_ROWS, basis, noise, smooth
from minivox.build.portrait.looks import Look, View

LONG = 0.45  # lengths from here on fall below the ears
TABLE = 512  # samples of a hairline around the head


@dataclass(frozen=True)
class Style:
    """How the hair is worn in one view."""

    length: float
    volume: float
    fringe: float  # 0 none .. 1 down to the brows
    tied: bool

    @property
    def falls(self) -> bool:
        """Whether hair hangs beside the face."""
        return self.length >= LONG and not self.tied


def style_of(look: Look, view: View) -> Style:
    """The day's styling of a person's hair."""
    worn = look.length > 0.15 and look.bald < 0.3 and look.fringe > view.fringe
    tied = view.tied and look.length > 0.6
    return Style(
        look.length,
        float(np.clip(look.volume * view.volume * (0.5 if tied else 1), 0.1, 1.6)),
        0.6 + 0.4 * look.volume if worn else 0.0,
        tied,
    )


def hairline(look: Look, azimuth: np.ndarray, style: Style | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge (height on the mean head, dm) of the hair at azimuths (0 front, pi back).

    Without a style: the roots alone, as the skin is painted.
    """
    around = np.abs(azimuth)
    front = 0.62 + look.hairline + 0.62 * look.bald
    temple = front + 0.08 * (look.man > 0.5) + 0.1 * look.bald
    at = [0, 0.3, 0.55, 0.85, 1.1, 1.27, 1.45, 1.9, 2.3, 3.2]
    height = [front + 0.01, front + 0.015, temple, 0.38 + 0.3 * look.bald, 0.06, -0.12, 0.2, 0.05, -0.45, -0.62]
    if style is not None and style.falls:
        edge = 1.02 + 0.14 * np.sin(look.seed)
        at[3:6], height[3:] = [0.8, edge, edge + 0.12], [0.40, 0.0, -3, -3, -3, -3, -3]
    elif look.man < 0.5 and look.length >= 0.28 and not (style is not None and style.tied):
        height[4:] = [-0.02, -0.12, -0.12, -0.14, -0.45, -0.6]  # short, over the ears
    low = np.interp(around, at, height)
    if style is not None and style.fringe > 0:
        side = smooth(np.abs(azimuth + 0.4 * look.parting), 0.45, 0.9)
        low = low - style.fringe * (
            0.38 + 0.05 * np.sin(azimuth * 3 + look.parting * 9) + 0.18 * azimuth * look.parting
        ) * (1 - side)
    high = np.full_like(around, 9 if look.bald < 0.5 else 0.6 + 1.1 * (1 - look.bald))
    return low.astype(np.float32), high.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Sheet:
    """The hair's vertices and what its coverage and colour are read from."""

    vertices: Float[np.ndarray, "n 3"]
    around: Float[np.ndarray, "n 5"]  # sin and cos of azimuth, height on the mean head, strand, row
    table: Float[np.ndarray, "2 samples"]  # hairline's lower and upper edge around the head
    triangles: Int[np.ndarray, "m 3"]  # into ``vertices``; those wholly outside the hair are left out
    rows: int
    falls: bool


@lru_cache(2)
def _grid_triangles(rows: int, columns: int) -> Int[np.ndarray, "m 3"]:
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = r * columns + c, r * columns + (c + 1) % columns
    down = np.stack([a, a + columns, b], -1).reshape(-1, 3)
    up = np.stack([b, a + columns, b + columns], -1).reshape(-1, 3)
    return np.concatenate([down, up]).astype(np.int32)


def _fall(look: Look, style: Style, sheet: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let long hair hang: below the ears each column drops from where it is.

    Gives the sheet, its heights and the row where each column begins to hang.
    """
    columns = sheet.shape[1]
    azimuth = np.arctan2(sheet[0:-CURTAIN_ROWS, :, 0].mean(0), sheet[0:-CURTAIN_ROWS, :, 2].mean(0) + 0.75)
    below = (height < -0.08) & (np.abs(azimuth) > 0.6)[None]
    first = np.argmax(below, 0)
    good = np.flatnonzero(below.any(0))
    gap = np.abs(np.arange(columns)[:, None] - good)  # columns over the face follow their neighbours
    first = first[good][np.minimum(gap, columns - gap).argmin(1)]
    row = np.arange(len(sheet))[:, None]
    q = np.clip((row - first) / (len(sheet) - 1 - first), 0, 1)
    start = sheet[first, np.arange(columns)]
    drop = -0.45 - 1.5 * (look.length - LONG) / (1 - LONG)
    radius = start - np.array([0, 0, -0.8], np.float32)
    flare = 1 + (0.07 + 0.14 * style.volume + 0.25 * look.curl * style.volume) * np.sin(q * np.pi * 0.8) - 0.1 * q
    wave = 1 + 0.05 * look.curl * np.sin(q * (8 + 4 * look.curl) + np.arange(columns) * 0.5)
    level = start[None, :, 1] + drop * q
    fallen = np.stack(
        [radius[None, :, 0] * flare * wave, level, -0.8 + radius[None, :, 2] * flare * wave * (1 + 0.1 * q)], -1
    )
    hangs = row > first
    return np.where(hangs[..., None], fallen, sheet), np.where(hangs, level, height), first


def _longer(values: np.ndarray) -> np.ndarray:
    """Repeat the last row for the hair that hangs."""
    return np.concatenate([values, np.repeat(values[-1:], CURTAIN_ROWS, 0)])


def grow(look: Look, style: Style, head: Float[np.ndarray, "vertices 3"]) -> Sheet | None:
    """The sheet of hair on a head at rest; None when it is shaved."""
    if look.length < 0.08:
        return None
    b, g = basis(), np.random.default_rng(look.seed + 1)
    skull = (head[b.hair_corners] * b.hair_weights[..., None]).sum(2)
    mean = (b.template[b.hair_corners] * b.hair_weights[..., None]).sum(2)
    for _ in range(3):  # iron out the gaps that the ears leave
        beside = np.roll(skull, 1, 1) + np.roll(skull, -1, 1)
        skull[2:-1] = 0.5 * skull[2:-1] + 0.125 * (beside[2:-1] + skull[1:-2] + skull[3:])
    azimuth, height = np.arctan2(mean[..., 0], mean[..., 2] + 0.75), mean[..., 1]
    low, high = hairline(look, azimuth, style)
    out = skull - (b.hair_centre + np.array([0, 0.1, 0], np.float32))
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    tight = look.curl * (look.curl > 0.65)
    depth = (0.05 + 0.12 * style.volume) * (0.35 + 1.2 * min(look.length, 0.45)) * (1 + 0.9 * tight * (not style.tied))
    cover = smooth(height, low - 0.02, low + 0.36) * (1 - smooth(height, high - 0.3, high))
    if style.falls:  # close at the temples
        beside = 1 - smooth(np.abs(azimuth), 1.0, 1.45)
        cover = cover * (1 - 0.75 * beside * (1 - smooth(height, 0.3, 0.6)))
    parted = np.exp(-(((np.arcsin(np.clip(out[..., 0], -1, 1)) - look.parting * 0.8) / 0.08) ** 2)) * (
        out[..., 2] > -0.1
    )
    cover = cover * (1 - 0.35 * parted * (look.curl < 0.5) * (look.swept < 0.5))
    lift = depth * cover * (1.1 - 0.5 * smooth(height, 0.45, 1.1)) + 0.012
    swell = noise().cloud[
        (np.arange(b.hair_corners.shape[0]) * 9 % 256)[:, None],
        (np.arange(b.hair_corners.shape[1]) * 5 + look.seed) % 256,
    ]
    lift = lift * (1 + 0.1 * swell * (0.4 + look.curl)) + 0.014 * look.curl * g.normal(size=lift.shape) * cover
    sheet = skull + out * lift[..., None].astype(np.float32)
    back = look.swept > 0.5 and not style.falls
    # strands run where this is constant: over the head and back, or from the parting to the sides
    strand = 0.9 * np.arctan2(mean[..., 0], mean[..., 1] + 0.2) if back else 0.95 * mean[..., 2]
    if style.fringe > 0:  # hair that hangs over the forehead runs down it
        hanging = 1 - smooth(np.abs(azimuth), 0.5, 0.9)
        strand = strand + (0.9 * azimuth - strand) * hanging
    rows = len(sheet)
    if style.falls:
        rows += CURTAIN_ROWS
        sheet, height, first = _fall(look, style, _longer(sheet), _longer(height))
        column = np.arange(sheet.shape[1])
        hangs = np.arange(rows)[:, None] > first
        azimuth = np.where(hangs, azimuth[np.minimum(first, len(azimuth) - 1), column], _longer(azimuth))
        strand = np.where(hangs, strand[np.minimum(first, len(strand) - 1), column], _longer(strand))
    around = np.linspace(-np.pi, np.pi, TABLE).astype(np.float32)
    row = np.broadcast_to(np.arange(rows)[:, None], height.shape)
    fields = np.stack([np.sin(azimuth), np.cos(azimuth), height, strand, row], -1).reshape(-1, 5).astype(np.float32)
    triangles = _grid_triangles(*height.shape)
    covered = (height > hairline(look, azimuth, style)[0] - 0.22).reshape(-1)
    return Sheet(
        vertices=sheet.reshape(-1, 3).astype(np.float32),
        around=fields,
        table=np.stack(hairline(look, around, style)),
        triangles=triangles[covered[triangles].any(1)],
        rows=rows,
        falls=style.falls,
    )


def coverage(sheet: Sheet, around: Float[np.ndarray, "n 5"], curl: float) -> Float[np.ndarray, " n"]:
    """How much of the background hair hides, 0..1, at points of the sheet."""
    azimuth = np.arctan2(around[:, 0], around[:, 1])
    f = strand_noise(around)
    bin_ = np.clip(((azimuth / np.pi + 1) * (TABLE - 1) / 2 + 0.5).astype(np.int32), 0, TABLE - 1)
    low, high = sheet.table[0, bin_], sheet.table[1, bin_]
    a = smooth(around[:, 2] - low + 0.03 * f, -0.06, 0.17 + 0.05 * curl) * (
        1 - smooth(around[:, 2] - high + 0.05 * f, -0.12, 0.06)
    )
    return a * smooth(sheet.rows - 1 - around[:, 4] - 1.1 * np.abs(f), 0, 0.8)


def strand_noise(around: Float[np.ndarray, "n 5"]) -> Float[np.ndarray, " n"]:
    """Noise that is long along the strands and fine across."""
    return noise().strand[(around[:, 4] * 4).astype(np.int32) % 256, (around[:, 3] * 165).astype(np.int32) % 256]
