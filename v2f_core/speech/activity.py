"""Where a recording holds speech, how far it stands out from noise, how loud it is, and how far up it reaches.

Frames of 32 ms are speech where Silero's voice-activity detector (an LSTM of 0.3 M weights, `silero-vad`, MIT) is
surer than 0.5. Bursts under 0.1 s are left out, gaps under 0.3 s belong to the speech. All levels are powers within the
telephone band, which leaves out mains hum, rumble and hiss.

- **background**: the level that a tenth of the frames stays below; digital silence does not count.
- **signal-to-noise ratio**: (power of the speech frames − background) / background, in dB.
- **band**: the highest frequency at which the speech frames' spectrum is not cut off.

What it cannot do: tell one talker from another, or speech from song. It is for recordings that people bring. Datasets
are read as they are: their stored embeddings depend on it.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import binary_opening

SAMPLE_RATE = 16_000
FRAME, CONTEXT, FRAMES_AT_ONCE = 512, 64, 512  # Silero's: 32 ms, and 4 ms of the frame before
STEP = FRAME / SAMPLE_RATE  # s
BAND = (300.0, 3400.0)  # Hz, the telephone's
SILENT = -110.0  # dB; a frame below it is digital silence
LOUDEST, SPEAKING = 0.3, -20.0  # s, dB of them that the detector hears
DROP = 60.0  # dB
TELEPHONE, STANDS_OUT, QUIET = 4000.0, 5.0, 27.0  # Hz; dB above the background, and of a background that tells
CLICK, GAP = 0.1, 0.3  # s
PAUSE, MARGIN = 0.75, 0.25  # s; a longer pause is cut down to the margin on each side, for the sake of soft ends
# Chosen from benchmarks/results/recordings.csv, see docs/recordings.md
MIN_SPEECH, MIN_SNR, MIN_BAND = 1.0, 15.0, 8000.0


@dataclass(frozen=True)
class Activity:
    """What was found in a recording; times in seconds, and NaN where there is no speech."""

    seconds: float
    kept: tuple[tuple[float, float], ...]  # starts and ends, with margins; all of it if there is no speech
    speech: float  # how much there is
    snr: float  # dB of speech over its background
    level: float  # dB of the speech
    band: float  # Hz that the speech reaches

    @property
    def left_out(self) -> tuple[float, float, float]:
        """How much lies before the speech, in pauses between, and after it."""
        first, last = self.kept[0][0], self.kept[-1][1]
        return first, last - first - sum(end - start for start, end in self.kept), self.seconds - last

    @property
    def doubt(self) -> str:
        """Why it says little or nothing of a voice; "" if there is no reason."""
        if not self.speech:
            return "no speech is found in it"
        reasons = (
            (self.speech < MIN_SPEECH, f"only {self.speech:.2f} s of speech (wanted: {MIN_SPEECH:g} s or more)"),
            (self.snr < MIN_SNR, f"only {self.snr:.1f} dB above its background (wanted: {MIN_SNR:g} dB or more)"),
            (self.band < MIN_BAND, f"nothing above {self.band / 1000:g} kHz (wanted: {MIN_BAND / 1000:g} kHz or more)"),
        )
        return " and ".join(reason for holds, reason in reasons if holds)


def _frames(wave: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(wave), FRAME * FRAMES_AT_ONCE):
        part = wave[start : start + FRAME * FRAMES_AT_ONCE]
        yield np.pad(part, (0, -len(part) % FRAME)).reshape(-1, FRAME)  # the last is filled up with silence


def speech_probability(wave: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " frames"]:
    """How sure Silero's detector is that each 32 ms frame holds speech, of a wave at a speaking level."""
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    found, before = [np.empty(0, np.float32)], np.zeros((1, CONTEXT), np.float32)
    for frames in _frames(wave):
        ends = np.concatenate([before, frames[:, -CONTEXT:]])  # each frame's context is the end of the one before
        before, given = ends[-1:], {"input": np.concatenate([ends[:-1], frames], 1), "h": hidden, "c": cell}
        probability, hidden, cell = _detector().run(["speech_probs", "hn", "cn"], given)
        found.append(probability.reshape(-1))
    return np.concatenate(found)


@functools.cache
def _detector() -> Any:
    import onnxruntime

    package = importlib.util.find_spec("silero_vad")  # not imported: that would set torch to one thread
    assert package is not None and package.origin is not None  # noqa: PT018 (installed with this package)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def levels(wave: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " frames"]:
    """Each 32 ms frame's power within the telephone band, in dB: a tone of 1 kHz and amplitude 1 has −3 dB."""
    frequency = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    heard = (BAND[0] <= frequency) & (BAND[1] >= frequency)
    power = [np.empty(0, np.float32), *(spectra[:, heard].sum(1) for spectra in _spectra(wave))]
    return _decibels(np.concatenate(power)).astype(np.float32)


def _spectra(wave: np.ndarray) -> Iterator[Float32[np.ndarray, "frames bins"]]:
    """Power spectra of frames, many at once; a frame's add up to its power."""
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    for frames in _frames(wave):
        yield (2 * np.abs(np.fft.rfft(frames * window)) ** 2 / (FRAME * (window**2).sum())).astype(np.float32)


def _decibels(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, 10 ** (SILENT / 10)))


def measure(wave: Float32[np.ndarray, " samples"]) -> Activity:
    """Find the speech in a recording, mono at 16 kHz, by the rules at the top of this module."""
    level, seconds = levels(wave), len(wave) / SAMPLE_RATE
    sounding = level[level > SILENT]
    nothing = Activity(seconds, ((0.0, seconds),), 0.0, *3 * [float("nan")])
    if len(sounding) == 0:
        return nothing
    loudest = float(np.sort(sounding)[-min(round(LOUDEST / STEP), len(sounding))])
    gain = np.float32(10 ** ((SPEAKING - loudest) / 20))  # a faint voice is found as well as a loud one
    # an opening takes out the runs that are shorter than it
    active = binary_opening(speech_probability(wave * gain) > 0.5, np.ones(round(CLICK / STEP)))
    active &= level > SILENT
    inside = np.logical_or.accumulate(active) & np.logical_or.accumulate(active[::-1])[::-1]
    active |= inside & ~binary_opening(~active, np.ones(round(GAP / STEP)))
    if not active.any():
        return nothing
    power, noise = (10 ** (level[active] / 10)).mean(), 10 ** (float(np.quantile(sounding, 0.1)) / 10)
    snr, speech = float(_decibels(power / noise - 1)), min(float(active.sum()) * STEP, seconds)
    band = _band(wave, active, (level > SILENT) & (level <= _decibels(noise)), snr)
    return Activity(seconds, _stretches(active, seconds), speech, snr, float(_decibels(power)), band)


def _stretches(active: Bool[np.ndarray, " frames"], seconds: float) -> tuple[tuple[float, float], ...]:
    """What is left when each pause longer than ``PAUSE`` is cut down to its margins."""
    edges = np.flatnonzero(np.diff(np.pad(active.astype(np.int8), 1))) * STEP  # where speech begins and ends
    runs = [(first, min(last, seconds)) for first, last in edges.reshape(-1, 2)]
    starts, ends = [0.0 if runs[0][0] <= PAUSE else runs[0][0] - MARGIN], []
    for (_, earlier), (later, _) in itertools.pairwise(runs):
        if later - earlier > PAUSE:
            ends.append(earlier + MARGIN)
            starts.append(later - MARGIN)
    ends.append(seconds if seconds - runs[-1][1] <= PAUSE else runs[-1][1] + MARGIN)
    return tuple(zip(starts, ends, strict=True))


def _band(wave: np.ndarray, active: np.ndarray, quiet: np.ndarray, snr: float) -> float:
    """The upper edge of the highest 250 Hz that lie at most ``DROP`` below the telephone band.

    Of all frames with speech the power that a tenth of them exceeds counts: an s does, a burst of noise does not. Faint
    noise may fill the band above a telephone's: where the background is low, and nothing stands out of it there, the
    voice ends at 4 kHz.
    """
    spectra = np.concatenate([part[:, :-1].reshape(-1, 32, 8).mean(2) for part in _spectra(wave)])
    power, background = np.quantile(spectra[active], 0.9, axis=0), spectra[quiet].mean(0)
    relative = _decibels(power / power[round(BAND[0] / 250) : round(BAND[1] / 250)].mean())
    heard = relative > -DROP
    if snr > QUIET:
        voiced = heard & (power > background * 10 ** (STANDS_OUT / 10))
        heard = voiced if not voiced[round(TELEPHONE / 250) :].any() else heard
    return float((np.flatnonzero(heard)[-1] + 1) * 250) if heard.any() else 0.0
