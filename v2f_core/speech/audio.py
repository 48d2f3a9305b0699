"""From a recording to speech clips: any common file or samples, mono 16 kHz, clips of 1.25 s.

docs/recordings.md says what is mended, what is told of by an :class:`AudioWarning`, and what is refused. People's own
recordings go through :func:`hear`; those of datasets are read as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from v2f_core.artefacts.files import printable
from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError
from v2f_core.speech.activity import SAMPLE_RATE, Activity, levels, measure
from v2f_core.speech.decoding import Block, Decoder, open_recording, to_floats

CLIP_SECONDS = 1.25  # the paper's clip; clips overlap by half
MIN_SECONDS = 0.3
SILENCE_DBFS = -70.0
RATES = (8_000, 192_000)
FULL_SCALE = 0.999  # samples at or beyond this count as clipped
CLIPPED_WARN, CLIPPED_REFUSE = 0.01, 0.5
FLOAT_PEAK = 8.0  # 18 dB over full scale: integers stored as floats, not loud speech
MOST_CHANNELS, CHANNEL_SECONDS = 8, 60.0  # of samples; of a recording, for the choice of a channel
OTHER_VOICE = 9.5  # dB between the tenths of two channels' difference in level above which two persons talk
LONGEST = 3600.0  # seconds of a recording that are heard
MAX_WINDOWS = 256  # of a recording, spread evenly over its speech
LEVEL = (-30.0, -22.0)  # dB of speech in the telephone band, as in MiniVox; beyond it the sound is turned up or down
OFFSET = 0.001  # a constant in the samples that is taken off

Voice = str | Path | bytes | bytearray | memoryview | Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]


class AudioWarning(UserWarning):
    """A recording is usable but not as it should be, or it tells little of a voice."""


def read_audio(voice: str | Path | bytes) -> Float32[Tensor, " samples"]:
    """Read a recording, or the bytes of one, as mono 16 kHz in [-1, 1]; of a longer one the first hour.

    Formats are told by content, not by name. Raises an ``InputError`` if the file cannot be used.
    """
    name = "recording" if isinstance(voice, bytes) else printable(voice)
    with open_recording(voice if isinstance(voice, bytes) else Path(voice)) as file:
        return torch.from_numpy(_mono(name, Decoder(name, file)))


def hear(
    voice: Voice, seconds: float = CLIP_SECONDS
) -> tuple[Float32[Tensor, "windows clip_samples"], Activity | None]:
    """The windows of a voice in which it speaks, and what was measured in the recording.

    The same voice gives the same windows whatever it comes in: pauses longer than 0.75 s are cut down to half a second,
    faint and loud speech is brought to a speaking level, a constant is taken off, one channel is heard.

    Args:
        voice: a recording's path, or its bytes; samples at 16 kHz as a tensor or an array of (samples,), (channels,
            samples) or (samples, channels), floats in [-1, 1] or integers; or windows already cut, given back as such.
        seconds: length of a window.
    Returns:
        at most 256 windows, and what was measured; None for windows already cut. An ``AudioWarning`` tells of a doubt.
    Raises:
        InputError: the recording cannot be used.

    Example:
        >>> import minivox
        >>> windows, activity = hear(Path(minivox.__file__).parent / "other_voice.ogg")
        >>> windows.shape, round(activity.speech), round(activity.band)
        (torch.Size([11, 20000]), 7, 8000)
    """
    if isinstance(voice, str | Path | bytes | bytearray | memoryview):
        name = printable(voice) if isinstance(voice, str | Path) else "recording"
        wave = read_audio(voice if isinstance(voice, str | Path) else bytes(voice)).numpy()
    else:
        name, samples = "samples", to_floats(_as_array(voice))
        if samples.ndim == 2 and samples.shape[1] == _clip_samples(seconds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AudioWarning)  # that was said of the recording they were cut from
                _mono("windows", [(SAMPLE_RATE, samples.reshape(-1, 1))])  # refuses what is no sound
            return torch.from_numpy(samples), None
        wave = _mono(name, [(SAMPLE_RATE, _channels_last(samples))])
    if abs(offset := wave.mean()) > OFFSET:
        wave = wave - offset
    activity = measure(wave)
    if activity.doubt:
        _warn(name, f"{activity.doubt}; what is drawn tells little of this voice")
    if activity.speech:
        kept = np.round(np.array(activity.kept) * SAMPLE_RATE).astype(int)
        wave = np.concatenate([wave[start:end] for start, end in kept])
        gain = float(np.clip(activity.level, *LEVEL)) - activity.level
        wave = wave * np.float32(10 ** (gain / 20)) if gain else wave
    return clips(torch.from_numpy(wave), seconds, MAX_WINDOWS), activity


def read_clips(path: str | Path, seconds: float = CLIP_SECONDS) -> Float32[Tensor, "clips clip_samples"]:
    """The clips of a dataset's recording, heard as it is; of more than 256 every second, fourth, … one."""
    return clips(read_audio(path), seconds, MAX_WINDOWS)


def clips(
    wave: Float32[Tensor, " samples"], seconds: float = CLIP_SECONDS, most: int | None = None
) -> Float32[Tensor, "clips clip_samples"]:
    """Cut a recording into clips that overlap by half, n = 1 + ⌊(samples − length) / hop⌋.

    A recording shorter than one clip is repeated until it fills one: silence instead would move the spectrogram's
    statistics. Of more than ``most`` clips every second, fourth, … one is kept.

    Example:
        >>> clips(torch.randn(32_000)).shape  # 2 s: clips from 0, 0.625 s
        torch.Size([2, 20000])
        >>> clips(torch.arange(3.0), seconds=5 / 16_000)
        tensor([[0., 1., 2., 0., 1.]])
    """
    length = _clip_samples(seconds)
    if len(wave) == 0:
        raise InputError("a recording without samples cannot be cut into clips")
    if len(wave) < length:
        wave = wave.repeat(-(-length // len(wave)))[:length]
    windows = wave.unfold(0, length, max(1, round(length / 2)))
    while most and len(windows) > most:
        windows = windows[::2]
    return windows.contiguous()


def _clip_samples(seconds: float) -> int:
    if not seconds > 0:
        raise InputError(f"seconds={seconds}: expected seconds > 0")
    return max(1, round(seconds * SAMPLE_RATE))


def _as_array(voice: Any) -> np.ndarray:
    with refusing("samples", "an array", "give a recording's path, its bytes, a tensor or an array"):
        if isinstance(voice, Tensor) and voice.is_floating_point():
            voice = voice.detach().float()  # NumPy knows no bfloat16
        return np.asarray(voice.cpu() if isinstance(voice, Tensor) else voice)


def _channels_last(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 1:
        return samples[:, None]
    if samples.ndim == 2 and min(samples.shape) <= MOST_CHANNELS < max(samples.shape):
        return samples if samples.shape[1] <= MOST_CHANNELS else samples.T
    raise InputError(
        f"samples of shape {samples.shape}: expected (samples,), (channels, samples) with at most {MOST_CHANNELS} "
        "channels, or windows as long as the encoder hears"
    )


def _mono(name: str, blocks: Iterable[Block]) -> np.ndarray:
    """Blocks of any rate and number of channels, checked, at 16 kHz, and the best channel of them."""
    tally = _Tally(name)
    parts = [np.empty(0, np.float32)]
    for (rate, channels), run in groupby(tally.checked(blocks), lambda block: (block[0], block[1].shape[1])):
        parts += _best_channel(name, _resampled((samples for _, samples in run), rate, channels))
    wave = np.concatenate(parts)
    # a resampled full-scale wave overshoots, floats may be louder: cut-off tops would fill the band
    wave /= max(1.0, float(wave.max(initial=0)), -float(wave.min(initial=0)))
    tally.judge(wave, *((blocks.promised, blocks.doubts) if isinstance(blocks, Decoder) else (0.0, [])))
    return wave


def _resampled(blocks: Iterable[np.ndarray], rate: int, channels: int) -> Iterator[np.ndarray]:
    """At 16 kHz, up to 7.8 kHz as it was: soxr, which takes off from 7.3 kHz, goes to 32 kHz; a low-pass to 16 kHz."""
    import soxr

    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, 2 * SAMPLE_RATE, channels, "float32", "HQ")
    rest = half = np.zeros((len(LOW_PASS) // 2, channels), np.float32)
    for block in chain(blocks, [None]):
        fresh = resampler.resample_chunk(half[:0] if block is None else block, last=block is None)
        rest = np.concatenate([rest, fresh.reshape(-1, channels), half if block is None else half[:0]])
        if count := max(0, (len(rest) - len(LOW_PASS)) // 2 + 1):
            part = rest[: 2 * (count - 1) + len(LOW_PASS)]
            yield np.stack([np.convolve(channel, LOW_PASS, "valid")[::2] for channel in part.T], 1)
            rest = rest[2 * count :]


_TAPS = np.arange(-200, 201)
LOW_PASS = (np.sinc(_TAPS / 2) / 2 * np.kaiser(len(_TAPS), 8)).astype(np.float32)  # −6 dB at 8 kHz, 80 dB from 8.2 kHz


def _best_channel(name: str, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The channel whose speech stands out most in the first minute. A mean of channels would be a comb, or silence."""
    begun, blocks = list[np.ndarray](), iter(blocks)
    while sum(map(len, begun)) < CHANNEL_SECONDS * SAMPLE_RATE and (block := next(blocks, None)) is not None:
        begun.append(block)
    if begun:
        best = _choose_channel(name, np.concatenate(begun))
        yield from (block[:, best] for block in chain(begun, blocks))


def _choose_channel(name: str, samples: np.ndarray) -> int:
    if np.abs(samples - samples[:, :1]).max() < 1e-4:
        return 0
    channels = [np.ascontiguousarray(channel) for channel in samples.T]
    found = [measure(channel) for channel in channels]
    most = max(activity.speech for activity in found)
    if most == 0:
        return int(samples.var(0).argmax())
    talking = [i for i, activity in enumerate(found) if activity.speech >= most / 2]
    best = max(talking, key=lambda i: (not found[i].doubt, found[i].snr))
    if any(_swing(channels[best], channels[i]) > OTHER_VOICE for i in talking):
        _warn(name, f"its channels hold different voices; channel {best + 1} of {len(channels)} is heard")
    return best


def _swing(*channels: np.ndarray) -> float:
    """How far the difference in level of two channels swings while there is sound: little where both hear one voice."""
    power = [np.convolve(10 ** (levels(channel) / 10), np.ones(4) / 4, "same") for channel in channels]
    one, other = (10 * np.log10(each) for each in power)
    loudness = np.maximum(one - one.max(), other - other.max())
    difference = (one - other)[loudness >= np.median(loudness)]
    return float(np.quantile(difference, 0.9) - np.quantile(difference, 0.1))


def _warn(name: str, doubt: str) -> None:
    warnings.warn(AudioWarning(f"{name}: {doubt}"), stacklevel=3)


@dataclass
class _Tally:
    """What is counted while blocks pass, and judged when all have."""

    name: str
    seconds: float = 0.0
    samples: int = 0  # over all channels
    clipped: int = 0

    def checked(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Refuse blocks that hold no sound, and end where enough was heard."""
        for rate, block in blocks:
            if not RATES[0] <= rate <= RATES[1]:
                raise InputError(f"{self.name}: {rate} samples a second; expected 8,000 to 192,000, convert it first")
            left = round((LONGEST - self.seconds) * rate)
            if len(block) > left:
                _warn(self.name, f"only the first {LONGEST:g} s were read")
                block = block[:left]
            if len(block) == 0:
                return
            level = np.abs(block)
            peak = float(level.max())  # NaN if any sample is
            if not np.isfinite(peak):
                raise InputError(f"{self.name}: has NaN or infinite samples; export it again, best as 16-bit WAV")
            if peak > FLOAT_PEAK:
                raise InputError(f"{self.name}: samples reach {peak:.4g}; expected floats in [-1, 1], rescale it")
            self.clipped += int((level >= FULL_SCALE).sum())
            self.seconds += len(block) / rate
            self.samples += block.size
            yield rate, block

    def judge(self, wave: np.ndarray, promised: float, doubts: list[str]) -> None:
        """Refuse or warn: too short, silent, clipped, cut off, damaged."""
        promised = min(promised, LONGEST)
        cut_off = self.seconds < promised - max(0.1, 0.05 * promised)  # codecs' lengths are not exact
        clipped = f"{self.clipped / max(self.samples, 1):.0%} of the samples are clipped"
        if self.seconds < MIN_SECONDS:
            way_out = f"its header promises {promised:.2f} s, get a complete copy" if cut_off else "record a longer one"
            length = f"{self.seconds:.2f} s of audio; expected at least {MIN_SECONDS} s"
            raise InputError(f"{self.name}: {length}; {way_out}")
        if wave.var() < 10 ** (SILENCE_DBFS / 10):  # the variance: an offset alone makes no sound
            below = f"silent (below {SILENCE_DBFS:g} dBFS)"
            raise InputError(f"{self.name}: {below}; expected speech, check the microphone")
        if self.clipped > CLIPPED_REFUSE * self.samples:
            raise InputError(f"{self.name}: {clipped}; record again at a lower level")
        if cut_off:
            ends = f"ends after {self.seconds:.1f} s, its header promises {promised:.1f} s"
            _warn(self.name, f"{ends}; used what is there")
        if self.clipped > CLIPPED_WARN * self.samples:
            _warn(self.name, clipped)
        for doubt in doubts:
            _warn(self.name, doubt)
