"""MiniVox-L as embeddings: 2,890 persons to train on, 100 to validate, 1,000 to test, without their files.

    V2F_DATASET=$(python -m minivox.large) python -m v2f_core stage1 --out runs/large    # or posterior, evaluate

Recordings are embedded by each speech encoder, photographs by f_arc: one vector a file, a recording's the mean of its
windows. Each kind is kept as 8-bit coefficients on its principal axes, in a third of the room of half precision.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from v2f_core.artefacts.files import atomic_write, read_hashes, sha256
from v2f_core.artefacts.loading import read_header, read_tensors, refusing
from v2f_core.artefacts.profiles import ENCODERS, HASHES, MINI_ASSETS, RESTORE, cache_folder
from v2f_core.artefacts.store import Embeddings, extract
from v2f_core.data.packed import appearing
from v2f_core.errors import InputError
from v2f_core.identity.sphere import normalise
from v2f_core.training.embeddings import READY

PACKED = MINI_ASSETS / "minivox_large"
KINDS = {**dict.fromkeys(ENCODERS, "voice"), "faces": "face"}  # of nets, and what they embed
EXPLAINED = 0.999  # of the embeddings' squared length, by the axes that are kept
LEVELS = 255
MADE_BY = "weights_sha256"  # the header of the nets' hashes
NUMBERS, TABLE, PEOPLE = "embeddings.safetensors", "manifest.csv.gz", "factors.csv.gz"


def compress(vectors: Float[Tensor, "rows dim"], explained: float = EXPLAINED) -> dict[str, Tensor]:
    """Principal axes of some vectors, and each vector's coefficients on them in 256 steps an axis.

    Example:
        >>> vectors = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
        >>> expand(compress(vectors)).round(decimals=2)
        tensor([[0.0000, 1.0000],
                [0.0000, 0.5000]])
    """
    values, axes = torch.linalg.eigh(vectors.double().T @ vectors.double())
    values, axes = values.flip(0), axes.flip(1)
    count = int((values.cumsum(0) / values.sum() < explained).sum()) + 1
    axes = axes[:, :count].T.half()
    coefficients = vectors.double() @ axes.double().T
    low, high = coefficients.aminmax(dim=0)
    step = ((high - low) / LEVELS).clamp(min=1e-12)
    codes = ((coefficients - low) / step).round().byte()
    return {"codes": codes, "low": low.float(), "step": step.float(), "axes": axes}


def expand(packed: Mapping[str, Tensor]) -> Float[Tensor, "rows dim"]:
    """The vectors that :func:`compress` packed."""
    return (packed["low"] + packed["codes"] * packed["step"]) @ packed["axes"].float()


def pack(table: pd.DataFrame, factors: pd.DataFrame, stores: Mapping[str, Embeddings], out: Path = PACKED) -> None:
    """Write the three files that :func:`unpack` reads.

    Args:
        table: the manifest's.
        factors: the persons' true factors, as factors.csv has them.
        stores: the embeddings by each speech encoder, and by the faces' net.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    hashes: dict[str, str] = {}
    for name, kind in KINDS.items():
        place = {path: row for row, path in enumerate(table.path[table.kind == kind])}
        file = torch.tensor([place[path] for path in stores[name].items])
        files, row, count = file.unique(return_inverse=True, return_counts=True)
        vectors = stores[name].vectors[:]
        means = torch.zeros(len(files), vectors.shape[1]).index_add_(0, row, vectors) / count[:, None]
        packed = compress(means)
        kept = cosine_similarity(expand(packed), means).mean()
        print(f"{name}: packed and original vectors have a mean cosine of {kept:.4f}")
        parts = {**packed, "file": files.int()}
        tensors |= {f"{name}.{part}": value.contiguous() for part, value in parts.items()}
        hashes[name] = stores[name].provenance["weights_sha256"]
    with atomic_write(out / NUMBERS) as temporary:
        save_file(tensors, temporary, metadata={MADE_BY: json.dumps(hashes)})
    for frame, name in ((table, TABLE), (factors, PEOPLE)):
        text = frame.to_csv(index=False, lineterminator="\n")
        with atomic_write(out / name) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), mtime=0))  # the same bytes at any hour


def unpack(cache: str | Path | None = None, packed: Path = PACKED) -> Path:
    """The folder to give as V2F_DATASET, made in the cache unless it is there already.

    Raises:
        InputError: a file is missing or damaged, or the cache cannot be written to.
    """
    version = hashlib.sha256("".join(_checked(packed)).encode()).hexdigest()[:12]
    target = Path(cache or cache_folder()) / f"minivox-large-{version}"
    if target.is_dir():
        return target
    table = _read(packed / TABLE)
    tensors, nets = read_tensors(packed / NUMBERS, RESTORE), read_header(packed / NUMBERS, MADE_BY, RESTORE)
    with appearing(target) as whole:
        for name, kind in KINDS.items():
            of = {part.partition(".")[2]: value for part, value in tensors.items() if part.startswith(f"{name}.")}
            paths = table.path[table.kind == kind].tolist()
            vectors = normalise(expand(of)) if kind == "face" else expand(of)
            known = {paths[file]: vector for file, vector in zip(of["file"].tolist(), vectors, strict=True)}
            made_from = {"what": f"MiniVox-L by {name}", "weights_sha256": nets[name]}
            embed, folder = partial(_looked_up, known), whole / READY / name
            extract(Path(), paths, embed, folder, made_from, shard=len(paths), max_bad=1.0)
        table.to_csv(whole / "manifest.csv", index=False, lineterminator="\n")
        _read(packed / PEOPLE).to_csv(whole / "factors.csv", index=False, lineterminator="\n")
    return target


def _looked_up(known: Mapping[str, Tensor], paths: Sequence[Path]) -> list[Tensor | InputError]:
    """The embedding of each file, as one row."""
    none = InputError("no face was found in it")
    return [known[path.as_posix()][None] if path.as_posix() in known else none for path in paths]


def _read(path: Path) -> pd.DataFrame:
    with refusing(path, "a table", RESTORE):
        return pd.read_csv(path, dtype=str, keep_default_na=False)


def _checked(packed: Path) -> list[str]:
    """The hashes of the packed files, which they have."""
    known = read_hashes(packed.parent / HASHES)
    for name in (NUMBERS, TABLE, PEOPLE):
        if not (packed / name).is_file() or sha256(packed / name) != known.get(f"{packed.name}/{name}"):
            raise InputError(f"{packed / name}: missing or damaged (its SHA-256 is not that of {HASHES}); {RESTORE}")
    return [known[f"{packed.name}/{name}"] for name in (NUMBERS, TABLE, PEOPLE)]


if __name__ == "__main__":
    print(unpack())
