"""How much speech a person's own recording holds, where it begins and ends, and how far it stands out from noise.

By the energy of short frames, and nothing else (as in Rabiner and Sambur's end points, 1975, and the detectors after
them): a frame's level is its power within the telephone band, which leaves out mains hum, rumble and hiss.

- **background**: the level that a tenth of the frames stays below; digital silence does not count.
- **speech**: frames 6 dB above the background and at most 30 dB below the loudest 0.3 s. Bursts under 60 ms are
  clicks; gaps under 0.3 s, such as those before a p or t, belong to the speech.
- **signal-to-noise ratio**: (power of the speech frames − background) / background, in dB.

What it cannot do: a steady background is assumed, so that another talker, music or a dog is taken for speech; noise
that a program mutes between the words is not seen; one vowel held without a pause is taken for background. It is for
recordings that people bring. Datasets are read as they are: their stored embeddings depend on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from v2f_core.speech.audio import CLIP_SECONDS, SAMPLE_RATE, AudioWarning, clips, read_clips, stream

FRAME = 320  # 20 ms
BAND = (300.0, 3400.0)  # Hz, the telephone's
SILENT = -90.0  # dB; a frame below it is digital silence
LOUDEST, RANGE, RISE = 0.3, 30.0, 6.0  # s, dB, dB: see above
CLICK, GAP = 0.06, 0.3  # s
PAUSE, MARGIN = 0.75, 0.25  # s; a longer pause at an end is cut down to the margin, for the sake of soft ends
# Chosen from benchmarks/results/recordings.csv, see docs/recordings.md
MIN_SPEECH, MIN_SNR = 1.0, 15.0


@dataclass(frozen=True)
class Activity:
    """What was found in a recording; times in seconds.

    Attributes:
        seconds: its length.
        start, end: where speech begins and ends, with a margin; a recording's own ends if they are near, or if there
            is no speech.
        speech: how much speech there is.
        snr: dB of speech over its background; NaN without speech.
    """

    seconds: float
    start: float
    end: float
    speech: float
    snr: float

    @property
    def left_out(self) -> tuple[float, float]:
        """How much lies before the speech, and how much after it."""
        return self.start, self.seconds - self.end

    @property
    def doubt(self) -> str:
        """Why it says little or nothing of a voice; "" if there is no reason.

        Example:
            >>> Activity(seconds=3.0, start=0.5, end=2.1, speech=0.6, snr=20.0).doubt
            'only 0.60 s of speech (wanted: 1 s or more)'
        """
        if not self.speech:
            return "no speech stands out from its background"
        short = f"only {self.speech:.2f} s of speech (wanted: {MIN_SPEECH:g} s or more)"
        noisy = f"only {self.snr:.1f} dB above its background (wanted: {MIN_SNR:g} dB or more)"
        return " and ".join([short] * (self.speech < MIN_SPEECH) + [noisy] * (self.snr < MIN_SNR))


def read_speech(
    path: str | Path, seconds: float = CLIP_SECONDS, max_clips: int = 256
) -> tuple[Float32[Tensor, "clips clip_samples"], Activity]:
    """The clips of a person's recording from the first word to the last, and what was found in it.

    As :func:`~v2f_core.speech.audio.read_clips`, which hears the silence before and after too. The file is read twice,
    so that one hours long needs no more memory.

    Returns:
        the clips, and the activity. An ``AudioWarning`` in one line tells of too little speech or too much noise.
    Raises:
        InputError: the recording cannot be used.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "voice.wav"
        >>> rng = np.random.default_rng(0)
        >>> word, pause = 0.2 * rng.standard_normal(32_000), 1e-3 * rng.standard_normal(16_000)
        >>> soundfile.write(path, np.concatenate([pause, pause, word, pause]), 16_000)
        >>> windows, found = read_speech(path)
        >>> found.start, found.end, found.speech, windows.shape
        (1.75, 4.25, 2.0, torch.Size([3, 20000]))
    """
    found = measure(levels(stream(Path(path))))
    if found.doubt:
        warnings.warn(AudioWarning(f"{path}: {found.doubt}; what is drawn tells little of this voice"), stacklevel=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # given at the first reading
        return read_clips(path, seconds, max_clips=max_clips, within=(found.start, found.end)), found


def speech_clips(
    wave: Float32[Tensor, " samples"], seconds: float = CLIP_SECONDS
) -> tuple[Float32[Tensor, "clips clip_samples"], Activity]:
    """:func:`read_speech` for samples that are there already, mono at 16 kHz.

    Raises:
        InputError: there are no samples.
    """
    found = measure(levels([wave.detach().cpu().numpy()]))
    if found.doubt:
        warnings.warn(AudioWarning(f"{found.doubt}; what is drawn tells little of this voice"), stacklevel=2)
    return clips(wave[round(found.start * SAMPLE_RATE) : round(found.end * SAMPLE_RATE)], seconds), found


def levels(blocks: Iterable[np.ndarray]) -> Float32[np.ndarray, " frames"]:
    """Each 20 ms frame's power within the telephone band, in dB: a tone of 1 kHz and amplitude 1 has −3 dB.

    Args:
        blocks: the samples, mono at 16 kHz, in blocks of any size; the last frame is filled up with silence.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
        >>> levels([tone]).round(2)[:3]
        array([-3.01, -3.01, -3.01], dtype=float32)
    """
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    frequency = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    heard = (frequency >= BAND[0]) & (frequency <= BAND[1])
    found, rest = [np.empty(0, np.float32)], np.empty(0, np.float32)
    for block in chain(blocks, [None]):
        rest = np.pad(rest, (0, -len(rest) % FRAME)) if block is None else np.concatenate([rest, block])
        frames, rest = np.split(rest, [len(rest) // FRAME * FRAME])
        spectrum = np.fft.rfft(frames.reshape(-1, FRAME) * window)[:, heard]
        found.append(2 * (np.abs(spectrum) ** 2).sum(1) / (FRAME * (window**2).sum()))
    power = np.concatenate(found)
    return (10 * np.log10(np.maximum(power, 10 ** (SILENT / 10)))).astype(np.float32)


def measure(level: Float32[np.ndarray, " frames"]) -> Activity:
    """Find the speech among frames' levels, by the rules at the top of this module.

    Example:
        >>> level = np.full(300, -60, np.float32)  # 6 s of background
        >>> level[100:200] = -20  # 2 s of speech
        >>> found = measure(level)
        >>> found.start, found.end, found.speech, round(found.snr)
        (1.75, 4.25, 2.0, 40)
    """
    step = FRAME / SAMPLE_RATE
    seconds = len(level) * step
    sounding = level[level > SILENT]
    if len(sounding) == 0:
        return Activity(seconds, 0.0, seconds, 0.0, float("nan"))
    background = float(np.quantile(sounding, 0.1))
    loudest = float(np.sort(sounding)[-min(round(LOUDEST / step), len(sounding))])
    active = level > max(background + RISE, loudest - RANGE)
    active = _without_runs(active, round(CLICK / step))
    inside = np.logical_or.accumulate(active) & np.logical_or.accumulate(active[::-1])[::-1]
    active |= inside & ~_without_runs(~active, round(GAP / step))
    if not active.any():
        return Activity(seconds, 0.0, seconds, 0.0, float("nan"))
    places = np.flatnonzero(active)
    start, end = float(places[0]) * step, float(places[-1] + 1) * step
    start, end = start - MARGIN if start > PAUSE else 0.0, end + MARGIN if seconds - end > PAUSE else seconds
    noise = 10 ** (background / 10)
    ratio = (10 ** (level[active] / 10)).mean() / noise - 1
    return Activity(seconds, start, end, len(places) * step, float(10 * np.log10(ratio)))


def _without_runs(active: Bool[np.ndarray, " frames"], least: int) -> Bool[np.ndarray, " frames"]:
    """The same without runs of fewer frames than ``least``."""
    edges: Int[np.ndarray, " edges"] = np.flatnonzero(np.diff(np.pad(active.astype(np.int8), 1)))
    kept = active.copy()
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first < least:
            kept[first:last] = False
    return kept
