"""Light on skin, eyes, cloth and hair, for the visible fragments only. Colours are linear here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from minivox.build.portrait import hair, skin
from minivox.build.portrait.basis import LASHES, LEFT_EYE, RIGHT_EYE, SKIN, basis, noise, smooth
from minivox.build.portrait.camera import Scene
from minivox.build.portrait.looks import Look, View
from minivox.build.portrait.raster import Fragments, mix, nearest, scan, unit

SHADOW_SIZE, SHADOW_SPAN = 112, 4.2  # the shadow map's side in texels and in dm
WRAP = np.array([0.30, 0.17, 0.13], np.float32)  # light that bleeds under the skin into the shade, by colour


@dataclass(frozen=True, eq=False)
class Light:
    """A key light with its shadows, and a soft surround."""

    towards: Float[np.ndarray, " 3"]
    halfway: Float[np.ndarray, " 3"]
    lit: Float[np.ndarray, " vertices"]  # share of the key light that reaches each vertex


def cast(scene: Scene, view: View, normals: np.ndarray, triangles: Int[np.ndarray, "m 3"]) -> Light:
    """The key light of a view and, from a small shadow map, what it reaches."""
    azimuth, elevation = view.light
    towards = np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float32
    )
    right = np.cross([0, 1, 0], towards)
    right = (right / np.linalg.norm(right)).astype(np.float32)
    up = np.cross(towards, right)
    scale = SHADOW_SIZE / SHADOW_SPAN
    seen = (scene.space + 0.03 * normals) @ np.stack([right, -up, towards], 1)
    flat = (seen[:, :2] - np.array([0, 0.15], np.float32)) * scale + SHADOW_SIZE / 2
    _, depth = nearest(scan(flat, seen[:, 2], triangles, SHADOW_SIZE), SHADOW_SIZE)
    lit = np.zeros(len(flat), np.float32)
    x, y = flat[:, 0], flat[:, 1]
    for dx, dy in ((-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8), (0.8, 0.8), (0, 0)):
        column, row = ((np.clip(p, 0, SHADOW_SIZE - 1)).astype(np.int32) for p in (x + dx, y + dy))
        lit += 1 - smooth(depth[row * SHADOW_SIZE + column] - seen[:, 2], 0.05, 0.12)
    halfway = towards + np.array([0, 0, 1], np.float32)
    return Light(towards, halfway / np.linalg.norm(halfway), lit / 5)


def _illuminate(
    albedo: np.ndarray,
    normal: np.ndarray,
    lit: np.ndarray,
    open_: np.ndarray,
    light: Light,
    view: View,
    wrap: np.ndarray,
) -> np.ndarray:
    """Diffuse key light with coloured wrap, plus the surround; ``open_`` is ambient visibility."""
    facing = (normal @ light.towards)[:, None]
    diffuse = np.clip((facing + wrap) / (1 + wrap), 0, 1) * (lit * (0.4 + 0.6 * open_))[:, None]
    around = (0.66 + 0.34 * normal[:, 1]) * (0.72 + 0.28 * normal[:, 2]) * open_**1.2
    warm = np.array([1 + view.warmth, 1, 1 - view.warmth], np.float32)
    cool = np.array([1 - 0.2 * view.warmth, 1, 1.03 + 0.2 * view.warmth], np.float32)
    return albedo * (1.12 * view.key * diffuse * warm + view.fill * around[:, None] * cool)


@lru_cache(1)
def _attributes() -> Float[np.ndarray, "vertices 10"]:
    """Per vertex of the head: mean position, lips, occlusion, lids, inside of the mouth, direction on its eyeball."""
    b = basis()
    local = np.zeros_like(b.template)
    for part in (LEFT_EYE, RIGHT_EYE):
        m = b.vertex_part == part
        local[m] = unit(b.template[m] - b.template[m].mean(0))
    return np.column_stack([b.template, b.lips, b.occlusion, b.lids, b.mouth_inside, local]).astype(np.float32)


def _skin(
    look: Look, view: View, scene: Scene, a: np.ndarray, normal: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Albedo, gloss and relief-tilted normals of skin, lips and cloth."""
    azimuth, height = np.arctan2(a[:, 0], a[:, 2] + 0.75), a[:, 1]
    t = skin.paint(look)[skin.texel(azimuth, height)]
    base = t[:, skin.ALBEDO]
    stubble = np.clip(0.4 * look.stubble * view.stubble * t[:, skin.STUBBLE], 0, 0.55)[:, None]
    base = base + (0.6 * np.array(look.hair, np.float32) ** 2.2 + 0.01 - base) * stubble
    paint = look.makeup * view.makeup
    around = np.abs(azimuth)
    if paint > 0:
        shadow = np.exp(-(((around - 0.38) / 0.19) ** 2) - ((height - 0.085) / 0.06) ** 2)
        rouge = np.exp(-(((around - 0.6) / 0.2) ** 2) - ((height + 0.3) / 0.14) ** 2)
        base = base * (
            1
            - paint
            * (
                0.4 * shadow[:, None] * np.array([0.8, 1, 0.85], np.float32)
                + 0.16 * rouge[:, None] * np.array([0.0, 1, 0.8], np.float32)
            )
        )
    lip = smooth(a[:, 3], 0.25, 0.8)[:, None] * (a[:, 6:7] < 0.5)
    tone = np.array(look.skin, np.float32)
    bare = tone * np.array([0.88, 0.66, 0.64], np.float32)
    stick = np.array([0.60, 0.15, 0.18], np.float32) * (0.5 + 0.5 * tone.mean())
    rouged = (bare + 0.6 * min(1.0, paint) * (stick - bare)) ** 2.2
    base = base + (rouged - base) * lip * (0.72 - 0.25 * look.man)
    inside = smooth(a[:, 6], 0.3, 0.9)[:, None] * (a[:, 3:4] < 0.25)
    base = base * (1 - 0.85 * inside)
    base = base * (1 - (0.22 + 0.4 * min(1.0, paint)) * smooth(a[:, 5], 0.5, 0.95)[:, None])
    if scene.sheet is not None and scene.sheet.falls:  # beside the face, hair lies close: let no skin shine through
        under = (smooth(around, 1.0, 1.22) * smooth(height, -1.5, -1.3))[:, None]
        base = base + (0.45 * np.array(look.hair, np.float32) ** 2.2 - base) * 0.9 * under
    collar = -1.30 - (0.08 + 0.32 * view.neckline) * np.exp(-((a[:, 0] / (0.5 - 0.2 * view.neckline)) ** 2)) * (
        a[:, 2] > -0.9
    )
    cloth = smooth(height, collar + 0.02, collar - 0.02)[:, None]
    weave = 1 + 0.06 * noise().cloud[(height * 90).astype(np.int32) % 256, (a[:, 0] * 90).astype(np.int32) % 256]
    seam = 1 - 0.35 * np.exp(-(((height - collar + 0.05) / 0.02) ** 2))
    albedo = base + (np.array(view.cloth, np.float32) ** 2.2 * (weave * seam)[:, None] - base) * cloth
    bare_skin = 1 - cloth[:, 0]
    gloss = (t[:, skin.GLOSS] + (0.1 + 0.1 * paint) * lip[:, 0]) * bare_skin
    slope = t[:, skin.SLOPE] * bare_skin[:, None]
    along = np.stack([np.cos(azimuth), np.zeros_like(azimuth), -np.sin(azimuth)], 1) @ scene.rotation.T
    tilted = unit(normal - slope[:, :1] * along - slope[:, 1:] * scene.rotation[:, 1])
    return albedo, gloss, tilted


def _eyes(look: Look, view: View, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Albedo and ambient visibility of the eyeballs at unit ``direction`` from their centres."""
    gaze = np.array([view.gaze[0] - 0.4 * view.yaw, view.gaze[1] + 0.4 * view.pitch, 1.0], np.float32)
    r = np.sqrt(np.maximum(1 - (direction @ (gaze / np.linalg.norm(gaze))) ** 2, 0)) + 2 * (direction[:, 2] < 0)
    iris = (1 - smooth(r, 0.43, 0.50))[:, None]
    ring = (0.5 + 0.6 * smooth(-r, -0.46, -0.30))[:, None]
    white = np.array([0.84, 0.81, 0.79], np.float32) ** 2.2
    ball = white + ((np.array(look.iris, np.float32) ** 2.2) * ring * 1.1 - white) * iris
    ball = ball * (smooth(r, 0.17, 0.23)[:, None] * 0.97 + 0.03)
    return ball, 0.78 - 0.4 * smooth(direction[:, 1], 0.1, 0.5)


def shade_head(
    look: Look, view: View, scene: Scene, light: Light, normals: np.ndarray, f: Fragments
) -> Float[np.ndarray, "n 3"]:
    """Colours of the head's visible fragments."""
    b = basis()
    corners, part = b.triangles[f.triangle], b.triangle_part[f.triangle]
    count = len(b.template)
    mixed = mix(np.column_stack([_attributes(), normals[:count], light.lit[:count]]), corners, f.weights)
    a, normal, lit = mixed[:, :10], unit(mixed[:, 10:13]), mixed[:, 13]
    albedo, gloss, open_ = np.full((len(part), 3), 0.012, np.float32), np.zeros(len(part), np.float32), a[:, 4].copy()
    glint = np.zeros(len(part), np.float32)
    m = np.flatnonzero(part == SKIN)
    albedo[m], gloss[m], normal[m] = _skin(look, view, scene, a[m], normal[m])
    m = np.flatnonzero((part == LEFT_EYE) | (part == RIGHT_EYE))
    direction = unit(a[m, 7:])
    albedo[m], open_[m] = _eyes(look, view, direction)
    spot = np.array([0.2 * np.sign(view.light[0] + 1e-6) - 0.3 * view.yaw, 0.2, 0.95], np.float32)
    glint[m] = smooth(direction @ (spot / np.linalg.norm(spot)), 0.975, 0.99) * 0.7
    open_[part == LASHES] = 0.6
    wrap = np.where((part == SKIN)[:, None], WRAP, np.float32(0.15))
    colour = _illuminate(albedo, normal, lit, open_, light, view, wrap)
    shine = np.clip(normal @ light.halfway, 0, 1) ** 18 * gloss * 0.5 * open_ * lit * view.key
    rim = np.clip(1 - normal[:, 2], 0, 1) ** 3 * gloss * 0.25 * view.fill
    return colour + (shine + rim + glint)[:, None]


def shade_hair(
    look: Look, view: View, scene: Scene, light: Light, normals: np.ndarray, f: Fragments
) -> Float[np.ndarray, "n 3"]:
    """Colours of fragments of the sheet; ``f.triangle`` counts the sheet's own triangles."""
    assert scene.sheet is not None
    corners = scene.sheet.triangles[f.triangle]
    first = len(scene.space) - len(scene.sheet.vertices)
    mixed = mix(np.column_stack([scene.sheet.around, normals[first:], light.lit[first:]]), corners, f.weights)
    around, normal, lit = mixed[:, :5], unit(mixed[:, 5:8]), mixed[:, 8]
    back = normal[:, 2] < -0.05
    streak = np.clip(hair.strand_noise(around), -2, 2)
    azimuth = np.arctan2(around[:, 0], around[:, 1])
    blob = noise().curl[
        (around[:, 4] * 11 + look.seed % 256).astype(np.int32) % 256, (azimuth * 100).astype(np.int32) % 256
    ]
    tight = float(smooth(look.curl, 0.3, 0.9))
    strength = (1 - tight) * 0.24 * streak + tight * 0.34 * blob
    colour = np.array(look.hair, np.float32) ** 2.2
    albedo = colour * np.clip(1 + strength, 0.3, 1.9)[:, None]
    open_ = np.where(back, 0.38, 0.5 + 0.5 * smooth(around[:, 2], -1.3, 0.6)).astype(np.float32)
    open_ = (open_ * (1 - 0.3 * tight * smooth(-blob, 0, 2))).astype(np.float32)
    lit = np.where(back, 0, lit).astype(np.float32)
    out = _illuminate(albedo, normal, lit, open_, light, view, np.array([0.25], np.float32))
    axis = scene.rotation @ (
        np.array([0.1, 0.3, 1.0]) if look.swept < 0.5 or scene.sheet.falls else np.array([1.0, 0.1, 0.15])
    ).astype(np.float32)
    tangent = unit(np.cross(normal, axis))
    sheen = np.maximum(1 - (tangent @ light.halfway + 0.09 * streak) ** 2, 0) ** 20
    sheen = sheen * np.clip(0.3 + 0.7 * (normal @ light.towards), 0, 1) * lit * (1 - 0.8 * tight)
    return out + (0.16 * view.key * sheen)[:, None] * (0.25 * colour.mean() + 0.75 * colour + 0.10)
