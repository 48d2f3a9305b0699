"""A photograph of a person: ``render(look, view)`` gives RGB pixels, ``landmarks`` where the five points lie."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from minivox.build.portrait import hair, raster
from minivox.build.portrait.basis import LASHES, basis
from minivox.build.portrait.camera import Scene, stage
from minivox.build.portrait.looks import Look, View
from minivox.build.portrait.shade import cast, shade_hair, shade_head

OVERSAMPLE = 1.5


@lru_cache(8)
def _area(size: int, large: int) -> Float[np.ndarray, "size large"]:
    """The matrix that averages ``large`` samples in a row down to ``size``, each by the length they share."""
    edge = np.arange(large + 1) * (size / large)
    first, last = edge[None, :-1], edge[None, 1:]
    pixel = np.arange(size)[:, None]
    return np.maximum(np.minimum(last, pixel + 1) - np.maximum(first, pixel), 0).astype(np.float32)


@lru_cache(8)
def _soft(size: int, knots: int) -> Float[np.ndarray, "size knots"]:
    """The matrix that spreads ``knots`` values smoothly over ``size`` samples."""
    at = np.linspace(0, knots - 1, size)[:, None]
    weights = np.exp(-(((at - np.arange(knots)) / 0.6) ** 2))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _backdrop(view: View, size: int) -> Float[np.ndarray, "pixels 3"]:
    """A wall out of focus: two colours in soft patches, linear."""
    g = np.random.default_rng(view.seed)
    coarse = (g.normal(0, 1, (4, 4)) + np.linspace(1, -1, 4)[:, None]).astype(np.float32)
    patches = 1 / (1 + np.exp(-1.5 * (_soft(size, 4) @ coarse @ _soft(size, 4).T)))
    first, second = (np.array(colour, np.float32) ** 2.2 for colour in view.background)
    return (second + (first - second) * patches[..., None]).reshape(-1, 3)


def _hair_layers(
    look: Look, scene: Scene, head_depth: np.ndarray, normals: np.ndarray, size: int
) -> list[tuple[raster.Fragments, np.ndarray]]:
    """The two nearest layers of hair before the head, the nearer last, with their coverage."""
    sheet = scene.sheet
    if sheet is None:
        return []
    first = len(scene.space) - len(sheet.vertices)
    f = raster.scan(scene.screen[first:], scene.space[first:, 2], sheet.triangles, size, two_sided=True)
    f = raster.take(f, f.depth > head_depth[f.pixel])
    around = raster.mix(sheet.around, sheet.triangles[f.triangle], f.weights)
    alpha = hair.coverage(sheet, around, look.curl)
    if look.curl > 0.5:  # a fuzzy outline where the sheet turns away
        facing = np.abs(raster.mix(normals[first:, 2], sheet.triangles[f.triangle], f.weights))
        alpha = alpha * np.clip(facing * 6 + 0.3 + 0.25 * hair.strand_noise(around), 0, 1)
    layers = []
    left = alpha > 0.04
    for _ in range(2):
        f, alpha = raster.take(f, left), alpha[left]
        buffer = np.full(size * size, -np.inf, np.float32)
        np.maximum.at(buffer, f.pixel, f.depth)
        front = f.depth == buffer[f.pixel]
        layers.append((raster.take(f, front), alpha[front]))
        left = ~front
    return layers[::-1]


def _glasses(look: Look, scene: Scene, image: Float[np.ndarray, "size size 3"]) -> None:
    """Draw thin frames around the eyes, in place; an outline between a circle and a box."""
    g, size = np.random.default_rng(look.seed + 2), len(image)
    width, height, power = g.uniform(0.36, 0.42), g.uniform(0.24, 0.34), g.uniform(2, 4)  # half, in eye distances
    colour = np.array([[0.02, 0.02, 0.02], [0.10, 0.05, 0.03], [0.25, 0.22, 0.18]], np.float32)[g.integers(3)]
    right, left = scene.landmarks[:2]
    across = left - right
    down = np.array([-across[1], across[0]]) / max(float(scene.rotation[0, 0]), 0.5)  # yaw narrows the eyes' distance
    t = np.linspace(0, 2 * np.pi, 260)
    u, v = (np.sign(f) * np.abs(f) ** (2 / power) for f in (np.cos(t), np.sin(t)))
    ring = (width * u)[:, None] * across + (height * v + 0.04)[:, None] * down
    bridge = (right + left) / 2 + np.linspace(-0.5 + width, 0.5 - width, 40)[:, None] * across - 0.03 * down
    for x, y in np.concatenate([right + ring, left + ring, bridge]):
        column, row = int(x), int(y)
        if 0 <= column < size - 1 and 0 <= row < size - 1:
            image[row : row + 2, column : column + 2] = colour


def _develop(linear: Float[np.ndarray, "size size 3"], view: View) -> UInt8[np.ndarray, "size size 3"]:
    """Exposure, a soft shoulder for the highlights, blur, gamma, sensor noise."""
    x = linear * view.exposure
    x = np.where(x > 0.7, 0.7 + 0.3 * np.tanh((x - 0.7) / 0.3), x)
    if view.blur > 0.1:
        sigma = view.blur * linear.shape[0] / 128
        x = gaussian_filter(x, (sigma, sigma, 0))
    x = np.clip(x, 0, 1) ** (1 / 2.2)
    x = x + view.grain * np.random.default_rng(view.seed + 1).normal(size=x.shape)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def portrait(
    look: Look, view: View, size: int = 128
) -> tuple[UInt8[np.ndarray, "size size 3"], Float[np.ndarray, "5 2"]]:
    """A photograph and its landmarks, for the price of one.

    Returns:
        RGB pixels, and (x, y) in pixels of the eyes, the nose's tip and the mouth's corners, the image's left first.

    Example:
        >>> from minivox.build.portrait.looks import View, look_of
        >>> from minivox.world import person
        >>> image, points = portrait(look_of(person("minivox", 0)), View(), size=64)
        >>> image.shape, points.shape, bool(points[0, 0] < points[1, 0])
        ((64, 64, 3), (5, 2), True)
    """
    b, large = basis(), round(size * OVERSAMPLE)
    scene = stage(look, view, large)
    count = len(b.template)
    all_triangles = b.triangles if scene.sheet is None else np.concatenate([b.triangles, scene.sheet.triangles + count])
    normals = raster.vertex_normals(scene.space, all_triangles)
    solid = np.concatenate([b.triangle_part != LASHES, np.ones(len(all_triangles) - len(b.triangles), bool)])
    light = cast(scene, view, normals, all_triangles[solid])
    head, depth = raster.nearest(raster.scan(scene.screen, scene.space[:, 2], b.triangles, large), large)
    layers = _hair_layers(look, scene, depth, normals, large)
    through = np.ones(large * large, np.float32)
    for layer, alpha in layers:
        through[layer.pixel] *= 1 - alpha
    head = raster.take(head, through[head.pixel] > 0.02)  # what the hair hides need not be lit
    image = _backdrop(view, large)
    image[head.pixel] = shade_head(look, view, scene, light, normals, head)
    if look.glasses and view.glasses:
        _glasses(look, scene, image.reshape(large, large, 3))
    for layer, alpha in layers:
        colour = shade_hair(look, view, scene, light, normals, layer)
        image[layer.pixel] += (colour - image[layer.pixel]) * alpha[:, None]
    down = _area(size, large)
    mean = np.einsum(
        "ij,jkc->ikc",
        down,
        np.einsum("ij,kjc->kic", down, image.reshape(large, large, 3), optimize=True),
        optimize=True,
    )
    return _develop(mean, view), scene.landmarks * (size / large)


def render(look: Look, view: View, size: int = 128) -> UInt8[np.ndarray, "size size 3"]:
    """A photograph of a person: RGB pixels (see ``portrait``)."""
    return portrait(look, view, size)[0]


def landmarks(look: Look, view: View, size: int = 128) -> Float[np.ndarray, "5 2"]:
    """Where the eyes, the nose's tip and the mouth's corners lie (x, y in pixels), the image's left first."""
    large = round(size * OVERSAMPLE)
    return stage(look, view, large).landmarks * (size / large)
