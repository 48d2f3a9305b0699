"""MiniVox's world: one small causal graph from which both a face and a voice are drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FEMALE, MALE = "f", "m"
AGE_RANGE = (18.0, 80.0)


class FaceTraits(NamedTuple):
    """What the face shows of the shared factors (z-scores within sex; skin_age in years)."""

    jaw: float
    length: float
    neck: float
    nose: float
    fat: float
    skin_age: float


class VoiceTraits(NamedTuple):
    """What the voice shows of the shared factors, after its noise: this is u of the ceilings."""

    f0: float  # mean speaking pitch, semitones above 100 Hz
    vtl: float  # vocal-tract length, cm
    rough: float  # z: jitter, breath and tremor together (older voices are rougher)
    rate: float  # z: speaking rate (older voices are slower)
    nasal: float  # z: depth of the nasal colouring


@dataclass(frozen=True)
class Person:
    """One synthetic person."""

    pool: str
    index: int
    sex: str
    age: float
    stature: float
    robust: float
    build: float
    nose: float
    face: FaceTraits
    voice: VoiceTraits
    face_seed: int
    voice_seed: int


def _rng(pool: str, index: int, what: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{pool}/{index}/{what}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def person(pool: str, index: int, sex: str | None = None) -> Person:
    """Draw person ``index`` of a pool."""
    g = _rng(pool, index, "body")
    drawn = MALE if g.random() < 0.5 else FEMALE
    sex = sex or drawn
    age = float(AGE_RANGE[0] + (AGE_RANGE[1] - AGE_RANGE[0]) * g.beta(1.1, 1.3))
    stature, robust, build, nose = (float(x) for x in g.standard_normal(4))
    e = g.standard_normal(6)
    face = FaceTraits(*(float(v) for v in (
        0.8 * robust + 0.6 * e[0], 0.7 * stature + 0.714 * e[1], 0.6 * robust + 0.8 * e[2],
        0.8 * nose + 0.6 * e[3], 0.8 * build + 0.6 * e[4], age + 3 * e[5])))
    n = g.standard_normal(5)
    old = (age - 45) / 18
    f0 = {FEMALE: 12.9, MALE: 2.6}[sex] - 0.9 * robust + 1.8 * n[0]
    vtl = {FEMALE: 14.7, MALE: 17.0}[sex] * float(np.exp(0.02 * stature + 0.02 * robust + 0.02 * n[1]))
    voice = VoiceTraits(*(float(v) for v in (f0, vtl, 0.8 * old + 0.6 * n[2], -0.5 * old + 0.85 * n[3], 0.6 * nose + 0.8 * n[4])))
    return Person(pool, index, sex, age, stature, robust, build, nose, face, voice, int(g.integers(1 << 62)), int(g.integers(1 << 62)))


def population(pool: str, n: int) -> list[Person]:
    """The first n persons of a pool, women and men in turn."""
    return [person(pool, i, FEMALE if i % 2 == 0 else MALE) for i in range(n)]
