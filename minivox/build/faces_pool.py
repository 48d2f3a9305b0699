"""Photographs of persons outside MiniVox, for the miniatures' own pre-training, and of others for the judge.

Shards of whole persons, each a file that is skipped when it is there and undamaged: a killed run goes on where it
stopped. A shard is an ``.npz`` of ``images`` (uint8, n x 3 x 128 x 128), ``landmarks`` (float32, n x 5 x 2, pixels) and
``person`` (int32, n: index in the pool).
"""

from __future__ import annotations

import os
import zipfile
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from minivox import world
from minivox.build.portrait.looks import View, look_of
from minivox.build.portrait.render import portrait
from minivox.build.portrait.sheet import view_rng
from v2f_core.artefacts.files import atomic_write

SIZE = 128


class Pool(NamedTuple):
    """A pool of persons to photograph."""

    name: str  # of world.population
    folder: str  # in the work folder
    persons: int
    views: int  # a person
    spread: float
    shard: int  # persons a file


POOLS = (Pool("faces", "faces_pool", 8000, 4, 1.3, 250), Pool("judge", "judge_pool", 500, 6, 1.3, 125))
RECOGNISED = 3000  # the first persons of the pool: enough for the detector and ArcFace; the prior learns from all


def mirrored(landmarks: Float[np.ndarray, "*n 5 2"], width: int) -> Float[np.ndarray, "*n 5 2"]:
    """The landmarks of the mirrored image: what was the left eye is the right one.

    Example:
        >>> mirrored(np.array([[10.0, 0], [20, 0], [15, 5], [11, 9], [19, 9]]), 32).tolist()
        [[11.0, 0.0], [21.0, 0.0], [16.0, 5.0], [12.0, 9.0], [20.0, 9.0]]
    """
    return (landmarks * [-1, 1] + [width - 1, 0])[..., [1, 0, 2, 4, 3], :].astype(landmarks.dtype)


def is_whole(path: Path) -> bool:
    """Whether a shard is there and can be read to its end (each array in it carries a checksum)."""
    try:
        with path.open("rb") as file, np.load(file) as shard:
            return len({len(shard[name]) for name in ("images", "landmarks", "person")}) == 1
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return False


def render_shard(pool: Pool, number: int, path: Path) -> None:
    """Photograph the persons ``number * shard`` and on into one file."""
    first = number * pool.shard
    indices = range(first, min(first + pool.shard, pool.persons))
    images = np.empty((len(indices) * pool.views, 3, SIZE, SIZE), np.uint8)
    points = np.empty((len(images), 5, 2), np.float32)
    # persons are women and men in turn, as world.population numbers them
    for i, index in enumerate(indices):
        person = world.person(pool.name, index, world.FEMALE if index % 2 == 0 else world.MALE)
        look = look_of(person)
        for k in range(pool.views):
            image, at = portrait(look, View.sample(view_rng(person, k), pool.spread), SIZE)
            images[i * pool.views + k], points[i * pool.views + k] = image.transpose(2, 0, 1), at
    with atomic_write(path) as temporary:
        owner = np.repeat(np.array(indices, np.int32), pool.views)
        np.savez(temporary, images=images, landmarks=points, person=owner)


def _job(job: tuple[Pool, int, Path]) -> None:
    render_shard(*job)


def run(work: Path, tiny: bool = False) -> None:
    """Photograph both pools into ``work/faces_pool`` and ``work/judge_pool``; ``tiny`` makes a few persons of each."""
    for pool in POOLS:
        if tiny:
            pool = pool._replace(persons=8, views=2, shard=4)
        folder = Path(work) / pool.folder
        shards = range(-(-pool.persons // pool.shard))
        jobs = [(pool, n, folder / f"{n:03d}.npz") for n in shards if not is_whole(folder / f"{n:03d}.npz")]
        processes = min(2, os.cpu_count() or 1, max(1, len(jobs)))
        # one thread a process: NumPy's work here is not linear algebra; fork shares the basis between them
        with get_context("fork").Pool(processes) as workers:
            done = workers.imap(_job, jobs)
            for _ in tqdm(done, total=len(jobs), desc=f"{pool.folder} (shards of {pool.shard} persons)", unit="shard"):
                pass
