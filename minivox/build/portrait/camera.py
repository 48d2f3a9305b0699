"""From a look and a view to points in space and on the screen: bend the head, turn it, frame it as FFHQ does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from minivox.build.portrait import hair
from minivox.build.portrait.basis import LEFT_EYE, RIGHT_EYE, basis, smooth
from minivox.build.portrait.looks import Look, View

EYES_APART = 0.262  # of the image's width, between the eyes of a face seen from the front (FFHQ: about a quarter)
EYE_LINE = 0.47  # of the image's height
DISTANCE = 16.0  # of the camera from the eyes, dm
PIVOT = np.array([0, -1.1, -0.9], np.float32)  # the head turns about it
NOSE_TIP, MOUTH_CORNERS = 297, (424, 2875)  # vertices of the basis; the person's right corner first


@dataclass(frozen=True, eq=False)
class Scene:
    """Vertices of head, then hair, in camera space (dm) and on the screen (pixels)."""

    space: Float[np.ndarray, "n 3"]
    screen: Float[np.ndarray, "n 2"]
    sheet: hair.Sheet | None
    rotation: Float[np.ndarray, "3 3"]  # of the head
    landmarks: Float[np.ndarray, "5 2"]


def _weights(look: Look) -> Float[np.ndarray, " shapes"]:
    names = basis().names
    w = np.zeros(len(names), np.float32)
    old = float(np.clip((look.skin_age - 25) / 50, 0, 1))
    heavy = {
        "min": max(0.0, 1 - 2 * look.weight),
        "average": 1 - abs(2 * look.weight - 1),
        "max": max(0.0, 2 * look.weight - 1),
    }
    for sex, of_sex in (("female", 1 - look.man), ("male", look.man)):
        for age, of_age in (("young", 1 - old), ("old", old)):
            for group, share in zip(("african", "asian", "caucasian"), look.ancestry, strict=True):
                w[names[f"race/{group}/{sex}/{age}"]] = of_sex * of_age * share
            for build, share in heavy.items():
                w[names[f"body/{sex}/{age}/{build}"]] = of_sex * of_age * share
    for name, value in look.sliders.items():
        signed = name + ("+" if value >= 0 else "-")
        if signed in names:
            w[names[signed]] = abs(value)
    return w


@lru_cache(8)
def head_at_rest(look: Look) -> Float[np.ndarray, "vertices 3"]:
    """The vertices of a person's head, looking straight ahead without expression (dm)."""
    b = basis()
    return (b.template + (_weights(look) @ b.shapes).reshape(-1, 3)).astype(np.float32)


def _rotation(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(t), np.sin(t)) for t in (yaw, pitch, roll))
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return (about_z @ about_x @ about_y).astype(np.float32)


def _express(head: np.ndarray, view: View) -> np.ndarray:
    b, v = basis(), head.copy()
    mood = {
        "smile": view.smile,
        "open": view.mouth_open,
        "brow-up": 0.6 * max(0.0, view.brows),
        "brow-down": 0.4 * max(0.0, -view.brows),
        "squint": min(0.5, 0.15 * max(0.0, view.smile) + view.squint),
    }
    for name, weight in mood.items():
        if weight:
            v += np.float32(weight) * b.offset("expr/" + name)
    return v


def _project(points: np.ndarray, depth: float, unit: float) -> Float[np.ndarray, "n 2"]:
    """Right and down on the screen; ``unit`` pixels a dm at ``depth``."""
    scale = unit * DISTANCE / (DISTANCE - (points[:, 2] - depth))
    return np.stack([points[:, 0] * scale, -points[:, 1] * scale], 1)


def stage(look: Look, view: View, size: int) -> Scene:
    """Place a person before the camera; ``size`` is the image's width in pixels."""
    b = basis()
    rest = head_at_rest(look)
    style = hair.style_of(look, view)
    sheet = hair.grow(look, style, rest)
    v = _express(rest, view)
    if sheet is not None and (style.falls or (look.man < 0.5 and look.length >= 0.28 and not style.tied)):
        tucked = np.sign(v[:, 0]) * np.minimum(np.abs(v[:, 0]), 0.72 + 0.3 * (np.abs(v[:, 0]) - 0.72))
        v[:, 0] = np.where(b.ears > 0.2, tucked, v[:, 0])  # ears under the hair
    follow = smooth(v[:, 1:2], -2.0, -0.9)  # the shoulders follow the head but a little
    if sheet is not None:
        v = np.concatenate([v, sheet.vertices])
        hang = smooth(sheet.vertices[:, 1:2], -2.0, -0.9)
        follow = np.concatenate([follow, np.maximum(hang, 0.75)])
    rotation = _rotation(view.yaw, view.pitch, view.roll)
    arm = v - PIVOT
    v = PIVOT + follow * (arm @ rotation.T) + (1 - follow) * (arm @ _rotation(0.3 * view.yaw, 0.0, 0.0).T)
    v = v.astype(np.float32)
    eyes = np.stack([v[: len(rest)][b.vertex_part == part].mean(0) for part in (RIGHT_EYE, LEFT_EYE)])
    apart = np.linalg.norm(rest[b.vertex_part == LEFT_EYE].mean(0) - rest[b.vertex_part == RIGHT_EYE].mean(0))
    # landmarks lie on the surface: move from the eyeballs' centres to the corneas
    eyes = eyes + 0.14 * rotation[:, 2]
    five = np.concatenate([eyes, v[[NOSE_TIP]], v[list(MOUTH_CORNERS)]])
    depth = float(five[:2, 2].mean())
    unit = float(size * EYES_APART * view.zoom / apart)

    marks = _project(five, depth, unit)
    centre = 0.6 * marks[:2].mean(0) + 0.4 * marks[3:].mean(0)
    move = np.array([size * (0.5 + view.shift[0]) - centre[0], size * (EYE_LINE + view.shift[1]) - marks[:2, 1].mean()])
    return Scene(
        v, (_project(v, depth, unit) + move).astype(np.float32), sheet, rotation, (marks + move).astype(np.float32)
    )
