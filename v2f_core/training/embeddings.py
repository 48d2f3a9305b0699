"""Extract every embedding once, store it, and go on where a killed run stopped.

A store is a folder of shards, ``00000.safetensors`` and so on. Shard i holds the embeddings of a fixed slice of the
items, and, in its header, which item each row is of and which items were skipped and why. A shard is written whole or
not at all, so that a run can be killed at any moment: the next one makes the missing shards and no other, with the same
bytes. Files are read by worker processes if wanted, and under ``accelerate launch`` each process makes its share of the
shards; neither changes a byte, since what is embedded together does not depend on it. All windows of a dataset have one
length, so that no batch is padded.
``provenance.json`` says what the store was made from; ``skipped.csv`` lists the bad items.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.files import atomic_write
from v2f_core.provenance import folder_hash
from v2f_core.training.processes import own_device
from v2f_core.training.reading import Decoder, as_is, read_ahead

if TYPE_CHECKING:
    from v2f_core.data.manifest import Manifest
    from v2f_core.identity.faces import FacePack
    from v2f_core.profiles import Profile
    from v2f_core.speech.encoders import SpeechEncoder

WINDOWS_AT_ONCE = 64
PROVENANCE_NAME, SKIPPED_NAME = "provenance.json", "skipped.csv"

# An embedder maps files, read or not, to the embeddings found in each (there may be several), or to why there are none.
Embedder = Callable[[Sequence[Any]], Sequence["Tensor | InputError"]]


@dataclass(frozen=True)
class Embeddings:
    """What a store holds.

    Attributes:
        vectors: one row an embedding, float32.
        items: the manifest's path of the file that each row is of; a recording has several rows, one a window.
        skipped: (item, why) of the items without an embedding.
        provenance: what it was made from.
    """

    vectors: Float[Tensor, "rows dim"]
    items: list[str]
    skipped: list[tuple[str, str]]
    provenance: dict[str, Any]

    def of(self, paths: Iterable[str]) -> tuple[Float[Tensor, "rows dim"], list[str]]:
        """The rows of some items, in the items' order, and the item of each; skipped items have none.

        Example:
            >>> Embeddings(torch.eye(3), ["a", "a", "b"], [], {}).of(["b"])
            (tensor([[0., 0., 1.]]), ['b'])
        """
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            rows.setdefault(item, []).append(row)
        chosen = [row for path in paths for row in rows.get(path, [])]
        return self.vectors[chosen], [self.items[row] for row in chosen]


def extract(
    root: Path,
    items: Sequence[str],
    embed: Embedder,
    folder: str | Path,
    provenance: Mapping[str, Any],
    batch: int = 16,
    shard: int = 256,
    max_bad: float = 0.05,
    describe: str = "embedding",
    decode: Decoder = as_is,
    workers: int = 0,
    share: tuple[int, int] | None = None,
) -> Embeddings:
    """Embed all items into a store, or what an earlier, killed run left undone.

    Args:
        root: folder that the items' paths start from.
        items: relative paths.
        embed: maps a batch of what ``decode`` gave to their embeddings, or to an ``InputError`` for a bad one.
        folder: the store; made if missing.
        provenance: what determines the embeddings (weights' hash, settings); kept beside a hash of the items.
        batch: files per call of ``embed``.
        shard: files per shard: what a kill can cost.
        max_bad: the share of bad items above which the run stops.
        describe: the progress bar's label.
        decode: reads a file.
        workers: processes that read; 0 reads here.
        share: (i, n) makes every n-th shard from the i-th; None is this process's share under ``accelerate launch``,
            which waits for the others, or all.
    Raises:
        InputError: the store was made from something else, too many items are bad, a worker died, or the folder cannot
            be written to. Of a share: the others' are not done yet.

    Example:
        >>> import tempfile
        >>> store = tempfile.mkdtemp()
        >>> lengths = lambda paths: [torch.full((1, 2), float(len(path.name))) for path in paths]
        >>> extract(Path("data"), ["a", "bb"], lengths, store, {"weights": "none"}).vectors
        tensor([[1., 1.],
                [2., 2.]])
    """
    from tqdm import tqdm

    folder = Path(folder)
    listing = hashlib.sha256("\n".join(items).encode()).hexdigest()
    _claim(folder, {**provenance, "items": len(items), "items_sha256": listing, "shard": shard})
    first, step = share or _rank()
    parts = {
        folder / f"{number:05d}.safetensors": items[start : start + shard]
        for number, start in enumerate(range(0, len(items), shard))
        if number % step == first
    }
    ours = sum(map(len, parts.values()))
    # decided once: what another process finishes meanwhile is made again, to the same bytes, since its files are read
    todo = {path: part for path, part in parts.items() if not path.exists()}
    skipped = [bad for path in parts.keys() - todo.keys() for bad in _header(path)["skipped"]]
    read = read_ahead([root / item for part in todo.values() for item in part], decode, workers)
    with tqdm(total=ours, desc=describe, unit="file", mininterval=1.0) as bar:
        for path, part in parts.items():
            if path in todo:
                skipped += _make_shard(path, root, part, read, embed, batch)
            bar.update(len(part))
            if len(skipped) > max_bad * ours:
                _write_report(folder, skipped)
                raise InputError(
                    f"{folder / SKIPPED_NAME}: {len(skipped)} of {ours} files could not be used, more than "
                    f"{max_bad:.0%}; the first is {skipped[0][0]} ({skipped[0][1]}); mend them or raise max_bad"
                )
    if share is None and step > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
    store = load(folder)
    if first == 0:
        _write_report(folder, store.skipped)
    return store


def voice_embedder(encoder: SpeechEncoder) -> Embedder:
    """Embeds every window of a recording, the windows of several recordings in one batch."""
    device = next(encoder.parameters()).device if isinstance(encoder, torch.nn.Module) else torch.device("cpu")

    def embed(recordings: Sequence[Float[Tensor, "_ samples"]]) -> list[Tensor | InputError]:
        # long recordings have hundreds of windows: bound what the encoder sees at once
        parts = torch.cat(list(recordings)).split(WINDOWS_AT_ONCE)
        embedded = torch.cat([encoder.embed(part.to(device)) for part in parts])
        return list(embedded.split([len(windows) for windows in recordings]))

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
    manifest: Manifest, encoder: SpeechEncoder, weights: Path, folder: str | Path, seconds: float, **settings: Any
) -> Embeddings:
    """Speaker embeddings of every window of every recording of a dataset; see :func:`extract` for the rest.

    Args:
        weights: the encoder's folder, whose hash goes into the provenance.
        seconds: length of a window.
    """
    provenance = {"what": "speaker embeddings", "weights_sha256": folder_hash(weights), "seconds": seconds}
    items = manifest.voices().path.tolist()
    from v2f_core.speech.audio import read_clips

    read = partial(read_clips, seconds=seconds)
    embed = voice_embedder(encoder)
    return extract(manifest.root, items, embed, folder, provenance, describe="voices", decode=read, **settings)


def extract_faces(manifest: Manifest, pack: FacePack, weights: Path, folder: str | Path, **settings: Any) -> Embeddings:
    """ArcFace identities of every picture of a dataset; see :func:`extract` for the rest.

    Args:
        weights: the pack's folder, whose hash goes into the provenance.
    """
    provenance = {"what": "face identities", "weights_sha256": folder_hash(weights)}
    items, embed = manifest.faces().path.tolist(), face_embedder(pack)
    return extract(manifest.root, items, embed, folder, provenance, describe="faces", decode=read_image, **settings)


def stored(
    profile: Profile, manifest: Manifest, device: str = "cpu", workers: int = 0
) -> tuple[Embeddings, Embeddings]:
    """Voices and faces of a profile's whole dataset, from the cache; what is not there yet is extracted.

    Each store's folder is named after the weights and the files it was made from, so that none is ever mixed up.

    Raises:
        InputError: a part of the profile is missing or damaged, or too many files are bad.
    """
    from v2f_core.identity.faces import FacePack
    from v2f_core.profiles import cache_folder
    from v2f_core.speech.encoders import load_encoder

    device = own_device(device)
    speech, pack = profile.part(profile.encoder), profile.part("faces")
    heard = f"{profile.clip_seconds}" + (f" {profile.ast_frames} {profile.ast_positions}" if profile.ast_frames else "")
    listing = "\n".join([folder_hash(speech), folder_hash(pack), heard, *manifest.table.path])
    folder = cache_folder() / f"embeddings-{hashlib.sha256(listing.encode()).hexdigest()[:12]}"
    encoder = load_encoder(profile.encoder, speech, profile.ast_frames, profile.ast_positions).to(device)
    voices = extract_voices(manifest, encoder, speech, folder / "voices", profile.clip_seconds, workers=workers)
    faces = FacePack.from_folder(pack, device)
    return voices, extract_faces(manifest, faces, pack, folder / "faces", workers=workers)


def load(folder: str | Path) -> Embeddings:
    """Read a whole store.

    Raises:
        InputError: the store is missing, or not all of its items are done.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / PROVENANCE_NAME).is_file():
        raise InputError(f"{folder}: no stored embeddings; make them with 'python -m v2f_core extract'")
    provenance = json.loads((folder / PROVENANCE_NAME).read_text(encoding="utf-8"))
    paths = sorted(folder.glob("[0-9]*.safetensors"))  # not what a kill left half-written
    headers = [_header(path) for path in paths]
    if sum(header["files"] for header in headers) != provenance["items"]:
        raise InputError(f"{folder}: extraction is not finished; run 'python -m v2f_core extract' again to go on")
    filled = [path for path, header in zip(paths, headers, strict=True) if header["rows"]]
    if not filled:
        raise InputError(f"{folder}: not one embedding in it; see {SKIPPED_NAME}")
    return Embeddings(
        vectors=torch.cat([load_file(path)["embeddings"] for path in filled]),
        items=[item for header in headers for item in header["rows"]],
        skipped=[bad for header in headers for bad in header["skipped"]],
        provenance=provenance,
    )


def _rank() -> tuple[int, int]:
    """Which of how many processes this is, as accelerate and torchrun say it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _make_shard(
    path: Path, root: Path, items: Sequence[str], read: Iterator[Any], embed: Embedder, batch: int
) -> list[tuple[str, str]]:
    from safetensors.torch import save_file

    vectors: list[Tensor] = []
    rows: list[str] = []
    skipped: list[tuple[str, str]] = []
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        contents = list(islice(read, len(part)))
        good = [content for content in contents if not isinstance(content, InputError)]
        embedded = iter(embed(good) if good else [])
        for item, content in zip(part, contents, strict=True):
            found = content if isinstance(content, InputError) else next(embedded)
            if isinstance(found, InputError):
                why = str(found)
                skipped.append((item, why if item in why else f"{root / item}: {why}"))
            elif not bool(found.isfinite().all()):
                skipped.append((item, f"{root / item}: its embedding is not finite"))
            else:
                vectors.append(found.float().cpu())
                rows += [item] * len(found)
    whole = torch.cat(vectors) if vectors else torch.zeros(0, 1)
    header = {"rows": rows, "skipped": skipped, "files": len(items)}
    with atomic_write(path) as temporary:
        save_file({"embeddings": whole.contiguous()}, temporary, metadata={"header": json.dumps(header)})
    return skipped


def _header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["header"])
            return {**header, "skipped": [(item, why) for item, why in header["skipped"]]}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged; delete it and extract again, the rest is kept") from error


def _claim(folder: Path, provenance: dict[str, Any]) -> None:
    """Start a store, or make sure that an old one was begun from the same things."""
    path = folder / PROVENANCE_NAME
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(name for name in before.keys() | provenance if before.get(name) != provenance.get(name))
    if changed:
        raise InputError(f"{folder}: made from something else ({', '.join(changed)} differ); choose another folder")


def _write_report(folder: Path, skipped: Sequence[tuple[str, str]]) -> None:
    import pandas as pd

    with atomic_write(folder / SKIPPED_NAME) as temporary:
        pd.DataFrame(skipped, columns=["item", "why"]).to_csv(temporary, index=False)
