"""``python -m v2f_core generate VOICE.wav``: faces as PNGs, a contact sheet, and a JSON of how they were made."""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from v2f_core.artefacts.files import (
    SYNTHETIC,
    check_writable,
    folder_hash,
    png_text,
    printable,
    safe_name,
    sha256,
    staged,
    versions,
    write_json,
)
from v2f_core.artefacts.profiles import Profile
from v2f_core.data.packed import unpacked_folder
from v2f_core.errors import InputError
from v2f_core.identity.posterior import check_truncation
from v2f_core.pipeline import Vox2FaceOutput, Vox2FacePipeline
from v2f_core.show.plots import GalleryRow, gallery
from v2f_core.speech.audio import AudioWarning, hear

DRAWS = "identities drawn from p(z | v), one a face: persons who could have this voice"
ESTIMATE = "the point estimate of the identity, on every face"
LONGEST_LABEL = 40  # signs of a recording's name on the contact sheet


def generate(
    voice: Path,
    num_images: int,
    seed: int,
    out: Path,
    profile: Profile,
    device: str = "cpu",
    truncation: float | int = 1.0,
    encoder: str | None = None,
) -> Path:
    """Draw faces for a recording into a folder; on any error the folder stays as it was.

    Writes ``<name>_<i>.png``, ``<name>_estimate.png`` (the face of ẑ, where the others show draws),
    ``<name>_sheet.png`` and ``<name>.json``, whose path it returns. Doubts about the recording are printed on stderr
    and stand in the JSON. Without ``encoder`` the profile's hears the dataset's recordings, ``own_voices`` all others.

    Raises:
        InputError: the recording, the profile, its parts or the folder cannot be used.
    """
    profile.must_draw()
    dataset = unpacked_folder(packed=profile.dataset) if profile.dataset_is_packed else profile.dataset
    of_dataset = voice.resolve().is_relative_to(dataset.resolve())
    profile = profile.with_encoder(encoder or (None if of_dataset else profile.own_voices))
    check_truncation(truncation)
    check_writable(out)
    clock = [time.perf_counter()]
    windows, heard, notes = listen(voice, profile.clip_seconds)  # a bad recording fails before any model is loaded
    clock.append(time.perf_counter())
    made = provenance(profile)
    pipe = Vox2FacePipeline.from_profile(profile, device)
    clock.append(time.perf_counter())
    name, digest = printable(voice.name), sha256(voice)
    seeds = image_seeds(digest, seed, num_images)
    result, estimate = draw_faces(pipe, windows, seeds, truncation)
    clock.append(time.perf_counter())
    made["truncation"] = result.truncation

    with staged(out) as stage:
        stem = result_name(out, voice, digest)
        if stem != voice.stem:
            why = "is no safe name, or other files have it"
            print(f"note: {printable(voice.stem)} {why}: the faces are {stem}_*.png", file=sys.stderr)
        images = []
        for i, (image, s, z) in enumerate(zip(result.images, seeds, result.identities, strict=True)):
            image.save(stage / f"{stem}_{i}.png", pnginfo=png_text({**made, "seed": s}))
            images.append({"file": f"{stem}_{i}.png", "seed": s, "identity": z.double().numpy().round(7).tolist()})
        if estimate is not None:
            estimate.save(stage / f"{stem}_estimate.png", pnginfo=png_text({**made, "truncation": 0, "seed": seeds[0]}))
        label = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
        save_gallery([line(label, windows, result, estimate)], stage / f"{stem}_sheet.png", {**made, "seeds": seeds})
        report = {
            "notice": SYNTHETIC,
            "voice": {"file": name, "sha256": digest, "windows": result.windows, **heard},
            "profile": profile.name,
            "encoder": profile.encoder,
            **made,
            "faces_show": DRAWS if result.truncation else ESTIMATE,
            "images": images,
            "sheet": f"{stem}_sheet.png",
            "identity": result.identity.double().numpy().round(7).tolist(),
            "seconds": dict(zip(("read", "load", "draw"), np.diff(clock).round(3).tolist(), strict=True)),
            "notes": notes,
            "versions": versions("v2f-core", "torch", "diffusers", "transformers"),
        }
        write_json(stage / f"{stem}.json", report)
    print(f"{num_images} faces of {name} ({result.windows} windows heard): {out / f'{stem}_sheet.png'}")
    return out / f"{stem}.json"


def image_seeds(digest: str, seed: int, count: int) -> list[int]:
    """The seed of each face: with one ``seed`` for all, recordings of another SHA-256 ``digest`` get other persons."""
    return [int(digest[:8], 16) + seed + i for i in range(count)]


def draw_faces(
    pipe: Vox2FacePipeline,
    windows: Float32[Tensor, "windows clip"],
    seeds: Sequence[int],
    truncation: float | int = 1.0,
) -> tuple[Vox2FaceOutput, Image.Image | None]:
    """A face for each seed, and the face of ẑ under the first seed where the others show draws."""
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    result = pipe(windows, num_images=len(seeds), truncation=truncation, generator=generators)
    if result.truncation == 0:
        return result, None
    estimate = pipe(windows, num_images=1, truncation=0, generator=torch.Generator().manual_seed(seeds[0]))
    return result, estimate.images[0]


def listen(path: Path, seconds: float) -> tuple[Float32[Tensor, "windows clip"], dict[str, Any], list[str]]:
    """A recording's windows, what was measured in it, and its doubts as lines, which are printed on stderr too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AudioWarning)
        windows, activity = hear(path, seconds)
    assert activity is not None  # it is for windows already cut
    doubts = [str(warning.message) for warning in caught if issubclass(warning.category, AudioWarning)]
    if any(activity.left_out):
        parts = "{:.2f} s before, {:.2f} s between and {:.2f} s after the speech were left out"
        doubts.append(parts.format(*activity.left_out))
    name = printable(path)
    notes = [f"{name}: {doubt.removeprefix(f'{name}: ')}" for doubt in doubts]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    heard = {
        "seconds": round(activity.seconds, 2),
        "left_out": [round(seconds, 2) for seconds in activity.left_out],
        "speech": round(activity.speech, 2),
        "snr_db": round(activity.snr, 1) if activity.speech else None,
        "band_hz": round(activity.band) if activity.speech else None,
    }
    return windows, heard, notes


def provenance(profile: Profile) -> dict[str, Any]:
    """What a drawn face is made by, other than its seed: hashes of encoder, aligner, prior and posterior."""
    weights = {part: folder_hash(profile.part(part)) for part in (profile.encoder, profile.last_stage, "prior")}
    if posterior := profile.posterior_of(profile.last_stage):
        weights["posterior"] = folder_hash(posterior)
    return {"weights_sha256": weights, "guidance": profile.guidance, "steps": profile.steps}


def line(
    label: str,
    windows: Float32[Tensor, "windows clip"],
    result: Vox2FaceOutput,
    estimate: Image.Image | None,
    photo: np.ndarray | None = None,
) -> GalleryRow:
    """A recording's line of a gallery: what overlapping windows were cut from, the face of ẑ, the others."""
    pictures = [np.asarray(image) for image in (*([estimate] if estimate else []), *result.images)]
    captions = ["ẑ, the point estimate"] if estimate else []
    captions += [f"face {i}" for i in range(len(result.images))]
    return GalleryRow(label, windows[::2].flatten().numpy(), pictures, photo, captions)


def save_gallery(rows: Sequence[GalleryRow], path: Path, made: dict[str, Any], title: str = "") -> None:
    """A picture with one line a recording: voice → true face | generated faces, labelled as synthetic."""
    plt.switch_backend("Agg")
    figure = gallery(rows, title)
    figure.savefig(path, pil_kwargs={"pnginfo": png_text(made)})
    plt.close(figure)


def result_name(folder: Path, recording: Path, digest: str) -> str:
    """The beginning of the names of a recording's results.

    Only the recording's own earlier results are overwritten: where other files have its name, digits of its SHA-256,
    ``digest``, are added; an ``InputError`` where other files have every such name.
    """
    name = safe_name(recording.stem)
    for stem in (name, f"{name}-{digest[:8]}", f"{name}-{digest}"):
        form = re.compile(rf"{re.escape(stem)}(_\d+\.png|_estimate\.png|_sheet\.png|\.json)", re.IGNORECASE)
        if not any(form.fullmatch(path.name) for path in folder.iterdir()):
            return stem
        with suppress(OSError, ValueError, LookupError, TypeError):
            report = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
            if report["voice"]["sha256"] == digest:
                return stem
    raise InputError(f"{folder}: other files are named {name}-{digest}; choose another folder with --out")
