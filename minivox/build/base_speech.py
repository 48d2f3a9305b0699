"""Stage ``base_speech``: every timbre says its sentences; WORLD's analysis and the calibration are stored beside."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tqdm import tqdm

from minivox.build.voice.calibrate import calibrate
from minivox.build.voice.ingredients import fetch
from minivox.build.voice.kokoro import RATE, REFERENCES, Kokoro, Timbre, timbre
from minivox.build.voice.speaker import TABLE
from minivox.build.voice.world_vocoder import Analysis, analyse
from minivox.build.voice.world_vocoder import load as load_analysis
from minivox.build.voice.world_vocoder import store as store_analysis
from v2f_core.artefacts.files import atomic_write

# pool -> (timbres, half of them women's; sentences of each): about 20 minutes of one core, those of pre-training first
TIMBRES: Final = {"voices": (40, 5), "minivox": (64, 4)}
FIXTURE: Final = Path(__file__).parent / "voice" / "fixture"


def run(work: Path, tiny: bool = False) -> None:
    """Write base speech (24 kHz FLAC), its analysis and ``POOL/timbres.json``; an interrupted run is resumed.

    Args:
        work: scratch folder; results go to ``work/base_speech``.
        tiny: take one sentence of the few timbres of the committed fixture instead of synthesising.

    Raises:
        InputError: an ingredient cannot be fetched, or is not the expected file.
    """
    folder = work / "base_speech"
    if tiny:
        shutil.copytree(FIXTURE, folder, dirs_exist_ok=True)
        for table in folder.glob(f"*/{TABLE}"):
            rows = [row | {"sentences": row["sentences"][:1]} for row in json.loads(table.read_text())]
            table.write_text(json.dumps(rows))
            for row in rows:
                _analyse(table.parent / f"{row['name']}_{row['sentences'][0]:02d}.ogg")
        return
    kokoro = Kokoro(fetch(work))
    references = [timbre("minivox", index, kokoro.voices, 0) for index in range(REFERENCES)]
    reference_speech = _speak(kokoro, references, folder / "minivox")
    for pool, (count, sentences) in TIMBRES.items():
        several = [timbre(pool, index, kokoro.voices, sentences) for index in range(count)]
        own = calibrate(_speak(kokoro, several, folder / pool), reference_speech)
        rows = [asdict(one) | own[f"{one.name}-{pool}"]._asdict() for one in several]
        with atomic_write(folder / pool / TABLE) as temporary:
            temporary.write_text(json.dumps(rows, indent=1))


def _speak(kokoro: Kokoro, timbres: list[Timbre], folder: Path) -> dict[tuple[str, int], Analysis]:
    """Synthesise and analyse what is missing: (timbre's name and pool, sentence) -> analysis."""
    import soundfile

    for one in tqdm(timbres, desc=f"base speech, {folder.name}", unit="timbre"):
        for sentence in one.sentences:
            file = folder / f"{one.name}_{sentence:02d}.flac"
            if not file.exists():
                with atomic_write(file) as temporary:
                    soundfile.write(temporary, kokoro.say(one, sentence), RATE, subtype="PCM_16")
            _analyse(file)
    return {
        (f"{one.name}-{folder.name}", sentence): load_analysis(folder / f"{one.name}_{sentence:02d}.npz")
        for one in timbres
        for sentence in one.sentences
    }


def _analyse(file: Path) -> None:
    """Store a sentence's analysis beside it, once."""
    import soundfile

    if not file.with_suffix(".npz").exists():
        wave, _ = soundfile.read(file, dtype="float32")
        store_analysis(file.with_suffix(".npz"), analyse(wave))


def make_fixture(work: Path, target: Path = FIXTURE) -> None:
    """From a full run, keep one woman's and one man's timbre of each pool with three sentences, as OGG Vorbis."""
    import soundfile

    for pool in TIMBRES:
        rows = json.loads((work / "base_speech" / pool / TABLE).read_text())[:2]
        (target / pool).mkdir(parents=True, exist_ok=True)
        for row in rows:
            row["sentences"] = row["sentences"][:3]
            for sentence in row["sentences"]:
                name = f"{row['name']}_{sentence:02d}"
                wave, rate = soundfile.read(work / "base_speech" / pool / f"{name}.flac", dtype="float32")
                soundfile.write(target / pool / f"{name}.ogg", wave, rate, subtype="VORBIS", compression_level=0.6)
        (target / pool / TABLE).write_text(json.dumps(rows, indent=1) + "\n")
