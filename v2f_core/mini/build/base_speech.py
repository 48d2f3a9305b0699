"""Stage ``base_speech``: every timbre says its sentences; WORLD's analysis and the calibration are stored beside."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tqdm import tqdm

from v2f_core.files import atomic_write
from v2f_core.mini.build.voice import world_vocoder
from v2f_core.mini.build.voice.calibrate import calibrate
from v2f_core.mini.build.voice.kokoro import RATE, REFERENCES, Kokoro, Timbre, timbre
from v2f_core.mini.build.voice.speaker import TABLE

# pool -> (timbres, half of them women's; sentences of each): about 20 minutes of one core
TIMBRES: Final = {"minivox": (80, 4), "voices": (40, 5)}
FIXTURE: Final = Path(__file__).parent / "voice" / "fixture"


def run(work: Path, tiny: bool = False) -> None:
    """Write base speech (24 kHz FLAC), its analysis and ``POOL/timbres.json``; an interrupted run is resumed.

    Args:
        work: scratch folder; results go to ``work/base_speech``.
        tiny: take the few timbres of the committed fixture instead of synthesising.

    Raises:
        InputError: an ingredient cannot be fetched, or is not the expected file.
    """
    folder = work / "base_speech"
    if tiny:
        shutil.copytree(FIXTURE, folder, dirs_exist_ok=True)
        _analyse(folder)
        return
    timbres = _speak(work, folder)
    _analyse(folder)
    said = {
        (f"{one.name}-{pool}", sentence): world_vocoder.load(_file(folder, pool, one, sentence, ".npz"))
        for pool, several in timbres.items()
        for one in several
        for sentence in one.sentences
    }
    own = calibrate(said, [f"{one.name}-minivox" for one in timbres["minivox"][:REFERENCES]])
    for pool, several in timbres.items():
        rows = [asdict(one) | own[f"{one.name}-{pool}"]._asdict() for one in several]
        with atomic_write(folder / pool / TABLE) as temporary:
            temporary.write_text(json.dumps(rows, indent=1))


def _file(folder: Path, pool: str, one: Timbre, sentence: int, suffix: str) -> Path:
    return folder / pool / f"{one.name}_{sentence:02d}{suffix}"


def _speak(work: Path, folder: Path) -> dict[str, list[Timbre]]:
    """Synthesise what is missing."""
    import soundfile

    from v2f_core.mini.build.voice.ingredients import fetch

    kokoro = Kokoro(fetch(work))
    timbres: dict[str, list[Timbre]] = {pool: [] for pool in TIMBRES}
    # the references first: everything is calibrated against them; then what pre-training waits for
    order = [("minivox", index) for index in range(REFERENCES)]
    order += [("voices", index) for index in range(TIMBRES["voices"][0])]
    order += [("minivox", index) for index in range(REFERENCES, TIMBRES["minivox"][0])]
    for pool, index in tqdm(order, desc="base speech", unit="timbre"):
        one = timbre(pool, index, kokoro.voices, TIMBRES[pool][1])
        timbres[pool].append(one)
        for sentence in one.sentences:
            file = _file(folder, pool, one, sentence, ".flac")
            if not file.exists():
                with atomic_write(file) as temporary:
                    soundfile.write(temporary, kokoro.say(one, sentence), RATE, subtype="PCM_16")
    return timbres


def _analyse(folder: Path) -> None:
    """Analyse every sentence that has no analysis yet."""
    import soundfile

    todo = [f for f in sorted(folder.glob("*/[fm]*.*")) if f.suffix in (".flac", ".ogg")]
    for file in tqdm(todo, desc="WORLD analysis", unit="sentence"):
        if not file.with_suffix(".npz").exists():
            wave, _ = soundfile.read(file, dtype="float32")
            world_vocoder.store(file.with_suffix(".npz"), world_vocoder.analyse(wave))


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
