"""Embed every window of every recording by a speech encoder, and every face by ArcFace, once.

:mod:`v2f_core.artefacts.store` keeps them. All windows of a dataset have one length, so no batch is padded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Set
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import Profile, cache_folder
from v2f_core.artefacts.store import Embeddings, extract, load
from v2f_core.data.manifest import Manifest
from v2f_core.errors import InputError
from v2f_core.identity.faces import FacePack
from v2f_core.identity.photos import read_image
from v2f_core.speech.audio import read_clips
from v2f_core.speech.encoders import SpeechEncoder, embed_windows, load_encoder
from v2f_core.training.processes import first_process_first, join, own_device

READING = "0.4"  # version of how recordings and photographs are read; a new one makes all stores anew
NO_FACE = "no face found in it; expected one face, upright and unobscured"
READY = "embeddings"  # a dataset's folder of stores, named as the profile's parts are
MAX_BAD, MAX_BAD_OWN = 0.05, 0.5  # of few files, each of which is named, more may be bad
RIVAL = 0.25  # of the largest face's area: a bystander far behind is smaller


def embed_dataset(
    profile: Profile, manifest: Manifest, device: str = "cpu", workers: int = 0, wanted: Set[str] | None = None
) -> tuple[Embeddings, Embeddings]:
    """Voices and faces of a profile's whole dataset, from the cache; missing ones are extracted first.

    The folder of a store is named after the weights and files that it was made from, so that stores are never mixed up.
    Processes of a launcher share the work. A dataset may bring its embeddings along, in its folder `READY`.

    Args:
        device, workers: where to compute, and threads that read files.
        wanted: files that are enough for now; without them, all.
    Raises:
        InputError: a part of the profile is missing or damaged, or more than `MAX_BAD` of the files are bad, of one's
            own `MAX_BAD_OWN`.
    """
    join(device)
    device = own_device(device)
    with first_process_first():
        speech, pack = profile.part(profile.encoder), profile.part("faces")
    if (manifest.root / READY).is_dir():
        return _ready(manifest, profile.encoder, speech), _ready(manifest, "faces", pack)
    length = f"{profile.clip_seconds}" + (f" {profile.ast_frames} cut" if profile.ast_frames else "")
    items = list(manifest.table.path)
    if profile.own_data:  # files of one's own change
        paths = manifest.absolute(manifest.table)
        if lost := [path for path in paths if not path.is_file()]:
            missing = f"{len(lost)} of {len(paths)} are missing"
            raise InputError(f"{lost[0]}: no such file ({missing}); mend the table or the folder")
        items += [f"{stat.st_size} {stat.st_mtime_ns}" for stat in (path.stat() for path in paths)]
    folder = store_folder("embeddings", [READING, folder_hash(speech), folder_hash(pack), length, *items])

    def ears() -> SpeechEncoder:
        return load_encoder(profile.encoder, speech, profile.ast_frames).to(device)

    eyes, max_bad = partial(FacePack.from_folder, pack, device), MAX_BAD_OWN if profile.own_data else MAX_BAD
    how: dict[str, Any] = {"workers": workers, "max_bad": max_bad, "wanted": wanted}
    voices = extract_voices(manifest, ears, speech, folder / "voices", profile.clip_seconds, **how)
    return voices, extract_faces(manifest, eyes, pack, folder / "faces", profile.own_data, **how)


def _ready(manifest: Manifest, part: str, weights: Path) -> Embeddings:
    """A store that came with a dataset, if these weights made it."""
    store = load(manifest.root / READY / part)
    if store.provenance.get("weights_sha256") != folder_hash(weights):
        raise InputError(f"{manifest.root / READY / part}: made by other weights than {weights}; take those")
    return store


def extract_voices(
    manifest: Manifest,
    load: Callable[[], SpeechEncoder],
    weights: Path,
    folder: str | Path,
    seconds: float,
    **settings: Any,
) -> Embeddings:
    """Speaker embeddings of every window (of ``seconds``) of a dataset's recordings, in a store.

    ``load`` gives the encoder; a finished store asks for none. The hash of ``weights``, its folder, goes into the
    provenance; ``settings`` are those of :func:`~v2f_core.artefacts.store.extract`.
    """
    provenance = {"what": "speaker embeddings", "weights_sha256": folder_hash(weights), "seconds": seconds}
    items, encoder = manifest.voices().path.tolist(), cache(load)
    settings |= {"describe": "voices", "decode": partial(read_clips, seconds=seconds)}
    return extract(manifest.root, items, lambda clips: embed_windows(encoder(), clips), folder, provenance, **settings)


def extract_faces(
    manifest: Manifest,
    load: Callable[[], FacePack],
    weights: Path,
    folder: str | Path,
    one_face: bool = False,
    **settings: Any,
) -> Embeddings:
    """ArcFace identities of a dataset's pictures, in a store; as :func:`extract_voices`, with the pack's folder.

    The largest face is taken; with ``one_face`` a picture whose second face has `RIVAL` of its area or more is refused.
    """
    provenance = {"what": "face identities", "weights_sha256": folder_hash(weights)}
    items, pack = manifest.faces().path.tolist(), cache(load)

    def embed(picture: UInt8[np.ndarray, "_ _ 3"]) -> Tensor | InputError:
        if one_face and len(faces := pack().detect(picture)) > 1 and faces[1].area >= RIVAL * faces[0].area:
            return InputError(f"{len(faces)} faces in it; expected one person: cut it to that person's face")
        identity, found = pack().embed([picture])
        return torch.from_numpy(identity) if found[0] else InputError(NO_FACE)

    settings |= {"describe": "faces", "decode": read_image}
    return extract(manifest.root, items, lambda pictures: list(map(embed, pictures)), folder, provenance, **settings)


def store_folder(kind: str, made_from: Iterable[str]) -> Path:
    """The cache's folder for a store, named after the hashes and files that it is made from."""
    name = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:12]
    return cache_folder() / f"{kind}-{name}"
