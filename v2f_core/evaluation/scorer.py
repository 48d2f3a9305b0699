"""What looks at a face: the ArcFace that the generator knows, a judge, and a second scorer that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from v2f_core.errors import InputError
from v2f_core.training.embeddings import read_image

if TYPE_CHECKING:
    from v2f_core.evaluation.judge import Judge
    from v2f_core.identity.faces import FacePack

AT_ONCE = 8  # images scored together
Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Faces:
    """One face a person, as the scorers see it.

    Attributes:
        identities: f_arc of the face found in each image; zero where none is found.
        posteriors: the judge's p(y|x) of each image; no columns without a judge.
        features: the second scorer's view of each image, unit length; no columns without one.
        paths: the images; None where there is none to ask for.
    """

    identities: Float32[np.ndarray, "n 512"]
    posteriors: Float32[np.ndarray, "n classes"]
    features: Float32[np.ndarray, "n width"]
    paths: list[Path | None]


class Scorer:
    """What looks at images: f_arc, by detection, alignment and embedding; the judge; and a second scorer.

    Args:
        pack: detector and ArcFace, those that the prior is conditioned on.
        judge: for VFS; without a second pack also the second scorer, by what its last layer sees.
        second: a face pack that the generator was not conditioned on.
    """

    def __init__(self, pack: FacePack, judge: Judge | None = None, second: FacePack | None = None) -> None:
        self.pack, self.judge, self.second = pack, judge, second

    def __call__(self, images: Sequence[Pixels]) -> dict[str, Float32[np.ndarray, "n _"]]:
        """Identities, posteriors and features of some images."""
        posteriors = features = np.zeros((len(images), 0), np.float32)
        if self.judge is not None:
            posteriors, features = self.judge.posteriors(images), self.judge.features(images)
        if self.second is not None:
            features = self.second.embed(images)[0]
        return {"identities": self.pack.embed(images)[0], "posteriors": posteriors, "features": features}

    def photographs(self, paths: Sequence[Path | None]) -> Faces:
        """The scores of pictures on disk; nobody's picture (None) has the identity zero."""
        there = [row for row, path in enumerate(paths) if path is not None]
        parts = [
            self([read_image(path) for row in there[start : start + AT_ONCE] if (path := paths[row]) is not None])
            for start in range(0, len(there), AT_ONCE)
        ]
        if not parts:
            raise InputError("not one photograph to score; expected the paths of some")
        scored = {}
        for name in parts[0]:
            scored[name] = np.zeros((len(paths), parts[0][name].shape[1]), np.float32)
            scored[name][there] = np.concatenate([part[name] for part in parts])
        return Faces(**scored, paths=list(paths))
