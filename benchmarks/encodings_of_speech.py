"""The same voice in 60 encodings: whose identity is heard, and is anything said where it is another's?

    python benchmarks/encodings_of_speech.py      # writes benchmarks/results/encodings.csv; 3 minutes of one core

Each of 20 validation persons' recordings, one after the other, is written in each encoding by FFmpeg and heard as a
user's recording is. Told are the cosine with the identity of the clean 16 kHz recording (mean and least), and in how
many an AudioWarning was given.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from jaxtyping import Float32
from torch import Tensor
from tqdm import tqdm

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.identity.aligner import Aligner
from v2f_core.pipeline import hear
from v2f_core.speech.audio import SAMPLE_RATE, AudioWarning
from v2f_core.speech.encoders import load_encoder

PERSONS = 20
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


def encode(wave: Wave, how: Encoding, folder: Path) -> bytes:
    """A 16 kHz recording as the bytes of a file. It is brought to another rate in its spectrum, without a filter."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    samples = np.tile(at_rate(wave, how.rate), (how.channels, 1))
    layout, path = ("mono", "stereo")[how.channels - 1], folder / f"voice{how.suffix}"
    if how.codec == "libsndfile":
        soundfile.write(path, samples.T, how.rate, format="OGG", subtype="VORBIS")
        return path.read_bytes()
    with av.open(str(path), "w", format=how.container or None) as file:
        stream = file.add_stream(how.codec, rate=how.rate, layout=layout)
        if how.kilobits:
            stream.bit_rate = round(1000 * how.kilobits)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
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
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    listener = Listener()
    voices = listener.voices(chosen.persons)
    clean = [listener.identity(voice)[0] for voice in voices]
    table = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heard"
        for name, how in tqdm(ENCODINGS.items(), desc="encodings"):
            cosines, said = [], []
            for voice, own in zip(voices, clean, strict=True):
                path.write_bytes(encode(voice, how, Path(folder)))
                identity, warned = listener.identity(path)
                cosines.append(float(identity @ own))
                said.append(warned)
            silent = [cosine for cosine, warned in zip(cosines, said, strict=True) if not warned]
            table.append(
                {
                    "encoding": name,
                    "cosine": float(np.mean(cosines)),
                    "least": min(cosines),
                    "warned": float(np.mean([bool(warned) for warned in said])),
                    "least without a warning": min(silent, default=float("nan")),
                }
            )
    frame = pd.DataFrame(table)
    with atomic_write(chosen.out / "encodings.csv") as part:
        frame.to_csv(part, index=False, float_format="%.4f")
    print(frame.round(3).to_string())


if __name__ == "__main__":
    main()
