"""MiniVox's world: the causal graph from which one `Person` gets both a face and a voice.

Shared factors (sex, age, stature, robustness, build, nose) drive face *and* voice; everything else of a face is
drawn from ``face_seed`` and everything else of a voice from ``voice_seed``, so that nothing else can link them.
`LINKS` lists every arrow with its strength and where the strength comes from; the sampler reads the same table.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

FEMALE, MALE = "f", "m"
AGE_RANGE = (18.0, 80.0)
AGE_BETA = (1.1, 1.3)  # shape of the age distribution over AGE_RANGE
AGE_MEAN, AGE_SD = 46.4, 16.8  # of that distribution: ages enter the links standardised
SKIN_AGE_SD = 3.0  # years by which a face looks older or younger than it is
SHARED = ("stature", "robust", "build", "nose")
ASSUMED = "assumption of this world"


class Link(NamedTuple):
    """One arrow of the graph: a standardised path weight from a shared factor to a trait, within sex."""

    cause: str
    effect: str
    strength: float
    source: str


class FaceTraits(NamedTuple):
    """What a face shows of the shared factors (z-scores within sex; ``skin_age`` in years)."""

    jaw: float
    length: float
    neck: float
    nose: float
    fat: float
    skin_age: float


class VoiceTraits(NamedTuple):
    """What a voice shows of the shared factors, after its noise: the u of the ceilings."""

    f0: float  # mean speaking pitch, semitones above 100 Hz
    vtl: float  # vocal-tract length, cm
    rough: float  # z: jitter, breath and tremor together
    rate: float  # z: speaking rate
    nasal: float  # z: depth of the nasal colouring


_PISANSKI = (
    "checked: Pisanski et al. 2014, doi:10.1016/j.anbehav.2014.06.011: formant-based tract length explains up to "
    "10 % of height's variance within sex, F0 less than 2 %; set above it, since a miniature face has no body"
)
_AGE_HEARD = (
    "checked at second hand: listeners' age estimates correlate with true age at 0.61 (one sentence) to 0.9 "
    "(a passage), doi:10.1177/0023830919827621; the split over roughness and rate is an " + ASSUMED
)
_FISHER = (
    "checked: women's pitch falls with age (Eichhorn et al. 2018, doi:10.1016/j.jvoice.2017.08.003), men's hardly "
    "changes until 70 (Nishio & Niimi 2008, doi:10.1159/000118510); the slope is an " + ASSUMED
)
_BMI = "checked in sign: face shape predicts body mass (Wolffhechel et al. 2015, doi:10.1371/journal.pone.0140347)"
_ROBUST = (
    "checked in sign: lower-face masculinity goes with testosterone and with traits that depend on it, pitch among "
    "them (Hodges-Simeon et al. 2016, doi:10.1371/journal.pone.0153083); the size is an " + ASSUMED
)

LINKS = (
    Link("stature", "face.length", 0.70, ASSUMED),
    Link("robust", "face.jaw", 0.85, _ROBUST),
    Link("robust", "face.neck", 0.50, ASSUMED),
    Link("build", "face.neck", 0.60, ASSUMED),
    Link("build", "face.fat", 0.85, _BMI),
    Link("nose", "face.nose", 0.90, ASSUMED),
    Link("stature", "voice.vtl", 0.45, _PISANSKI),
    Link("robust", "voice.vtl", 0.35, _ROBUST),
    Link("robust", "voice.f0", -0.40, _ROBUST),
    Link("build", "voice.f0", -0.15, ASSUMED),
    Link("age", "voice.f0", -0.25, _FISHER),
    Link("age", "voice.rough", 0.67, _AGE_HEARD),
    Link("build", "voice.rough", 0.15, ASSUMED),
    Link("age", "voice.rate", -0.35, _AGE_HEARD),
    Link("nose", "voice.nasal", 0.40, ASSUMED),
)
FACE_Z, VOICE_Z = FaceTraits._fields[:-1], VoiceTraits._fields
# mean and spread within sex of the two voice traits that have units; checked for pitch: women speak some 8 semitones
# above men (Fisher corpus, Liberman 2017: 8.9 in the twenties to 6.1 in the seventies); the rest is assumed
VOICE_UNITS = {
    FEMALE: {"f0": (12.4, 2.0), "vtl": (14.6, 0.50)},
    MALE: {"f0": (3.4, 2.2), "vtl": (17.0, 0.58)},
}


@dataclass(frozen=True)
class Person:
    """One synthetic person: its shared factors (z-scores within sex), what its face and its voice show of them,
    and the seeds of all that face and voice do not share."""

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


@cache
def loadings(side: str) -> np.ndarray:
    """Path weights of one side: rows are its z-traits, columns `SHARED` and then age.

    Example:
        >>> loadings("voice").shape, float(loadings("voice")[0, 1])  # robust -> f0
        ((5, 5), -0.4)
    """
    rows, columns = (FACE_Z if side == "face" else VOICE_Z), (*SHARED, "age")
    weights = np.zeros((len(rows), len(columns)))
    for link in LINKS:
        where, _, trait = link.effect.partition(".")
        if where == side:
            weights[rows.index(trait), columns.index(link.cause)] = link.strength
    return weights


def residual(side: str) -> np.ndarray:
    """Standard deviation of each trait's own noise: what the links leave of a variance of one."""
    return np.sqrt(1 - (loadings(side) ** 2).sum(1))


def standard_age(age: np.ndarray | float) -> np.ndarray:
    """Age as the links see it: zero mean, unit variance over the population."""
    return np.asarray((np.asarray(age, float) - AGE_MEAN) / AGE_SD)


def voice_z(voices: np.ndarray, sexes: np.ndarray) -> np.ndarray:
    """Voice traits as z-scores within the given sexes; (..., 5) and (...,) to (..., 5)."""
    out = np.array(voices, float)
    for i, trait in enumerate(("f0", "vtl")):
        mean, sd = (np.where(sexes == MALE, VOICE_UNITS[MALE][trait][k], VOICE_UNITS[FEMALE][trait][k]) for k in (0, 1))
        out[..., i] = (out[..., i] - mean) / sd
    return out


def person(pool: str, index: int, sex: str | None = None) -> Person:
    """Person ``index`` of a pool, always the same one; ``sex`` overrides the draw.

    Example:
        >>> p = person("readme", 0, FEMALE)
        >>> p == person("readme", 0, FEMALE), p.sex, 18 <= p.age <= 80
        (True, 'f', True)
    """
    digest = hashlib.sha256(f"{pool}/{index}".encode()).digest()
    g = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    drawn = str(g.choice([FEMALE, MALE]))
    sex = drawn if sex is None else sex
    age = float(AGE_RANGE[0] + (AGE_RANGE[1] - AGE_RANGE[0]) * g.beta(*AGE_BETA))
    shared = g.standard_normal(len(SHARED))
    causes = np.append(shared, standard_age(age))
    face = loadings("face") @ causes + residual("face") * g.standard_normal(len(FACE_Z))
    voice = loadings("voice") @ causes + residual("voice") * g.standard_normal(len(VOICE_Z))
    skin_age = age + SKIN_AGE_SD * g.standard_normal()
    for i, trait in enumerate(("f0", "vtl")):
        mean, sd = VOICE_UNITS[sex][trait]
        voice[i] = mean + sd * voice[i]
    seeds = [int(s) for s in g.integers(1 << 62, size=2)]
    shown = FaceTraits._make([*face.tolist(), float(skin_age)])
    stature, robust, build, nose = shared.tolist()
    said = VoiceTraits._make(voice.tolist())
    return Person(pool, index, sex, age, stature, robust, build, nose, shown, said, *seeds)


def population(pool: str, n: int) -> list[Person]:
    """The first ``n`` persons of a pool, women and men in turn.

    Example:
        >>> "".join(p.sex for p in population("readme", 4))
        'fmfm'
    """
    return [person(pool, i, FEMALE if i % 2 == 0 else MALE) for i in range(n)]


NAMES = {"Mini": "minivox", "More": "more", "Study": "study"}  # face folders' names -> pools


def named(name: str, sex: str) -> Person:
    """The person behind a face folder's name in MiniVox or in a set made like it.

    Example:
        >>> named("Mini_0007", MALE) == person("minivox", 7, MALE)
        True
    """
    prefix, _, index = name.partition("_")
    return person(NAMES[prefix], int(index), sex)
