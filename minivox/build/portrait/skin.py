"""The painted skin: albedo, gloss and relief over azimuth x height of the mean head.

Wrinkles are relief, not lines: the texture holds slopes that tilt the normals, so that they show as the light says.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float

from minivox.build.portrait.basis import noise, smooth
from minivox.build.portrait.hair import hairline
from minivox.build.portrait.looks import Look

WIDTH, HEIGHT = 704, 304
LOW, HIGH = -1.7, 1.25  # heights (dm) of the texture's edges
ALBEDO, GLOSS, SLOPE, STUBBLE = slice(0, 3), 3, slice(4, 6), 6  # channels


def texel(azimuth: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Row of the flattened texture at azimuths (radians) and heights (dm) of the mean head."""
    column = ((azimuth * np.float32(0.5 / np.pi) + np.float32(0.5)) * WIDTH).astype(np.int32) % WIDTH
    row = np.clip((height - LOW) * np.float32(HEIGHT / (HIGH - LOW)), 0, HEIGHT - 1).astype(np.int32)
    return row * WIDTH + column


def _line(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


def _relief(
    a: np.ndarray, x: np.ndarray, y: np.ndarray, old: float, age: float, cloud: np.ndarray, phase: float
) -> np.ndarray:
    """Depth of the wrinkles, 0..1."""
    depth = np.zeros_like(cloud)
    for k, height in enumerate((0.32, 0.41, 0.50)):  # forehead
        bend = height + 0.025 * np.sin(a * 5 + k + phase) + 0.014 * cloud
        depth += _line(y - bend, 0.028) * (1 - smooth(x, 0.4, 0.75)) * 0.7 * float(smooth(age + 5 * k, 40, 78))
    for slope in (-0.35, 0.0, 0.35):  # crow's feet
        depth += (
            _line(y - slope * (x - 0.55) - 0.01 * cloud, 0.017)
            * smooth(x, 0.56, 0.63)
            * (1 - smooth(x, 0.7, 0.84))
            * 0.8
            * old
        )
    fold = _line(x - (0.25 + 0.42 * (-0.38 - y)), 0.045)  # from the nose to the mouth's corners
    depth += fold * smooth(y, -0.8, -0.62) * (1 - smooth(y, -0.42, -0.34)) * (0.1 + 1.0 * old)
    depth += (
        _line(x - (0.34 + 0.1 * (-0.68 - y)), 0.03) * smooth(y, -0.98, -0.8) * (1 - smooth(y, -0.74, -0.66)) * 0.8 * old
    )
    depth += (
        _line(y + 0.16 - 0.3 * (x - 0.36) ** 2, 0.026) * (1 - smooth(np.abs(x - 0.34), 0.08, 0.22)) * (0.1 + 0.8 * old)
    )
    depth += _line(x - 0.055, 0.02) * smooth(y, 0.06, 0.14) * (1 - smooth(y, 0.2, 0.3)) * 0.7 * old
    for height in (-1.22, -1.36):  # neck
        depth += _line(y - height - 0.03 * cloud, 0.03) * (1 - smooth(x, 0.8, 1.2)) * 0.6 * old
    return depth


@lru_cache(8)
def paint(look: Look) -> Float[np.ndarray, "texels 7"]:
    """Linear albedo (3), gloss, slopes along azimuth and height (2), and where stubble grows; (HEIGHT * WIDTH, 7)."""
    n, g = noise(), np.random.default_rng(look.seed)
    azimuth = (((np.arange(WIDTH, dtype=np.float32) + 0.5) / WIDTH * 2 - 1) * np.pi).astype(np.float32)
    a, x = azimuth[None], np.abs(azimuth)[None]
    y = (LOW + (np.arange(HEIGHT, dtype=np.float32) + 0.5) / HEIGHT * (HIGH - LOW)).astype(np.float32)[:, None]
    iy, ix = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    o = g.integers(0, 256, 6)
    cloud = n.cloud[(iy + o[0]) % 256, (ix // 2 + o[1]) % 256]
    grain = n.grain[(iy + o[2]) % 256, (ix + o[3]) % 256]
    strand = n.strand[(iy + o[4]) % 256, (ix * 2 + o[5]) % 256]
    skin, hair = np.array(look.skin, np.float32), np.array(look.hair, np.float32)
    bright, old = float(skin.mean()), float(np.clip((look.skin_age - 30) / 48, 0, 1))

    def blob(cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
        return np.exp(-(((x - cx) / sx) ** 2)) * np.exp(-(((y - cy) / sy) ** 2))

    t = skin * (1 + (0.018 + 0.012 * old) * cloud + (0.006 + 0.008 * old) * grain)[..., None]
    if old > 0:  # old skin: sallower, spotted
        t *= 1 + old * np.array([-0.03, -0.035, -0.09], np.float32)
        t *= 1 - (0.09 * old * smooth(cloud + 0.4 * grain, 1.2, 2.4))[..., None] * np.array([0.7, 1, 1.1], np.float32)
    blush = (
        0.35 * blob(0.55, -0.36, 0.24, 0.2) + 0.3 * blob(0.0, -0.36, 0.16, 0.12) + 0.15 * blob(0.0, -0.95, 0.2, 0.12)
    ) * (1 - 0.5 * old)
    t *= 1 + blush[..., None] * np.array([0.05, -0.08, -0.07], np.float32) * (0.5 + bright)
    socket = blob(0.36, 0.0, 0.24, 0.14) * (0.07 + 0.12 * old) + (0.04 + 0.2 * old) * blob(0.33, -0.16, 0.16, 0.06)
    t *= 1 - socket[..., None] * np.array([0.8, 1, 0.9], np.float32)
    depth = _relief(a, x, y, old, look.skin_age, cloud, float(look.seed % 7))
    t *= 1 - np.clip(depth, 0, 1.2)[..., None] * np.array([0.09, 0.13, 0.13], np.float32)
    if look.freckles > 0.1:
        where = np.maximum(blob(0.4, -0.25, 0.4, 0.25), blob(0.0, -0.2, 0.3, 0.2))
        t *= 1 - (0.3 * look.freckles * smooth(grain, 0.7, 1.6) * where)[..., None] * np.array(
            [0.6, 1, 1.1], np.float32
        )
    # beard: full growth is painted here, stubble is left to the view
    cheek = np.interp(x, [0, 0.3, 0.45, 0.9, 1.2, 1.5, 1.7], [-0.5, -0.5, -0.6, -0.62, -0.1, -0.05, -2])
    jaw = smooth(y, -1.3, -1.1) * (1 - smooth(y, cheek - 0.14, cheek + 0.03))
    lip = _line(y + 0.485 + 0.16 * x, 0.062) * (1 - smooth(x, 0.27, 0.4)) * (1 - 0.35 * _line(x, 0.02))
    growth = np.maximum(jaw, 0.9 * lip)
    goatee = (look.seed % 3 == 0) * blob(0.0, -0.95, 0.28, 0.24)
    strong = np.clip(look.beard * growth * 1.15 + look.moustache * (lip * 1.2 + goatee), 0, 1)
    cover = np.clip(strong * (1 + 0.14 * strand + 0.12 * grain) * 1.1 - 0.08, 0, 0.92)[..., None]
    t += (hair * (0.85 + 0.1 * (strand + grain)[..., None]) - t) * cover
    # the scalp under the hair, so that no skin shines through where the sheet of hair begins
    low, high = hairline(look, azimuth)
    root = smooth(y + 0.02 * strand + 0.01 * grain, low[None] - 0.04, low[None] + 0.2) * (
        1 - smooth(y, high[None] - 0.14, high[None] + 0.06)
    )
    root *= smooth(y, -0.8, -0.5)
    t += (hair * 0.75 - t) * (root * (0.5 if look.length < 0.08 else 0.88))[..., None]
    thick, arch, strength = look.brow
    middle = 0.165 + 0.045 * arch * np.sin(np.clip((x - 0.1) / 0.5, 0, 1) * np.pi * 0.9) - 0.05 * smooth(x, 0.45, 0.7)
    half = 0.044 * thick * (1 - 0.72 * smooth(x, 0.3, 0.66)) * smooth(x, 0.07, 0.16)
    brow = np.clip(1.2 - np.abs((y - middle) / np.maximum(half, 1e-3)) ** 2, 0, 1) * (half > 0.004)
    brow = brow * (1 - smooth(x, 0.56, 0.68)) * smooth(x, 0.07, 0.16)
    t += (np.minimum(hair * 0.65 + 0.02, 0.42) - t) * (
        np.clip(brow * (0.86 + 0.08 * strand + 0.1 * grain), 0, 1) * strength * 0.88
    )[..., None]
    gloss = (
        0.15 * (1 - np.maximum(root, strong) * 0.8)
        + 0.1 * blob(0.0, -0.25, 0.1, 0.3)
        + 0.05 * blob(0.0, 0.45, 0.4, 0.2)
    )
    height = -0.014 * depth + (0.0003 + 0.0005 * old) * cloud + (0.0001 + 0.0002 * old) * grain
    along = np.gradient(height, axis=1) * (WIDTH / (2 * np.pi * 0.9))
    up = np.gradient(height, axis=0) * (HEIGHT / (HIGH - LOW))
    stubble = growth * (1 - cover[..., 0]) * np.clip(0.8 + 0.35 * grain, 0, 1.5)
    out = np.empty((HEIGHT, WIDTH, 7), np.float32)
    out[..., ALBEDO] = np.clip(t, 0.01, 1) ** 2.2
    out[..., GLOSS], out[..., 4], out[..., 5], out[..., STUBBLE] = gloss, along, up, stubble
    return out.reshape(-1, 7)
