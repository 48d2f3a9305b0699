"""Base speech: Kokoro-82M says a sentence in a timbre blended of its own synthetic voices."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minivox.build.voice.sentences import AMERICAN, BRITISH, SENTENCES
from minivox.world import FEMALE, MALE

if TYPE_CHECKING:
    from jaxtyping import Float

RATE = 24_000  # Kokoro's sampling rate, Hz
# the first timbres of MiniVox, which all timbres are calibrated against: both sexes, both accents, every sentence
REFERENCES = 8
Blend = tuple[tuple[str, float], ...]  # (Kokoro voice, weight); the weights sum to 1

_STYLE_ROWS = 510  # a style is a table over the number of phonemes
_DECODER = np.repeat([1.0, 0.0], 128)  # a style's first half colours the sound, its second half times and pitches it
# whispered or growled voices have no stable pitch, and one man's voice is a child's
_UNFIT = {"af_nicole", "am_santa", "em_santa", "pm_santa", "zm_yunxia"}
_BRITISH_SHARE = 0.3


@dataclass(frozen=True)
class Timbre:
    """A base voice: which Kokoro voices are mixed for its sound and for its prosody, and what it says."""

    name: str
    sex: str
    accent: str
    sound: Blend
    prosody: Blend
    sentences: tuple[int, ...]


def timbre(pool: str, index: int, voices: list[str], sentences: int) -> Timbre:
    """Draw timbre ``index`` of a pool; even ones are women's. MiniVox's references say every sentence.

    Args:
        pool: the timbres of two pools differ.
        voices: names of Kokoro's voices: language, sex, underscore, name.
        sentences: how many of the twelve sentences the timbre says.

    Example:
        >>> one = timbre("voices", 0, ["af_a", "af_b", "bf_c", "am_d"], sentences=5)
        >>> one.name, one.sex, len(one.sentences)
        ('f000', 'f', 5)
    """
    seed = hashlib.sha256(f"timbre/{pool}/{index}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:16], "little"))
    sex = FEMALE if index % 2 == 0 else MALE
    same = sorted(name for name in voices if name[1] == sex and name not in _UNFIT)
    reference = pool == "minivox" and index < REFERENCES
    british = index % 4 >= 2 if reference else bool(rng.random() < _BRITISH_SHARE)
    sound = _blend(same, rng)  # any language lends its sound, English alone its prosody
    prosody = _blend([name for name in same if name[0] in "ab"], rng)
    said = range(len(SENTENCES)) if reference else sorted(rng.choice(len(SENTENCES), sentences, replace=False))
    accent = BRITISH if british else AMERICAN
    return Timbre(f"{sex}{index:03d}", sex, accent, sound, prosody, tuple(int(s) for s in said))


def _blend(names: list[str], rng: np.random.Generator, of: int = 3) -> Blend:
    """A convex mix of a few voices; few and uneven keeps speakers apart."""
    picked = rng.choice(len(names), size=min(of, len(names)), replace=False)
    weights = rng.dirichlet(np.full(len(picked), 0.5))
    return tuple((names[i], float(w)) for i, w in zip(picked, weights, strict=True))


class Kokoro:
    """The synthesiser, from the folder that :func:`ingredients.fetch` makes."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        onnxruntime.set_seed(0)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        self._styles = {
            file.stem: np.fromfile(file, "<f4").reshape(_STYLE_ROWS, 256) for file in (folder / "voices").glob("*.bin")
        }

    @property
    def voices(self) -> list[str]:
        """Names of the voices that can be blended."""
        return sorted(self._styles)

    def say(self, voice: Timbre, sentence: int) -> Float[np.ndarray, " samples"]:
        """Speech at 24 kHz, trimmed, with a peak of 0.7."""
        tokens = [self._vocabulary[symbol] for symbol in SENTENCES[sentence].ipa[voice.accent]]
        halves = ((voice.sound, _DECODER), (voice.prosody, 1 - _DECODER))
        style = sum(w * self._styles[name][len(tokens)] * half for blend, half in halves for name, w in blend)
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": np.asarray(style, np.float32)[None],
            "speed": np.ones(1, np.float32),
        }
        wave = trim(self._session.run(None, inputs)[0].ravel())
        return (wave * (0.7 / np.abs(wave).max())).astype(np.float32)


def active(
    wave: Float[np.ndarray, " samples"], rate: int, below_db: float = 35.0
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which samples lie within ``below_db`` of the loudest 25 ms."""
    window = rate // 40
    power = np.convolve(wave.astype(np.float64) ** 2, np.ones(window) / window, "same")
    return power > power.max() * 10 ** (-below_db / 10)


def trim(wave: Float[np.ndarray, " samples"], rate: int = RATE, pad_s: float = 0.06) -> Float[np.ndarray, " kept"]:
    """Cut silence at both ends, but for ``pad_s`` seconds."""
    on = np.flatnonzero(active(wave, rate, 40.0))
    pad = int(pad_s * rate)
    return wave[max(0, on[0] - pad) : on[-1] + pad]
