"""From a recording to speech clips: read any common file, mix to mono 16 kHz, cut 1.25 s clips.

What is refused, and what is mended with a warning:

================================================  =========================================================
missing, folder, unreadable, empty, not audio     refused
shorter than 0.3 s, silent (below -70 dBFS)       refused: there is no voice to hear
NaN or infinite samples, floats far beyond [-1, 1]  refused: the file is damaged or was scaled wrongly
more than half of the samples clipped             refused; more than 1 %: :class:`AudioWarning`
ends before its header says (cut-off download)    what is there is used, with an :class:`AudioWarning`
any number of channels                            averaged to mono
any rate from 8 to 192 kHz                        resampled to 16 kHz
hours long                                        streamed: memory stays bounded, clips are spread evenly
================================================  =========================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.speech.decoding import decode, open_recording

SAMPLE_RATE = 16_000
CLIP_SECONDS = 1.25  # the paper's clip
OVERLAP = 0.5  # and its overlap
MIN_SECONDS = 0.3
SILENCE_DBFS = -70.0
RATES = (8_000, 192_000)
FULL_SCALE = 0.999  # samples at or beyond this count as clipped
CLIPPED_WARN, CLIPPED_REFUSE = 0.01, 0.5
FLOAT_PEAK = 8.0  # 18 dB over full scale: integers stored as floats, not loud speech


class AudioWarning(UserWarning):
    """A recording is usable but not as it should be: clipped, cut off, or longer than was read."""


def read_audio(path: str | Path, max_seconds: float = 600.0) -> Float32[Tensor, " samples"]:
    """Read a recording as mono 16 kHz in [-1, 1].

    Args:
        path: WAV, FLAC, OGG (Vorbis or Opus) or MP3; with PyAV M4A, MP4, WebM, AAC, AMR, WMA and others; told by
            content, not by name.
        max_seconds: read no more than this; a longer file gives an ``AudioWarning`` (:func:`read_clips` hears it all).

    Returns:
        The samples, float32, 16,000 a second.

    Raises:
        InputError: the file is missing, unreadable or unusable (the table at the top of this module).

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
        >>> t = np.arange(44_100) / 44_100
        >>> soundfile.write(path, 0.5 * np.sin(2 * np.pi * 220 * t), 44_100)
        >>> read_audio(path).shape
        torch.Size([16000])
    """
    if not max_seconds >= MIN_SECONDS:
        raise InputError(f"max_seconds={max_seconds}: expected at least {MIN_SECONDS}")
    return torch.from_numpy(np.concatenate(list(stream(Path(path), max_seconds))))


def clips(
    wave: Float32[Tensor, " samples"], seconds: float = CLIP_SECONDS, overlap: float = OVERLAP
) -> Float32[Tensor, "clips clip_samples"]:
    """Cut a recording into overlapping clips, n = 1 + ⌊(samples − length) / hop⌋ with hop = length · (1 − overlap).

    The tail that does not fill a last clip (less than one hop) is left out. A recording shorter than one clip
    is repeated until it fills one: silence instead would move the spectrogram's statistics.

    Raises:
        InputError: no samples, or ``seconds`` or ``overlap`` out of range.

    Example:
        >>> clips(torch.randn(32_000)).shape  # 2 s: clips from 0, 0.625 s
        torch.Size([2, 20000])
        >>> clips(torch.arange(3.0), seconds=5 / 16_000, overlap=0.0)
        tensor([[0., 1., 2., 0., 1.]])
    """
    length, hop = _clip_samples(seconds, overlap)
    if len(wave) == 0:
        raise InputError("a recording without samples cannot be cut into clips")
    if len(wave) < length:
        wave = wave.repeat(-(-length // len(wave)))[:length]
    return wave.unfold(0, length, hop).contiguous()


def read_clips(
    path: str | Path,
    seconds: float = CLIP_SECONDS,
    overlap: float = OVERLAP,
    max_clips: int = 256,
    within: tuple[float, float] = (0.0, float("inf")),
) -> Float32[Tensor, "clips clip_samples"]:
    """The clips of a whole recording, however long: ``clips(read_audio(path))``, thinned when there are too many.

    The file is streamed. Whenever more than ``max_clips`` are held, every second one is dropped and the stride
    doubles: the result is evenly spaced from first to last and holds between half of ``max_clips`` and ``max_clips``.

    Args:
        path, seconds, overlap: as in :func:`read_audio` and :func:`clips`.
        max_clips: how many clips may be held.
        within: where to begin and to end, in seconds.
    Raises:
        InputError: as :func:`read_audio` and :func:`clips`.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "noise.flac"
        >>> soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 60), 16_000)
        >>> read_clips(path, max_clips=64).shape  # 95 clips fit: every second one is kept
        torch.Size([48, 20000])
    """
    length, hop = _clip_samples(seconds, overlap)
    if max_clips < 1:
        raise InputError(f"max_clips={max_clips}: expected at least 1")
    kept: list[np.ndarray] = []
    stride, index, rest = 1, 0, np.empty(0, np.float32)
    for block in _between(stream(Path(path)), *within):
        rest = np.concatenate([rest, block])
        start = 0
        for start in range(0, len(rest) - length + 1, hop):
            if index % stride == 0:
                kept.append(rest[start : start + length].copy())
            if len(kept) > max_clips:
                kept, stride = kept[::2], 2 * stride
            index += 1
        if len(rest) >= length:
            rest = rest[start + hop :]
    if not kept:
        return clips(torch.from_numpy(rest), seconds, overlap)
    return torch.from_numpy(np.stack(kept))


def _clip_samples(seconds: float, overlap: float) -> tuple[int, int]:
    if not (seconds > 0 and 0 <= overlap < 1):
        raise InputError(f"seconds={seconds}, overlap={overlap}: expected seconds > 0 and 0 <= overlap < 1")
    length = max(1, round(seconds * SAMPLE_RATE))
    return length, max(1, round(length * (1 - overlap)))


def _between(blocks: Iterator[np.ndarray], start: float, end: float) -> Iterator[np.ndarray]:
    """The samples from ``start`` to ``end``, in seconds."""
    place = 0
    for block in blocks:
        first, last = (round(float(np.clip(t * SAMPLE_RATE - place, 0, len(block)))) for t in (start, end))
        yield block[first:last]
        place += len(block)
        if place >= end * SAMPLE_RATE:
            return


def stream(path: Path, max_seconds: float = float("inf")) -> Iterator[np.ndarray]:
    """A recording in blocks of mono 16 kHz, at most half a second each; judged when its end is reached.

    Raises:
        InputError: as :func:`read_audio`.
    """
    import soxr

    with open_recording(path) as file:
        rate, promised, source = decode(path, file)
        if not RATES[0] <= rate <= RATES[1]:
            raise InputError(f"{path}: {rate} samples a second; expected 8,000 to 192,000, convert it first")
        resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
        tally, limit = _Tally(path), max_seconds * rate
        for block in source:
            too_long = tally.frames + len(block) > limit
            if too_long:
                warnings.warn(AudioWarning(f"{path}: only the first {max_seconds:g} s were read"), stacklevel=3)
                block = block[: int(limit) - tally.frames]
            if len(block):
                mono = tally.add(block)
                # a resampled full-scale wave overshoots a little; the contract is [-1, 1]
                yield np.clip(resampler.resample_chunk(mono) if resampler else mono, -1.0, 1.0)
            if too_long:
                break
        tally.judge(rate, min(promised, limit))
        if resampler:
            yield np.clip(resampler.resample_chunk(np.empty(0, np.float32), last=True), -1.0, 1.0)


@dataclass
class _Tally:
    """Counts over a recording's blocks, and the verdicts that need the whole of it."""

    path: Path
    frames: int = 0
    samples: int = 0  # over all channels
    clipped: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, block: np.ndarray) -> np.ndarray:
        """Count a block of (frames, channels) and mix it to mono."""
        peak = float(np.abs(block).max())  # NaN if any sample is
        if not np.isfinite(peak):
            raise InputError(f"{self.path}: has NaN or infinite samples; export it again, best as 16-bit WAV")
        if peak > FLOAT_PEAK:
            raise InputError(f"{self.path}: samples reach {peak:.4g}; expected floats in [-1, 1], rescale it")
        if peak >= FULL_SCALE:
            self.clipped += int((np.abs(block) >= FULL_SCALE).sum())
        mono = block.mean(1, dtype=np.float32)
        self.frames += len(block)
        self.samples += block.size
        self.total += float(mono.sum())
        self.squares += float(mono @ mono)
        return mono

    def judge(self, rate: int, promised_frames: int | float) -> None:
        """Refuse or warn: too short, silent, clipped, cut off."""
        seconds, promised = self.frames / rate, promised_frames / rate
        cut_off = seconds < promised - 0.1
        if seconds < MIN_SECONDS:
            way_out = f"its header promises {promised:.2f} s, get a complete copy" if cut_off else "record a longer one"
            raise InputError(f"{self.path}: {seconds:.2f} s of audio; expected at least {MIN_SECONDS} s; {way_out}")
        # the variance: an offset alone makes no sound
        if self.squares / self.frames - (self.total / self.frames) ** 2 < 10 ** (SILENCE_DBFS / 10):
            raise InputError(
                f"{self.path}: silent (below {SILENCE_DBFS:g} dBFS); expected speech, check the microphone"
            )
        share = self.clipped / self.samples
        if share > CLIPPED_REFUSE:
            raise InputError(f"{self.path}: {share:.0%} of the samples are clipped; record again at a lower level")
        if share > CLIPPED_WARN:
            warnings.warn(AudioWarning(f"{self.path}: {share:.0%} of the samples are clipped"), stacklevel=4)
        if cut_off:
            message = (
                f"{self.path}: ends after {seconds:.1f} s, its header promises {promised:.1f} s; used what is there"
            )
            warnings.warn(AudioWarning(message), stacklevel=4)
