"""Opening a sound file: its rate, the frames that its header promises, and what it holds, block by block."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from v2f_core.errors import InputError

BLOCKS_A_SECOND = 2  # small, since a damaged file is used up to its last whole block
FORMATS = "give a WAV, FLAC, OGG, MP3 or M4A file"
# of FFmpeg's formats some that hold sound: no playlist, which leads to other files, and nothing that is guessed
FFMPEG = "aac,ac3,amr,ape,asf,avi,caf,flv,matroska,mov,mpegts,tta,wv"


def open_recording(path: Path) -> FileIO:
    """Open a recording's file, to be given to :func:`decode`.

    Raises:
        InputError: it is missing, a folder, empty, or may not be read.

    Example:
        >>> open_recording(Path("voice.wav"))
        Traceback (most recent call last):
        v2f_core.errors.InputError: voice.wav: no such file; give a WAV, FLAC, OGG, MP3 or M4A file
    """
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


def decode(path: Path, file: FileIO) -> tuple[int, int, Iterator[np.ndarray]]:
    """The samples a second, the frames that the header promises, and blocks of (frames, channels).

    Raises:
        InputError: it is no sound that soundfile or PyAV can read.
    """
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
        with suppress(InputError):
            rate, _, found = _decode_with_av(path)
            return rate, 0, found  # most of these tell no length, and what FFmpeg says of it is a guess
        raise InputError(f"{path}: not an audio file that can be read ({error.error_string}); {FORMATS}") from error
    promised = max(sound.frames, promised)

    def blocks() -> Iterator[np.ndarray]:
        with sound:
            while True:
                try:
                    block = sound.read(sound.samplerate // BLOCKS_A_SECOND, dtype="float32", always_2d=True)
                except soundfile.LibsndfileError:  # damaged from here on: the tally says what is missing
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
        container: Any = av.open(str(path), options={"format_whitelist": FFMPEG})
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
            except av.FFmpegError:  # damaged from here on: the tally says what is missing
                return

    return rate, promised, blocks()
