"""What is visible: a z-buffer over triangles, and interpolation of vertex values at the visible pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array


class Fragments(NamedTuple):
    """Points of triangles behind pixel centres."""

    pixel: Int[np.ndarray, " fragments"]  # row * size + column
    triangle: Int[np.ndarray, " fragments"]
    weights: Float[np.ndarray, "fragments 3"]  # of the triangle's corners
    depth: Float[np.ndarray, " fragments"]  # bigger is nearer


def mix(values: np.ndarray, corners: Int[np.ndarray, "n 3"], weights: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """Vertex ``values`` (vertices,) or (vertices, channels), interpolated at n points.

    Example:
        >>> mix(np.array([0.0, 1.0, 5.0]), np.array([[0, 1, 2]]), np.array([[0.5, 0.5, 0.0]])).tolist()
        [0.5]
    """
    # as a sparse matrix, which is several times faster than gathering the corners one after the other
    starts = np.arange(0, 3 * len(corners) + 1, 3, dtype=np.int32)
    matrix = csr_array((weights.ravel(), corners.ravel(), starts), shape=(len(corners), len(values)))
    return matrix @ values


def scan(
    xy: Float[np.ndarray, "vertices 2"],
    z: Float[np.ndarray, " vertices"],
    triangles: Int[np.ndarray, "triangles 3"],
    size: int,
    two_sided: bool = False,
) -> Fragments:
    """Every fragment of every triangle that faces the camera (of all triangles when ``two_sided``), hidden ones too.

    A triangle faces the camera when its corners turn clockwise on the screen (y down).
    """
    xy, z = xy.astype(np.float32), z.astype(np.float32)
    a, b, c = xy[triangles[:, 0]], xy[triangles[:, 1]], xy[triangles[:, 2]]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    low = np.maximum(np.ceil(np.minimum(np.minimum(a, b), c) - 0.5), 0).astype(np.int32)
    high = np.minimum(np.floor(np.maximum(np.maximum(a, b), c) - 0.5), size - 1).astype(np.int32)
    span = np.maximum(high - low + 1, 0)
    count = span[:, 0] * span[:, 1]
    drawn = np.flatnonzero((count > 0) & ((area < -1e-6) | (two_sided & (area > 1e-6))))
    count, low, width, area = count[drawn], low[drawn], span[drawn, 0], area[drawn]
    origin = low.astype(np.float32) + np.float32(0.5)
    a, b, c = a[drawn] - origin, b[drawn] - origin, c[drawn] - origin
    inverse = 1 / area
    g0 = (b - c)[:, ::-1] * inverse[:, None] * np.array([1, -1], np.float32)
    g1 = (c - a)[:, ::-1] * inverse[:, None] * np.array([1, -1], np.float32)
    # weight k of a pixel = plane[k] . (dx, dy, 1), with dx and dy counted from the box's first pixel
    planes = np.column_stack([g0, -(g0 * c).sum(1), g1, -(g1 * c).sum(1)]).astype(np.float32)
    item = np.repeat(np.arange(len(drawn), dtype=np.int32), count)
    step = np.arange(len(item), dtype=np.int32) - np.repeat((np.cumsum(count) - count).astype(np.int32), count)
    w = width[item]
    dy = step // w
    dx = step - dy * w
    fx, fy = dx.astype(np.float32), dy.astype(np.float32)
    k = [np.repeat(plane, count) for plane in planes.T]
    w0 = k[0] * fx + k[1] * fy + k[2]
    w1 = k[3] * fx + k[4] * fy + k[5]
    inside = np.flatnonzero((w0 >= 0) & (w1 >= 0) & (w0 + w1 <= 1))
    item, w0, w1 = item[inside], w0[inside], w1[inside]
    pixel = (low[item, 1] + dy[inside]) * size + low[item, 0] + dx[inside]
    weights = np.stack([w0, w1, 1 - w0 - w1], 1)
    triangle = drawn[item]
    return Fragments(pixel, triangle, weights, mix(z, triangles[triangle], weights))


def take(fragments: Fragments, which: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Fragments:
    """Some of the fragments."""
    return Fragments(*(field[which] for field in fragments))


def nearest(fragments: Fragments, size: int) -> tuple[Fragments, Float[np.ndarray, " pixels"]]:
    """The front fragment of every pixel that has one, and the depth buffer (-inf where there is none)."""
    buffer = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(buffer, fragments.pixel, fragments.depth)
    front = np.flatnonzero(fragments.depth == buffer[fragments.pixel])
    owner = np.full(size * size, -1, np.int32)  # two triangles may share an edge at the same depth: keep one
    owner[fragments.pixel[front]] = front
    return take(fragments, owner[owner >= 0]), buffer


def unit(v: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Rows divided by their lengths."""
    return v / (np.sqrt(np.einsum("ij,ij->i", v, v))[:, None] + np.float32(1e-9))


def vertex_normals(v: Float[np.ndarray, "vertices 3"], triangles: Int[np.ndarray, "triangles 3"]) -> np.ndarray:
    """Unit normals of the vertices, as sums of their triangles' area vectors; float32 (vertices, 3)."""
    a = v[triangles[:, 0]]
    (x, y, z), (p, q, r) = (v[triangles[:, 1]] - a).T, (v[triangles[:, 2]] - a).T
    area = np.stack([y * r - z * q, z * p - x * r, x * q - y * p])
    flat = triangles.T.ravel()
    summed = np.stack([np.bincount(flat, np.tile(part, 3), len(v)) for part in area], 1)
    return unit(summed.astype(np.float32))
