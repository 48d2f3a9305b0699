"""Opening a sound file: what its header promises, and what it holds, block by block.

FFmpeg (through PyAV) reads all formats: it goes on behind the end of the first of several joined files, tells each
frame's own rate, and prints nothing. It decodes Opus at 48 kHz, whatever was recorded. Opus itself can decode at the
rate of the recording, which adds no resampling; libsndfile asks for that, so a single Opus recording is read by it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from v2f_core.artefacts.files import printable
from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError

FRAMES_AT_ONCE = 20  # that become a block: about half a second
FORMATS = "give a WAV, FLAC, OGG, MP3 or M4A file"
# FFmpeg's formats that hold sound. Playlists are left out, since they lead to other files.
FFMPEG = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,nistsphere,ogg,tta,voc,w64,wav,wv"
)
EXACT = ("aiff", "au", "flac", "matroska,webm", "mp3", "mov,mp4,m4a,3gp,3g2,mj2")  # whose lengths are no guess
DAMAGED = "is damaged; used what can be read"
# FFmpeg's formats of samples; with a p behind, each channel has a plane of its own
KINDS = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}
# codecs that give up high frequencies first; fewer kilobits a second and channel are told of
COARSE, MIN_KILOBITS = ("aac", "mp3"), 40

Block = tuple[int, Float32[np.ndarray, "frames channels"]]


def open_recording(path: Path | bytes) -> FileIO | BytesIO:
    """Open a recording's file, or the bytes of one; an ``InputError`` if it is missing, empty, or may not be read."""
    if isinstance(path, bytes):
        return BytesIO(path)
    name = printable(path)
    with refusing(name, "a recording", "check its name and its permissions"):  # such as a name that is too long
        if not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
            raise InputError(f"{name}: {what}; {FORMATS}")
        if path.stat().st_size == 0:
            raise InputError(f"{name}: empty (0 bytes); {FORMATS}")
        return path.open("rb", buffering=0)


@dataclass
class Decoder:
    """Decodes an open file into blocks of (samples a second, samples of (frames, channels))."""

    name: str  # for messages
    file: FileIO | BytesIO
    promised: float = 0.0  # seconds, by the header; 0 where it promises nothing
    doubts: list[str] = field(default_factory=list)  # what is wrong; complete when all blocks were read

    def __iter__(self) -> Iterator[Block]:
        changes = groupby(self._frames(), lambda frame: (frame[0], frame[1].shape[1], frame[1].dtype))
        for i, ((rate, _, _), run) in enumerate(changes):
            if i > 0:
                self.promised = 0.0  # it was counted at the first rate
            while frames := [samples for _, samples in islice(run, FRAMES_AT_ONCE)]:
                yield rate, to_floats(np.concatenate(frames))

    def _frames(self) -> Iterator[tuple[int, np.ndarray]]:
        import av

        if sound := _open_opus(self.file):
            yield from self._opus(sound)
            return
        wav = _read_wav_header(self.file)
        damaged, seconds, size = False, 0.0, 0
        try:
            with av.open(_Bytes(self.file), metadata_errors="replace", options={"format_whitelist": FFMPEG}) as opened:
                container: Any = opened
                stream = container.streams.best("audio")
                if stream is None or stream.codec_context is None:
                    raise InputError(f"{self.name}: has no sound in a code that FFmpeg knows; {FORMATS}")
                if wav is not None:
                    self.promised, self.doubts = wav
                elif container.format.name in EXACT:
                    self.promised = float((stream.duration or 0) * (stream.time_base or 0))
                packets = container.demux(stream)
                while True:
                    try:
                        packet = next(packets, None)
                        if packet is None:
                            break
                        frames = packet.decode()
                    except av.EOFError:
                        break
                    except av.InvalidDataError:
                        damaged = True
                        continue
                    size += packet.size
                    for frame in frames:
                        seconds += frame.samples / frame.sample_rate
                        yield frame.sample_rate, _samples(frame)
                kilobits = 8 * size / 1000 / max(seconds, 1e-3) / max(stream.codec_context.channels, 1)
                if stream.codec_context.name.startswith(COARSE) and kilobits < MIN_KILOBITS:
                    self.doubts.append(f"is compressed to {kilobits:.0f} kilobits a second, which takes from the voice")
        except InputError:  # a ValueError too
            raise
        except (av.FFmpegError, OSError, ValueError, LookupError, NotImplementedError) as error:
            if not seconds:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"{self.name}: not an audio file that can be read ({reason}); {FORMATS}") from error
            damaged = True  # from here on nothing can be read
        if not seconds:
            raise InputError(f"{self.name}: has no sound that can be read; {FORMATS}")
        if damaged:
            self.doubts.append(DAMAGED)

    def _opus(self, sound: Any) -> Iterator[tuple[int, np.ndarray]]:
        import soundfile

        with sound:
            try:
                # half a second at a time: samples that libsndfile gives, and so stored embeddings, depend on it
                while len(block := sound.read(sound.samplerate // 2, "float32", always_2d=True)):
                    yield sound.samplerate, block
            except soundfile.LibsndfileError:
                self.doubts.append(DAMAGED)


def _open_opus(file: FileIO | BytesIO) -> Any:
    """An OGG file of one Opus recording, with nothing joined to it, as libsndfile reads it; None if it is no such."""
    import soundfile

    head = file.read(64)
    one = head.startswith(b"OggS") and b"OpusHead" in head and (head + file.read()).count(b"OpusHead") == 1
    file.seek(0)
    try:
        return soundfile.SoundFile(file) if one else None
    except soundfile.LibsndfileError:
        file.seek(0)
        return None


class _Bytes:
    """A file without its name: in "10:30.wav" FFmpeg would take "10" for a protocol."""

    def __init__(self, file: FileIO | BytesIO) -> None:
        self.read, self.tell, self._file = file.read, file.tell, file

    def seek(self, place: int, whence: int = 0) -> int:
        try:
            return self._file.seek(place, whence)
        except (OSError, ValueError):  # before the file's beginning; PyAV would print a traceback
            return -1


def _samples(frame: Any) -> np.ndarray:
    channels, kind = frame.layout.nb_channels, KINDS[frame.format.name.removesuffix("p")]
    if not frame.format.is_planar:
        return np.frombuffer(frame.planes[0], kind, frame.samples * channels).reshape(-1, channels)
    # of eight channels and more PyAV counts planes beyond the last; its own to_ndarray would read them: a crash
    return np.stack([np.frombuffer(plane, kind, frame.samples) for plane in frame.planes[:channels]], 1)


def to_floats(samples: Shaped[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Samples of any kind as float32, where integers lie in [-1, 1]; unsigned bytes have their zero at 128.

    Example:
        >>> to_floats(np.array([-32768, 16384], np.int16)), to_floats(np.array([0, 192], np.uint8))
        (array([-1. ,  0.5], dtype=float32), array([-1. ,  0.5], dtype=float32))
    """
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    raise InputError(f"samples of type {samples.dtype}: expected floats in [-1, 1] or signed integers")


def _read_wav_header(file: FileIO | BytesIO) -> tuple[float, list[str]] | None:
    """The seconds that a WAV's header promises, and what is wrong with the header; None for other files.

    FFmpeg corrects a wrong header without a word. The seconds are 0 where the header was written before the length was
    known, as into a pipe.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    seconds, doubts, bytes_a_second = 0.0, [], 0
    is_wav = file.read(12)[::8] == b"RW"  # RIFF....WAVE
    while is_wav and len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        begin = file.tell()
        end = min(begin + length + length % 2, size)
        if name == b"fmt " and end - begin >= 16:
            code, channels, rate, bytes_a_second, block, bits = struct.unpack("<HHIIHH", file.read(16))
            if code in (1, 3) and (block != channels * bits // 8 or bytes_a_second != rate * block):
                doubts.append("has a header that contradicts itself; it may be heard at a wrong pitch")
        file.seek(end)
        if name != b"data":
            continue
        if length == 0 and begin < size:
            doubts.append("has a header that was never finished; read to its end")
        elif length < 2**31 - 2**16 and bytes_a_second and not doubts:  # longer: it was not known yet
            seconds = length / bytes_a_second
            behind = file.read(4)  # another chunk's name, filling, or sound
            if len(behind) == 4 and any(behind) and not all(32 <= sign < 127 for sign in behind):
                doubts.append("holds more than its header says, which was not heard")
        break
    file.seek(0)
    return (seconds, doubts) if is_wav else None
