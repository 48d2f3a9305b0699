"""What is embedded: every window of every recording by a speech encoder, every face by ArcFace, each once and for all.

All windows of a dataset have one length, so that no batch is padded. Where and how they are kept:
:mod:`v2f_core.training.store`; in which precision they are made: :mod:`v2f_core.training.precision`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from v2f_core.artefacts.provenance import folder_hash
from v2f_core.errors import InputError
from v2f_core.training.precision import Precision, autocast, precision_of, said
from v2f_core.training.processes import in_turn, join, own_device
from v2f_core.training.store import Embedder, Embeddings, extract

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile
    from v2f_core.data.manifest import Manifest
    from v2f_core.identity.faces import FacePack
    from v2f_core.speech.encoders import SpeechEncoder

WINDOWS_AT_ONCE = 64


def voice_embedder(encoder: SpeechEncoder, precision: Precision = "fp32") -> Embedder:
    """Embeds every window of a recording, the windows of several recordings in one batch."""
    device = next(encoder.parameters()).device if isinstance(encoder, torch.nn.Module) else torch.device("cpu")

    def embed(recordings: Sequence[Float[Tensor, "_ samples"]]) -> list[Tensor | InputError]:
        # long recordings have hundreds of windows: bound what the encoder sees at once
        parts = torch.cat(list(recordings)).split(WINDOWS_AT_ONCE)
        with autocast(precision, device):
            embedded = torch.cat([encoder.embed(part.to(device)) for part in parts])
        return list(embedded.float().split([len(windows) for windows in recordings]))

    return embed


def face_embedder(pack: FacePack) -> Embedder:
    """Embeds the largest face of a picture; one that shows no face is a bad item."""

    def embed(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Tensor | InputError]:
        identities = [pack.embed([picture]) for picture in pictures]
        missed = InputError("no face found in it; expected one face, upright and unobscured")
        return [torch.from_numpy(identity) if seen[0] else missed for identity, seen in identities]

    return embed


def read_image(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """A picture as RGB.

    Raises:
        InputError: the file is missing, damaged or no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.ascontiguousarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture; expected a JPEG, PNG or WebP file") from error


def extract_voices(
    manifest: Manifest,
    encoder: SpeechEncoder,
    weights: Path,
    folder: str | Path,
    seconds: float,
    precision: Precision = "fp32",
    **settings: Any,
) -> Embeddings:
    """Speaker embeddings of every window of every recording of a dataset; see :func:`extract` for the rest.

    Args:
        weights: the encoder's folder, whose hash goes into the provenance.
        seconds: length of a window.
        precision: what the encoder computes in.
    """
    provenance = {"what": "speaker embeddings", "weights_sha256": folder_hash(weights), "seconds": seconds}
    provenance |= said(precision)
    items = manifest.voices().path.tolist()
    from v2f_core.speech.audio import read_clips

    read = partial(read_clips, seconds=seconds)
    embed = voice_embedder(encoder, precision)
    return extract(manifest.root, items, embed, folder, provenance, describe="voices", decode=read, **settings)


def extract_faces(manifest: Manifest, pack: FacePack, weights: Path, folder: str | Path, **settings: Any) -> Embeddings:
    """ArcFace identities of every picture of a dataset; see :func:`extract` for the rest.

    Args:
        weights: the pack's folder, whose hash goes into the provenance.
    """
    provenance = {"what": "face identities", "weights_sha256": folder_hash(weights)}
    items, embed = manifest.faces().path.tolist(), face_embedder(pack)
    return extract(manifest.root, items, embed, folder, provenance, describe="faces", decode=read_image, **settings)


def embed_dataset(
    profile: Profile,
    manifest: Manifest,
    device: str = "cpu",
    workers: int = 0,
    precision: Precision | None = None,
) -> tuple[Embeddings, Embeddings]:
    """Voices and faces of a profile's whole dataset, from the cache; what is not there yet is extracted.

    Each store's folder is named after the weights and the files it was made from, so that none is ever mixed up. Where
    a launcher started several processes, they share the work.

    Args:
        device, workers: where to compute, and processes that read files.
        precision: of the voices, see :func:`~v2f_core.training.precision.precision_of`; ArcFace is always in fp32.
    Raises:
        InputError: a part of the profile is missing or damaged, the store is of another precision, or too many files
            are bad.
    """
    from v2f_core.artefacts.profiles import cache_folder
    from v2f_core.identity.faces import FacePack
    from v2f_core.speech.encoders import load_encoder

    join(device)
    device = own_device(device)
    with in_turn():
        speech, pack = profile.part(profile.encoder), profile.part("faces")
    heard = f"{profile.clip_seconds}" + (f" {profile.ast_frames} {profile.ast_positions}" if profile.ast_frames else "")
    listing = "\n".join([folder_hash(speech), folder_hash(pack), heard, *manifest.table.path])
    folder = cache_folder() / f"embeddings-{hashlib.sha256(listing.encode()).hexdigest()[:12]}"
    encoder = load_encoder(profile.encoder, speech, profile.ast_frames, profile.ast_positions).to(device)
    heard_in = precision_of(folder / "voices", device, precision)
    seconds = profile.clip_seconds
    voices = extract_voices(manifest, encoder, speech, folder / "voices", seconds, heard_in, workers=workers)
    faces = FacePack.from_folder(pack, device)
    return voices, extract_faces(manifest, faces, pack, folder / "faces", workers=workers)
