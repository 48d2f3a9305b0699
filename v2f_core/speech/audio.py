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

import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from v2f_core.errors import InputError

SAMPLE_RATE = 16_000
CLIP_SECONDS = 1.25  # the paper's clip
OVERLAP = 0.5  # and its overlap
MIN_SECONDS = 0.3
SILENCE_DBFS = -70.0
RATES = (8_000, 192_000)
FULL_SCALE = 0.999  # samples at or beyond this count as clipped
CLIPPED_WARN, CLIPPED_REFUSE = 0.01, 0.5
FLOAT_PEAK = 8.0  # 18 dB over full scale: integers stored as floats, not loud speech
BLOCKS_A_SECOND = 2  # small, since a damaged file is used up to its last whole block
FORMATS = "give a WAV, FLAC, OGG, MP3 or M4A file"


class AudioWarning(UserWarning):
    """A recording is usable but not as it should be: clipped, cut off, or longer than was read."""


def read_audio(path: str | Path, max_seconds: float = 600.0) -> Float32[Tensor, " samples"]:
    """Read a recording as mono 16 kHz in [-1, 1].

    Args:
        path: WAV, FLAC, OGG (Vorbis or Opus) or MP3; M4A, MP4 and WebM with PyAV; told by content, not by name.
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
    return torch.from_numpy(np.concatenate(list(_stream(Path(path), max_seconds))))


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
    path: str | Path, seconds: float = CLIP_SECONDS, overlap: float = OVERLAP, max_clips: int = 256
) -> Float32[Tensor, "clips clip_samples"]:
    """The clips of a whole recording, however long: ``clips(read_audio(path))``, thinned when there are too many.

    The file is streamed. Whenever more than ``max_clips`` are held, every second one is dropped and the stride
    doubles: the result is evenly spaced from first to last and holds between half of ``max_clips`` and ``max_clips``.

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
    for block in _stream(Path(path), float("inf")):
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


def _stream(path: Path, max_seconds: float) -> Iterator[np.ndarray]:
    """Blocks of mono 16 kHz; raises or warns on what makes the recording unusable or doubtful."""
    import soxr

    with _open(path) as file:
        rate, promised, source = _decode(path, file)
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


def _open(path: Path) -> FileIO:
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected one recording; {FORMATS}")
    if not path.exists():
        raise InputError(f"{path}: no such file; {FORMATS}")
    if not path.is_file():
        raise InputError(f"{path}: not a regular file; {FORMATS}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty (0 bytes); {FORMATS}")
    try:
        return path.open("rb", buffering=0)  # unbuffered: soundfile goes on from the same position
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _decode(path: Path, file: FileIO) -> tuple[int, int, Iterator[np.ndarray]]:
    """The rate, the frames that the header promises, and blocks of (frames, channels)."""
    import soundfile

    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":  # MP4 and its kin, WebM
        return _decode_with_av(path)
    promised = _wav_frames(file)
    try:
        # by its number: a name would decide on the format, and reading through Python is slower
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not an audio file that can be read ({error.error_string}); {FORMATS}") from error
    promised = max(sound.frames, promised)

    def blocks() -> Iterator[np.ndarray]:
        with sound:
            while True:
                try:
                    block = sound.read(sound.samplerate // BLOCKS_A_SECOND, dtype="float32", always_2d=True)
                except soundfile.LibsndfileError:  # damaged from here on: _judge says what is missing
                    return
                if len(block) == 0:
                    return
                yield block

    return sound.samplerate, promised, blocks()


def _wav_frames(file: FileIO) -> int:
    """Frames that a WAV header promises, which libsndfile corrects in silence; 0 for other files and for streams."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    frames, block = 0, 0
    if file.read(12)[::8] == b"RW":  # RIFF....WAVE
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"fmt ":
                body = file.read(length)
                block = struct.unpack_from("<H", body, 12)[0] if len(body) >= 14 else 0
                length = 0
            elif name == b"data":
                frames = length // block if block and length < 2**32 - 2**16 else 0
                break
            file.seek(min(length + length % 2, size), os.SEEK_CUR)
    file.seek(0)
    return frames


def _decode_with_av(path: Path) -> tuple[int, int, Iterator[np.ndarray]]:
    try:
        import av
    except ImportError as error:
        raise InputError(f"{path}: M4A, MP4 and WebM need PyAV; pip install av, or convert it to WAV") from error
    try:
        container: Any = av.open(str(path))
        stream = container.streams.audio[0]
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{path}: has no sound that can be read; {FORMATS}") from error
    rate = int(stream.rate)
    promised = int((stream.duration or 0) * (stream.time_base or 0) * rate)

    def blocks() -> Iterator[np.ndarray]:
        planar = av.AudioResampler(format="fltp")
        with container:
            try:
                for frame in container.decode(stream):
                    for part in planar.resample(frame):
                        yield part.to_ndarray().T
            except av.FFmpegError:  # damaged from here on: _judge says what is missing
                return

    return rate, promised, blocks()
