"""A person's voice: shared traits and private factors shape base speech through the WORLD vocoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minivox.build.voice import room
from minivox.build.voice.calibrate import COLOUR_HZ, Own
from minivox.build.voice.kokoro import RATE, Timbre
from minivox.build.voice.world_vocoder import FRAME_MS, FREQUENCIES, Analysis, load, synthesise, warp
from minivox.world import VOICE_UNITS, Person, VoiceTraits
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

TABLE = "timbres.json"
TEMPO_PER_RATE = 0.12  # log tempo per unit of the trait ``rate``

# Private factors: chosen here so that voices differ, after no source.
_TILT_SD_DB = 0.5  # per octave
_RIDGES, _RIDGE_SD_DB, _RIDGE_OCTAVES = 4, 3.0, 0.2
_RANGE_SD = 0.2  # of log intonation range

# What changes from one utterance of a voice to the next.
_MOOD_SEMITONES = 0.15
_TEMPO_SD = 0.02

_OCTAVE = np.log2(np.maximum(FREQUENCIES, 50) / 1000)
_NEPERS = np.log(10) / 10  # natural logarithm of power, per decibel


@dataclass(frozen=True)
class BaseVoice:
    """A timbre with its calibration and the folder of its analysed sentences."""

    timbre: Timbre
    own: Own
    folder: Path

    def file(self, sentence: int) -> Path:
        """The analysis of one sentence.

        Raises:
            InputError: the timbre does not say this sentence.
        """
        if sentence not in self.timbre.sentences:
            said = ", ".join(map(str, self.timbre.sentences))
            raise InputError(f"sentence {sentence}: timbre {self.timbre.name} says only {said}; choose one of these")
        return self.folder / f"{self.timbre.name}_{sentence:02d}.npz"


@cache
def load_timbres(folder: Path) -> tuple[BaseVoice, ...]:
    """The calibrated timbres of one pool.

    Args:
        folder: ``base_speech/minivox`` or ``base_speech/voices`` in the scratch folder.

    Raises:
        InputError: the stage ``base_speech`` has not run there.
    """
    table = folder / TABLE
    if not table.exists():
        raise InputError(f"{table}: not there; run `python -m minivox.build base_speech` first")
    voices = []
    for row in json.loads(table.read_text()):
        own = Own(row["log_scale"], tuple(row["colour_db"]), {int(k): v for k, v in row["seconds"].items()})
        sound, prosody = (tuple((name, weight) for name, weight in row[key]) for key in ("sound", "prosody"))
        timbre = Timbre(row["name"], row["sex"], row["accent"], sound, prosody, tuple(row["sentences"]))
        voices.append(BaseVoice(timbre, own, folder))
    return tuple(voices)


@dataclass(frozen=True)
class Voice:
    """What a speaker keeps from utterance to utterance: shared traits, and factors that no face shows."""

    traits: VoiceTraits
    base: BaseVoice
    f0_range: float  # 1 is the base timbre's own intonation range, in log F0
    tilt_db: float  # spectral tilt per octave
    ridges: tuple[tuple[float, float], ...]  # private resonances: (Hz, dB)

    @property
    def sentences(self) -> tuple[int, ...]:
        """Which of the twelve sentences this voice can say."""
        return self.base.timbre.sentences

    def factors(self) -> dict[str, str | float]:
        """The private factors as one flat row of a table."""
        row: dict[str, str | float] = {
            "timbre": self.base.timbre.name,
            "accent": self.base.timbre.accent,
            "f0_range": self.f0_range,
            "tilt_db": self.tilt_db,
        }
        for number, (hertz, gain) in enumerate(self.ridges, 1):
            row |= {f"ridge{number}_hz": hertz, f"ridge{number}_db": gain}
        return row

    def say(self, sentence: int, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
        """One recorded utterance: float32, mono, 16 kHz, at about -23 dBFS.

        Args:
            sentence: number in the list of sentences; one of :attr:`sentences`.
            rng: what differs between utterances: mood, tempo, roughness from frame to frame, room, microphone, level.

        Raises:
            InputError: the voice's timbre does not say this sentence.
        """
        return room.record(self.speak(sentence, rng), rng)

    def speak(self, sentence: int, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
        """The utterance before any room or microphone; float32, 16 kHz."""
        from scipy.signal import resample_poly

        base = load(self.base.file(sentence))
        rough = Roughness.of(self.traits.rough)
        envelope = warp(base.log_envelope, self._formant_scale()) + _NEPERS * self._colour_db()
        part = Analysis(self._pitch(base.f0, rough, rng), envelope, warp(base.aperiodicity, self._formant_scale()))
        tempo = np.exp(TEMPO_PER_RATE * self.traits.rate + _TEMPO_SD * rng.standard_normal())
        own_seconds = base.f0.size * FRAME_MS / 1000
        frame_ms = FRAME_MS * self.base.own.seconds[sentence] / own_seconds / tempo
        wave = synthesise(rough.breathe(part, rng), frame_ms)
        return resample_poly(wave, room.RATE, RATE).astype(np.float32)

    def _formant_scale(self) -> float:
        mean, _ = VOICE_UNITS[self.base.timbre.sex]["vtl"]  # what the mean timbre of a sex is taken to have
        return mean / self.traits.vtl * float(np.exp(-self.base.own.log_scale))

    def _colour_db(self) -> Float[np.ndarray, " bins"]:
        """Nasality, tilt and private ridges, and the timbre's own colour taken out."""
        mean, _ = VOICE_UNITS[self.base.timbre.sex]["vtl"]
        own = np.interp(FREQUENCIES * self.traits.vtl / mean, COLOUR_HZ, self.base.own.colour_db)
        gain = self.traits.nasal * nasal_pattern(FREQUENCIES) + self.tilt_db * _OCTAVE - own
        for hertz, height in self.ridges:
            gain = gain + height * np.exp(-0.5 * ((_OCTAVE - np.log2(hertz / 1000)) / _RIDGE_OCTAVES) ** 2)
        return gain

    def _pitch(
        self, f0: Float[np.ndarray, " frames"], rough: Roughness, rng: np.random.Generator
    ) -> Float[np.ndarray, " frames"]:
        """The intonation of the base around the person's own mean, shaken by roughness."""
        voiced = f0 > 0
        logs = np.log(f0[voiced])
        contour = np.clip(logs - np.median(logs), -0.5, 0.5) * self.f0_range  # clipped: octave errors of the analysis
        frame = np.flatnonzero(voiced)
        shake = rough.jitter * rng.standard_normal(frame.size)
        shake += rough.tremor * np.sin(2 * np.pi * (rng.uniform(4, 6) * frame * FRAME_MS / 1000 + rng.random()))
        centre = np.log(100.0) + (self.traits.f0 + _MOOD_SEMITONES * rng.standard_normal()) * np.log(2) / 12
        out = np.zeros_like(f0)
        out[voiced] = np.clip(np.exp(centre + contour - contour.mean() + shake), 50, 600)
        return out


@dataclass(frozen=True)
class Roughness:
    """The parts of the trait ``rough``; that they go together, and how far, is this world's assumption."""

    jitter: float  # relative F0 noise from frame to frame
    shimmer_db: float  # amplitude noise from frame to frame
    tremor: float  # relative F0 swing at 4 to 6 Hz
    breath: float  # share of noise mixed into voiced frames, 0..1
    tilt_db: float  # per octave above 1 kHz, in voiced frames

    @classmethod
    def of(cls, z: float) -> Roughness:
        """From the z-score; clipped at three standard deviations.

        Example:
            >>> Roughness.of(2.0).breath > Roughness.of(-2.0).breath
            True
        """
        z = float(np.clip(z, -3, 3))
        strength = float(np.exp(0.6 * z))
        breath = 1 / (1 + float(np.exp(0.5 - 1.0 * z)))
        return cls(0.012 * strength, 1.4 * strength, 0.006 * strength, breath, -1.0 * z)

    def breathe(self, part: Analysis, rng: np.random.Generator) -> Analysis:
        """Add shimmer, breath noise and tilt to the voiced frames."""
        voiced = (part.f0 > 0)[:, None]
        shimmer = self.shimmer_db * rng.standard_normal((part.f0.size, 1))
        envelope = part.log_envelope + voiced * _NEPERS * (shimmer + self.tilt_db * np.maximum(_OCTAVE, 0))
        high = np.linspace(0.3, 1.0, FREQUENCIES.size)  # breath is mostly high
        noise = part.aperiodicity + voiced * (1 - part.aperiodicity) * self.breath * high
        return Analysis(part.f0, envelope, np.clip(noise, 1e-3, 1 - 1e-6))


def nasal_pattern(hertz: Float[np.ndarray, " bins"]) -> Float[np.ndarray, " bins"]:
    """Decibels that one unit of nasality adds: a pole near 250 Hz, a zero near 1 kHz.

    Example:
        >>> nasal_pattern(np.array([250.0, 1000.0])).round(1)
        array([ 2., -4.])
    """
    octave = np.log2(np.maximum(hertz, 20) / 1000)
    return 2 * np.exp(-0.5 * ((octave + 2) / 0.4) ** 2) - 4 * np.exp(-0.5 * (octave / 0.35) ** 2)


def voice_of(person: Person, timbres: Sequence[BaseVoice]) -> Voice:
    """A person's voice: traits from the body, everything else from ``person.voice_seed``.

    Args:
        person: from :mod:`minivox.world`.
        timbres: from :func:`load_timbres`, of the person's pool.

    Raises:
        InputError: no timbre of the person's sex.
    """
    same = [one for one in timbres if one.timbre.sex == person.sex]
    if not same:
        raise InputError(f"no timbre of sex {person.sex!r} among {len(timbres)}; run the stage base_speech first")
    rng = np.random.default_rng(person.voice_seed)
    base = same[int(rng.integers(len(same)))]
    ridges = tuple(
        # between 2.8 and 7 kHz, clear of the nasal pattern and of the formants that tell the tract's length
        (float(2800 * 2.5 ** rng.random()), float(_RIDGE_SD_DB * rng.standard_normal()))
        for _ in range(_RIDGES)
    )
    f0_range = float(np.clip(np.exp(_RANGE_SD * rng.standard_normal()), 0.6, 1.6))
    tilt = float(_TILT_SD_DB * rng.standard_normal())
    return Voice(person.voice, base, f0_range, tilt, ridges)
