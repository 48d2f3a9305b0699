"""``python -m v2f_core generate VOICE.wav``: faces as PNGs, a contact sheet, and a JSON of how they were made."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.provenance import SYNTHETIC, folder_hash, versions
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

    from v2f_core.artefacts.profiles import Profile
    from v2f_core.pipeline import Vox2FacePipeline


WHOM = {
    True: "identities drawn from p(z | v), one a face: persons who could have this voice",
    False: "the point estimate of the identity, on every face",
}


def generate(
    voice: str | Path,
    num_images: int = 4,
    seed: int = 0,
    out: str | Path = "outputs/generate",
    profile: str | Profile | None = None,
    pipeline: Vox2FacePipeline | None = None,
    device: str = "cpu",
    truncation: float | int = 1.0,
) -> Path:
    """Draw faces for a recording into a folder; on any error the folder stays as it was.

    Writes ``<name>_<i>.png`` (image i has seed ``seed + i``), ``<name>_sheet.png`` and ``<name>.json``, where name is
    the recording's. What it did, and what it thinks of the recording, is told on stdout and stderr.

    Args:
        voice: the recording.
        num_images: how many faces.
        seed: of the first face.
        out: folder; made if missing.
        profile: name of a profile, or a profile.
        pipeline: use this one instead of loading the profile's.
        device: where to put the profile's.
        truncation: 1 draws another identity for each face from p(z | v), 0 shows the point estimate on all.
    Returns:
        the path of the JSON.
    Raises:
        InputError: the recording, the profile, its parts or the folder cannot be used.
    """
    from v2f_core.artefacts.profiles import Profile, load_profile
    from v2f_core.identity.posterior import check_truncation
    from v2f_core.speech.activity import read_speech
    from v2f_core.speech.audio import AudioWarning

    voice, out = Path(voice), Path(out)
    chosen = profile if isinstance(profile, Profile) else load_profile(profile)
    check_truncation(truncation)
    check_writable(out)
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        windows, found = read_speech(voice, chosen.clip_seconds)  # a bad recording fails before any model is loaded
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, AudioWarning)]
    before, after = found.left_out
    if before or after:
        notes.append(f"{voice}: {before:.2f} s before and {after:.2f} s after the speech were left out")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    heard = time.perf_counter()

    import torch
    from transformers.utils import logging

    from v2f_core.pipeline import Vox2FacePipeline

    logging.disable_progress_bar()  # the bar over loading weights is no news to who asks for faces
    weights = {part: folder_hash(chosen.part(part)) for part in (chosen.encoder, chosen.last_stage, "prior")}
    pipe = pipeline or Vox2FacePipeline.from_profile(chosen, device)
    loaded = time.perf_counter()
    seeds = [seed + i for i in range(num_images)]
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    result = pipe(windows, num_images=num_images, truncation=truncation, generator=generators)
    drawn = time.perf_counter()
    if result.truncation != truncation:
        notes.append("no posterior: all faces are of the point estimate")

    made = {
        "weights_sha256": weights,
        "guidance": pipe.config["guidance"],
        "steps": pipe.config["num_steps"],
        "truncation": result.truncation,
    }
    names = [f"{voice.stem}_{i}.png" for i in range(num_images)]
    with staged(out) as stage:
        for name, image, s in zip(names, result.images, seeds, strict=True):
            image.save(stage / name, pnginfo=png_text({**made, "seed": s}))
        sheet = f"{voice.stem}_sheet.png"
        contact_sheet(
            stage / sheet, voice.name, windows[::2].flatten().numpy(), result.images, seeds, {**made, "seeds": seeds}
        )
        report = {
            "notice": SYNTHETIC,
            "voice": {
                "file": voice.name,
                "sha256": sha256(voice),
                "windows": result.windows,
                "seconds": round(found.seconds, 2),
                "left_out": [round(before, 2), round(after, 2)],
                "speech": round(found.speech, 2),
                "snr_db": round(found.snr, 1) if found.speech else None,
            },
            "profile": chosen.name,
            **made,
            "images": [
                {"file": name, "seed": s, "identity": [round(float(x), 7) for x in z]}
                for name, s, z in zip(names, seeds, result.identities, strict=True)
            ],
            "sheet": sheet,
            "faces_show": WHOM[result.truncation > 0],
            "identity": [round(float(x), 7) for x in result.identity],
            "seconds": {
                "read": round(heard - began, 3),
                "load": round(loaded - heard, 3),
                "draw": round(drawn - loaded, 3),
            },
            "notes": notes,
            "versions": versions("v2f-core", "torch", "diffusers", "transformers"),
        }
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (stage / f"{voice.stem}.json").write_text(text, encoding="utf-8")
    print(f"{num_images} faces of {voice.name} ({result.windows} windows heard): {out / sheet}")
    return out / f"{voice.stem}.json"


def png_text(made: dict[str, Any]) -> PngInfo:
    """The text chunks of a generated picture: that it is synthetic, made by which weights and seed, of nobody.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 2)).save(file, "PNG", pnginfo=png_text({"seed": 7}))
        >>> sorted(Image.open(file).text)
        ['Description', 'Software', 'Source', 'v2f_core']
        >>> Image.open(file).text["v2f_core"]
        '{"synthetic": true, "seed": 7}'
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in png_fields(made).items():
        info.add_text(key, value)
    return info


def png_fields(made: dict[str, Any]) -> dict[str, str]:
    """The same text as a dictionary, for figures that matplotlib writes."""
    return {
        "Description": SYNTHETIC,
        "Software": f"v2f-core {versions('v2f-core')['v2f-core']}",
        "Source": "a generative model (Vox2Face)",
        "v2f_core": json.dumps({"synthetic": True, **made}),
    }


def contact_sheet(
    path: Path, label: str, wave: Any, images: Sequence[Any], seeds: Sequence[int], made: dict[str, Any]
) -> None:
    """One picture with the voice and all its faces."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from v2f_core.show.plots import GalleryRow, gallery

    row = GalleryRow(label, wave, [np.asarray(image) for image in images], captions=[f"seed {s}" for s in seeds])
    figure = gallery([row])
    figure.savefig(path, metadata=png_fields(made))
    plt.close(figure)


def check_writable(folder: Path) -> None:
    """Make sure that a folder can be made or written to, without making it.

    Raises:
        InputError: it cannot, or it is a file.

    Example:
        >>> check_writable(Path(__file__) / "faces")
        Traceback (most recent call last):
        v2f_core.errors.InputError: ...generate.py: a file, not a folder; choose another folder with --out
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there}: a file, not a folder; choose another folder with --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: no permission to write here; choose another folder with --out")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a temporary folder whose files move into ``folder`` together when the block ends well, else vanish.

    Raises:
        InputError: the folder cannot be written to.

    Example:
        >>> target = Path(tempfile.mkdtemp()) / "faces"
        >>> with staged(target) as stage:
        ...     _ = (stage / "0.png").write_bytes(b"whole")
        >>> [path.name for path in target.iterdir()]
        ['0.png']
    """
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as name:
            yield Path(name)
            for path in sorted(Path(name).iterdir()):
                path.replace(folder / path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another with --out") from error
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
