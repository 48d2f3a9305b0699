"""The same voice in 67 encodings: whose identity is heard, and is anything said where it is another's?

    python benchmarks/encodings_of_speech.py      # writes benchmarks/results/encodings.csv; 1 minute of one core

Each of four validation persons' recordings, one after the other, is written in each encoding by FFmpeg and heard as a
user's recording is. Told are the cosine with the identity of the clean 16 kHz recording (mean and least), and in how
many an AudioWarning was given.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from jaxtyping import Float32
from torch import Tensor
from tqdm import tqdm

import minivox
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.audio import SAMPLE_RATE, AudioWarning, hear
from v2f_core.speech.encoders import load_encoder

PERSONS = 4
Wave = Float32[np.ndarray, " samples"]


@dataclass(frozen=True)
class Encoding:
    """How FFmpeg is to write a recording.

    Attributes:
        suffix: of the file; names the container too, unless ``container`` does.
        codec: FFmpeg's name of the encoder; "libsndfile" for Vorbis, which FFmpeg writes badly.
        rate: samples a second.
        kilobits: a second; 0 leaves it to the encoder.
        channels: 1, or 2 with the same sound in both.
        container: FFmpeg's name of the container.
    """

    suffix: str
    codec: str
    rate: int = SAMPLE_RATE
    kilobits: float = 0
    channels: int = 1
    container: str = ""


def _encodings() -> dict[str, Encoding]:
    chosen = {}
    for codec in ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"):
        chosen[f"WAV {codec}"] = Encoding(".wav", codec)
    for rate in (8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000):
        chosen[f"WAV {rate} Hz"] = Encoding(".wav", "pcm_s16le", rate)
    chosen |= {
        "WAV stereo": Encoding(".wav", "pcm_s16le", channels=2),
        "WAV mu-law 8,000 Hz": Encoding(".wav", "pcm_mulaw", 8_000),
        "WAV ADPCM": Encoding(".wav", "adpcm_ms"),
        "WAV IMA ADPCM": Encoding(".wav", "adpcm_ima_wav"),
        "RF64": Encoding(".w64", "pcm_s16le"),
        "AIFF": Encoding(".aiff", "pcm_s16be"),
        "AU": Encoding(".au", "pcm_s16be"),
        "CAF ALAC": Encoding(".caf", "alac", 44_100),
        "FLAC": Encoding(".flac", "flac"),
        "FLAC 44,100 Hz": Encoding(".flac", "flac", 44_100, channels=2),
        "WavPack": Encoding(".wv", "wavpack"),
        "TTA": Encoding(".tta", "tta"),
        "AMR": Encoding(".amr", "libopencore_amrnb", 8_000, 12.2),
        "G.722 WAV": Encoding(".wav", "g722", 16_000, container="wav"),
        "MP2 128k": Encoding(".mp2", "mp2", 44_100, 128),
        "AC-3 96k": Encoding(".ac3", "ac3", 48_000, 96),
        "WMA 64k": Encoding(".wma", "wmav2", 44_100, 64, channels=2, container="asf"),
        "WMA 128k": Encoding(".wma", "wmav2", 44_100, 128, channels=2, container="asf"),
        "FLV AAC": Encoding(".flv", "aac", 44_100, 96),
        "MPEG-TS AAC": Encoding(".ts", "aac", 44_100, 96, container="mpegts"),
        "MPEG-TS MP2": Encoding(".ts", "mp2", 48_000, 96, container="mpegts"),
        "AVI MP3": Encoding(".avi", "libmp3lame", 44_100, 64),
        "AVI PCM": Encoding(".avi", "pcm_s16le"),
        "MOV PCM": Encoding(".mov", "pcm_s16le"),
        "MOV ALAC": Encoding(".mov", "alac", 48_000, channels=2),
        "Matroska FLAC": Encoding(".mkv", "flac"),
        "Ogg Vorbis": Encoding(".ogg", "libsndfile"),
        "Ogg Vorbis 44,100 Hz": Encoding(".ogg", "libsndfile", 44_100, channels=2),
        "FLAC in Ogg": Encoding(".oga", "flac", container="ogg"),
    }
    for kilobits, rate in ((16, 16_000), (32, 16_000), (32, 44_100), (64, 44_100), (128, 44_100), (320, 48_000)):
        chosen[f"MP3 {kilobits}k {rate} Hz"] = Encoding(".mp3", "libmp3lame", rate, kilobits)
    for kilobits in (8, 12, 16, 24, 32, 64, 128):
        chosen[f"Ogg Opus {kilobits}k"] = Encoding(".ogg", "libopus", 48_000, kilobits)
    for kilobits, rate in ((24, 16_000), (32, 22_050), (48, 44_100), (64, 44_100), (96, 48_000), (192, 48_000)):
        chosen[f"M4A AAC {kilobits}k {rate} Hz"] = Encoding(".m4a", "aac", rate, kilobits, container="mp4")
    chosen["AAC 64k"] = Encoding(".aac", "aac", 44_100, 64, container="adts")
    chosen["WebM Opus 32k"] = Encoding(".webm", "libopus", 48_000, 32)
    chosen["WebM Opus 64k"] = Encoding(".webm", "libopus", 48_000, 64)
    return chosen


ENCODINGS = _encodings()
_PAUSE, _FLOAT = 10 * SAMPLE_RATE, Encoding(".wav", "pcm_f32le")
_STEREO = replace(_FLOAT, channels=2)
# what else may differ: how it is written, and what is done to the voice before
CHANGES: dict[str, tuple[Encoding, Callable[[Wave], np.ndarray]]] = {
    "45 dB fainter": (_FLOAT, lambda wave: wave * 10 ** (-45 / 20)),
    "6 dB louder, clipped": (_FLOAT, lambda wave: (2 * wave).clip(-1, 1)),
    "a constant of 0.2": (_FLOAT, lambda wave: wave + 0.2),
    "10 s of silence inside": (_FLOAT, lambda wave: np.insert(wave, len(wave) // 2, np.zeros(_PAUSE))),
    "10 s of silence at each end": (_FLOAT, lambda wave: np.pad(wave, _PAUSE)),
    "stereo, one channel silent": (_STEREO, lambda wave: np.stack([0 * wave, wave])),
    "stereo, one channel inverted": (_STEREO, lambda wave: np.stack([wave, -wave])),
    "stereo, one channel 0.5 ms later": (_STEREO, lambda wave: np.stack([wave, np.roll(wave, 8)])),
    "stereo, another talker in one channel": (_STEREO, lambda wave: np.stack([wave, other_talker(len(wave))])),
}


def other_talker(samples: int) -> Wave:
    """The voice of another synthesiser."""
    return np.resize(soundfile.read(Path(minivox.__file__).parent / "other_voice.ogg", dtype="float32")[0], samples)


def encode(wave: np.ndarray, how: Encoding, folder: Path) -> bytes:
    """A 16 kHz recording of (samples,) or (channels, samples) as the bytes of a file.

    It is brought to another rate in its spectrum, without a filter.
    """
    import av

    folder.mkdir(parents=True, exist_ok=True)
    samples = np.tile(at_rate(wave, how.rate), (how.channels, 1)) if wave.ndim == 1 else wave
    layout, path = ("mono", "stereo")[how.channels - 1], folder / f"voice{how.suffix}"
    if how.codec == "libsndfile":
        soundfile.write(path, samples.T, how.rate, format="OGG", subtype="VORBIS")
        return path.read_bytes()
    with av.open(str(path), "w", format=how.container or None) as file:
        stream = file.add_stream(how.codec, rate=how.rate, layout=layout)
        if how.kilobits:
            stream.bit_rate = round(1000 * how.kilobits)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = how.rate, Fraction(1, how.rate)
        stream.open()
        convert = av.AudioResampler(format=stream.format.name, layout=layout, rate=how.rate)
        fifo = av.AudioFifo()
        for part in convert.resample(frame):
            fifo.write(part)
        while part := fifo.read(stream.frame_size or 1024) or fifo.read():
            for packet in stream.encode(part):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path.read_bytes()


def at_rate(wave: Wave, rate: int) -> Wave:
    """The same band-limited sound at another rate."""
    if rate == SAMPLE_RATE:
        return wave
    samples = round(len(wave) * rate / SAMPLE_RATE)
    return (np.fft.irfft(np.fft.rfft(wave.astype(float)), samples) * samples / len(wave)).astype(np.float32).clip(-1, 1)


class Listener:
    """The miniature's ears: a recording in, ẑ out."""

    def __init__(self) -> None:
        profile = load_profile("mini")
        self.manifest = open_dataset(profile)
        self.encoder = load_encoder(profile.encoder, profile.part(profile.encoder), profile.ast_frames)
        self.aligner = Aligner.from_pretrained(profile.part("aligner"))

    def voices(self, persons: int) -> list[Wave]:
        """All recordings of each of the first validation persons, one after the other."""
        rows = self.manifest.voices("val")
        return [
            np.concatenate([soundfile.read(path, dtype="float32")[0] for path in self.manifest.absolute(group)])
            for _, group in list(rows.groupby("person"))[:persons]
        ]

    @torch.no_grad()
    def identity(self, voice: str | Path | Wave) -> tuple[Float32[Tensor, 512], list[str]]:
        """ẑ, and the AudioWarnings that were given."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            windows, _ = hear(voice)
            identity = self.aligner(self.encoder.embed(windows).mean(0))
        return identity, [str(warning.message) for warning in caught if warning.category is AudioWarning]


def main(arguments: list[str] | None = None) -> None:
    """Encode, hear, compare, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--persons", type=int, default=PERSONS)
    parser.add_argument(
        "--only", default="", help="measure the encodings again whose names contain this; keep the others"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    listener = Listener()
    voices = listener.voices(chosen.persons)
    clean = [listener.identity(voice)[0] for voice in voices]
    results, rows = chosen.out / "encodings.csv", {}
    if chosen.only:
        rows = {row["encoding"]: row for row in pd.read_csv(results).to_dict("records")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heard"
        ways = {name: (how, lambda wave: wave) for name, how in ENCODINGS.items()} | CHANGES
        for name in tqdm([name for name in ways if chosen.only in name], desc="encodings"):
            how, change = ways[name]
            cosines, said = [], []
            for voice, own in zip(voices, clean, strict=True):
                path.write_bytes(encode(change(voice), how, Path(folder)))
                identity, warned = listener.identity(path)
                cosines.append(float(identity @ own))
                said.append(warned)
            rows[name] = {
                "encoding": name,
                "cosine": float(np.mean(cosines)),
                "least": min(cosines),
                "warned": float(np.mean([bool(warned) for warned in said])),
            }
            frame = pd.DataFrame(rows[name] for name in ways if name in rows)
            with atomic_write(results) as part:
                frame.to_csv(part, index=False, float_format="%.4f")
    print(frame.round(3).to_string())


if __name__ == "__main__":
    main()
