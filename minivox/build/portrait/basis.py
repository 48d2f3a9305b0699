"""The head that every portrait bends: a mean head, its blendshapes, masks, and noise to paint with.

Unit: decimetre. Origin: midpoint of the eyes; +x the person's left, +y up, +z out of the face.
``make_basis`` makes the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

SKIN, LEFT_EYE, RIGHT_EYE, LASHES, HAIR = range(5)  # what a triangle is part of
CURTAIN_ROWS = 14  # rows that the hair grid adds below the skull for long hair
Number = np.ndarray | float | int


@dataclass(frozen=True, eq=False)
class Basis:
    """Mean head, blendshapes, masks and hair grid, as read from ``basis.npz``."""

    names: dict[str, int]
    template: Float[np.ndarray, "vertices 3"]
    shapes: Float[np.ndarray, "shapes vertices_times_3"]
    triangles: Int[np.ndarray, "triangles 3"]
    triangle_part: UInt8[np.ndarray, " triangles"]
    vertex_part: UInt8[np.ndarray, " vertices"]
    lips: Float[np.ndarray, " vertices"]
    ears: Float[np.ndarray, " vertices"]
    lids: Float[np.ndarray, " vertices"]
    mouth_inside: Float[np.ndarray, " vertices"]
    occlusion: Float[np.ndarray, " vertices"]
    hair_corners: Int[np.ndarray, "rows columns 3"]
    hair_weights: Float[np.ndarray, "rows columns 3"]
    hair_centre: Float[np.ndarray, " 3"]

    @property
    def sliders(self) -> list[str]:
        """Names of the shape sliders without their sign (``nose-hump`` for ``nose-hump+`` and ``nose-hump-``)."""
        return sorted({name[:-1] for name in self.names if name[-1] in "+-"})

    def offset(self, name: str) -> Float[np.ndarray, "vertices 3"]:
        """Displacement of every vertex by the blendshape ``name`` at weight 1."""
        return self.shapes[self.names[name]].reshape(-1, 3)


@lru_cache(1)
def basis() -> Basis:
    """The basis shipped beside this module.

    Example:
        >>> head = basis()
        >>> head.template.shape, len(head.names)
        ((4922, 3), 153)
    """
    with np.load(Path(__file__).with_name("basis.npz")) as stored:
        z = {key: stored[key] for key in stored.files}
    shapes = z["shapes"].astype(np.float32) * z["scale"][:, None, None]
    lips, ears, lids, inside = (z["masks"].astype(np.float32) / 255).T
    return Basis(
        names={str(name): i for i, name in enumerate(z["names"])},
        template=z["template"],
        shapes=shapes.reshape(len(shapes), -1),
        triangles=z["tri"].astype(np.int32),
        triangle_part=z["tkind"],
        vertex_part=z["vkind"],
        lips=lips,
        ears=ears,
        lids=lids,
        mouth_inside=inside,
        occlusion=np.where(z["vkind"] > 0, np.float32(0.9), z["ao"].astype(np.float32) / 255),
        hair_corners=z["hair_idx"].astype(np.int32),
        hair_weights=z["hair_w"].astype(np.float32),
        hair_centre=z["centre"].astype(np.float32),
    )


def smooth(x: Number, low: Number, high: Number) -> np.ndarray:
    """The smooth step from 0 at ``low`` to 1 at ``high``.

    Example:
        >>> [float(y) for y in smooth(np.array([0.0, 1.0, 2.0, 3.0]), 1.0, 3.0)]
        [0.0, 0.0, 0.5, 1.0]
    """
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


@dataclass(frozen=True, eq=False)
class Noise:
    """Periodic 256 x 256 noises of mean 0 and variance 1; the same for everybody, read at a person's own offsets."""

    cloud: Float[np.ndarray, "256 256"]  # soft mottling
    grain: Float[np.ndarray, "256 256"]  # pores, stubble
    strand: Float[np.ndarray, "256 256"]  # long along axis 0, fine along axis 1
    curl: Float[np.ndarray, "256 256"]  # blobs of one size: ringlets


@lru_cache(1)
def noise() -> Noise:
    """The noises, from a fixed seed."""
    white = np.fft.rfft2(np.random.default_rng(0).normal(size=(256, 256)))
    fy, fx = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]
    f = np.hypot(fy, fx)

    def unit(spectrum: np.ndarray) -> np.ndarray:
        a = np.fft.irfft2(spectrum)
        return ((a - a.mean()) / a.std()).astype(np.float32)

    return Noise(
        cloud=unit(white / np.maximum(f, 0.012) ** 1.3),
        grain=unit(white * np.exp(-((f / 0.25) ** 2))),
        strand=unit(white * np.exp(-((fy / 0.02) ** 2) - (fx / 0.3) ** 2)),
        curl=unit(white * np.exp(-(((f - 0.09) / 0.03) ** 2))),
    )
