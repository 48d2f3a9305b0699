"""A store of embeddings: each file is embedded once, and a killed run continues where it stopped.

A store is a folder of shards, ``00000.safetensors`` and so on, each with the embeddings of a fixed slice of items. Its
header names the item of each row, and the skipped items. A shard is written whole or not at all: a later run, also of
several processes, makes the missing ones. ``provenance.json`` names what the store was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from v2f_core.artefacts.files import atomic_write, write_json
from v2f_core.artefacts.loading import read_json, refusing
from v2f_core.errors import InputError

PROVENANCE_NAME, SKIPPED_NAME = "provenance.json", "skipped.csv"
DAMAGED = "delete it and extract again, the rest is kept"
IN_MEMORY = 1 << 28  # bytes of a store that is read whole
PREFETCHED = 4  # files that each thread keeps ready

Decoder = Callable[[Path], Any]  # reads one file
# Maps the contents of some files to the embeddings of each (a file may have several), or to why it has none.
Embedder = Callable[[Sequence[Any]], Sequence["Tensor | InputError"]]


class Shard(NamedTuple):
    path: Path
    rows: list[str]  # the item of each row
    skipped: list[tuple[str, str]]
    files: int  # that were looked at
    start: int  # byte of the first number
    dim: int
    dtype: str


class Rows:
    """Embeddings that stay on disk: indexing reads the chosen rows, as float32 on a device."""

    def __init__(
        self, shards: Sequence[Shard], index: Int[Tensor, " rows"] | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.shards, self.device = shards, torch.device(device)
        self._ends = np.cumsum([len(shard.rows) for shard in shards])
        self.index = torch.arange(int(self._ends[-1])) if index is None else index  # counted over all shards
        self.shape = torch.Size([len(self.index), shards[0].dim])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: Int[Tensor, "*batch"] | slice) -> Float[Tensor, "*batch dim"]:
        """Some rows, in memory. A shard is mapped while it is read: none stays in this process's memory."""
        wanted = self.index[which.cpu() if isinstance(which, Tensor) else which].numpy()
        rows = np.empty((*wanted.shape, self.shape[1]), np.float32)
        holder = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(holder):
            shard, part = self.shards[number], holder == number
            values = np.memmap(shard.path, shard.dtype, "r", shard.start, (len(shard.rows), shard.dim))
            rows[part] = values[wanted[part] - (self._ends[number] - len(shard.rows))]
        return torch.from_numpy(rows).to(self.device)

    def pick(self, which: Int[Tensor, " chosen"]) -> Rows:
        """Some rows, still on disk."""
        return Rows(self.shards, self.index[which], self.device)

    def to(self, device: str | torch.device) -> Rows:
        """The same rows, given on a device."""
        return Rows(self.shards, self.index, device)


def pick(rows: Float[Tensor, "rows dim"] | Rows, which: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen dim"] | Rows:
    """Some rows: of a tensor a tensor, of rows on disk rows on disk."""
    return rows.pick(which) if isinstance(rows, Rows) else rows[which]


@dataclass(frozen=True)
class Embeddings:
    """The content of a store. A recording has a row for each window."""

    vectors: Float[Tensor, "rows dim"] | Rows  # of a large store on disk
    items: list[str]  # the file of each row: its path in the manifest
    skipped: list[tuple[str, str]]  # items without an embedding, and the reason
    provenance: dict[str, Any]  # what the store was made from

    def of(self, paths: Iterable[str]) -> tuple[Float[Tensor, "rows dim"] | Rows, list[str]]:
        """The rows of some items, in the order of the items, and the item of each row. Skipped items have none.

        Example:
            >>> Embeddings(torch.eye(3), ["a", "a", "b"], [], {}).of(["b"])
            (tensor([[0., 0., 1.]]), ['b'])
        """
        numbers: dict[str, int] = {}
        number = np.fromiter((numbers.setdefault(item, len(numbers)) for item in self.items), np.int64, len(self.items))
        order, ends = np.argsort(number, kind="stable"), np.bincount(number, minlength=len(numbers)).cumsum()
        wanted = [numbers[path] for path in paths if path in numbers]
        parts = [order[ends[i - 1] if i else 0 : ends[i]] for i in wanted]
        chosen = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return pick(self.vectors, torch.from_numpy(chosen)), [self.items[row] for row in chosen]


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
    decode: Decoder = Path,
    workers: int = 0,
    wanted: Set[str] | None = None,
) -> Embeddings:
    """Embed all items into a store; items that an earlier run embedded are kept, and connected processes share them.

    Args:
        root, items: the folder that the items' paths start from, and these.
        embed: maps what ``decode`` (else the path) gives of a batch of files to embeddings, or to an ``InputError``.
        provenance: what determines the embeddings (hash of the weights, settings). A hash of the items is added.
        batch, shard: files per call of ``embed``, and per shard: the most work that a kill can lose.
        max_bad: the share of bad items above which the run stops.
        workers: threads that read files ahead.
        wanted: items that are enough for now; shards that hold none of them are left to a later run.
    Raises:
        InputError: the store was made from something else, too many items are bad, or the folder cannot be written to.
    """
    from tqdm import tqdm

    folder = Path(folder)
    listing = hashlib.sha256("\n".join(items).encode()).hexdigest()
    made_from = {**provenance, "items": len(items), "items_sha256": listing, "shard": shard}
    before = _provenance(folder) or made_from
    if changed := sorted(name for name in before | made_from if before.get(name) != made_from.get(name)):
        raise InputError(f"{folder}: made from something else ({', '.join(changed)} differ); choose another folder")
    write_json(folder / PROVENANCE_NAME, made_from)
    process, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    starts = range(process * shard, len(items), processes * shard)
    shards = {folder / f"{start // shard:05d}.safetensors": items[start : start + shard] for start in starts}
    if wanted is not None:
        shards = {path: part for path, part in shards.items() if not wanted.isdisjoint(part)}
    share = sum(map(len, shards.values()))
    # listed once, since their files are read ahead; another run in this folder writes the same bytes
    missing = {path: part for path, part in shards.items() if not path.exists()}
    skipped = [bad for path in shards.keys() - missing.keys() for bad in _read_header(path).skipped]
    contents = read_ahead([root / item for part in missing.values() for item in part], decode, workers)
    with tqdm(total=share, desc=describe, unit="file", mininterval=1.0, delay=2.0, disable=process > 0) as bar:
        for path, part in shards.items():
            if path in missing:
                skipped += _write_shard(path, root, part, contents, embed, batch)
            bar.update(len(part))
            if len(skipped) > max_bad * share:
                _write_skipped(folder, skipped)
                bad = f"{len(skipped)} of {share} files could not be used, more than {max_bad:.0%}"
                first = f"the first is {skipped[0][0]} ({skipped[0][1]})"
                way_out = "mend them and run it again, or take them out of the dataset and its manifest"
                raise InputError(f"{folder / SKIPPED_NAME}: {bad}; {first}; {way_out}")
    if dist.is_initialized():
        dist.barrier()
    store = load(folder, whole=wanted is None)
    if process == 0:
        _write_skipped(folder, store.skipped)
    return store


def load(folder: str | Path, in_memory: int = IN_MEMORY, whole: bool = True) -> Embeddings:
    """Read a store, which must be ``whole`` or not; vectors of more than ``in_memory`` bytes stay on disk."""
    folder = Path(folder)
    if not (provenance := _provenance(folder)):
        raise InputError(f"{folder}: no stored embeddings; make them with 'python -m v2f_core extract'")
    shards = _shards(folder)
    if whole and sum(shard.files for shard in shards) != provenance.get("items"):
        raise InputError(f"{folder}: extraction is not finished; run 'python -m v2f_core extract' again")
    filled = [shard for shard in shards if shard.rows]
    if not filled:
        raise InputError(f"{folder}: not one embedding in it; see {SKIPPED_NAME}")
    vectors = Rows(filled)
    return Embeddings(
        vectors=vectors[:] if 4 * vectors.shape.numel() <= in_memory else vectors,
        items=[item for shard in shards for item in shard.rows],
        skipped=[bad for shard in shards for bad in shard.skipped],
        provenance=provenance,
    )


def _provenance(folder: Path) -> dict[str, Any]:
    """What a store was made from; empty before it is begun."""
    path = folder / PROVENANCE_NAME
    return read_json(path, f"delete {folder} and extract again") if path.is_file() else {}


def files_in(folder: str | Path) -> set[str]:
    """The items that a store holds or has skipped; read from its headers alone."""
    return {item for shard in _shards(Path(folder)) for item in (*shard.rows, *dict(shard.skipped))}


def _shards(folder: Path) -> list[Shard]:
    return [_read_header(path) for path in sorted(folder.glob("[0-9]*.safetensors"))]


def _read_header(path: Path) -> Shard:
    with refusing(path, "a shard of embeddings", DAMAGED), safe_open(path, "np") as file:
        header, tensor = json.loads(file.metadata()["header"]), file.get_slice("embeddings")
        names: dict[str, str] = {}  # a recording's windows share one string
        rows = [names.setdefault(str(item), str(item)) for item in header["rows"]]
        skipped = [(str(item), str(why)) for item, why in header["skipped"]]
        (count, dim), dtype = tensor.get_shape(), {"F32": "<f4", "F16": "<f2"}[tensor.get_dtype()]
        if count != len(rows):
            raise ValueError("its rows are not those that it names")
        start = path.stat().st_size - count * dim * int(dtype[-1])  # the numbers are the file's end
        return Shard(path, rows, skipped, int(header["files"]), start, dim, dtype)


def read_ahead(paths: Iterable[Path], decode: Decoder, workers: int = 0) -> Iterator[Any]:
    """The content of each file, or the ``InputError`` that ``decode`` raised, in the order of the files."""

    def read(path: Path) -> Any:
        try:
            return decode(path)
        except InputError as error:
            return error

    if workers == 0:
        yield from map(read, paths)
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) > PREFETCHED * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_shard(
    path: Path, root: Path, items: Sequence[str], contents: Iterator[Any], embed: Embedder, batch: int
) -> list[tuple[str, str]]:
    vectors: list[Tensor] = []
    rows: list[str] = []
    skipped: list[tuple[str, str]] = []
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        read = list(islice(contents, len(part)))
        good = [content for content in read if not isinstance(content, InputError)]
        embedded = iter(embed(good) if good else [])
        for item, content in zip(part, read, strict=True):
            result = content if isinstance(content, InputError) else next(embedded)
            if isinstance(result, Tensor) and not bool(result.isfinite().all()):
                result = InputError("its embedding is not finite")
            if isinstance(result, InputError):
                skipped.append((item, str(result) if item in str(result) else f"{root / item}: {result}"))
            else:
                vectors.append(result.float().cpu())
                rows += [item] * len(result)
    header = {"rows": rows, "skipped": skipped, "files": len(items)}
    joined = torch.cat(vectors) if rows else torch.zeros(0, 1)
    with atomic_write(path) as temporary:
        save_file({"embeddings": joined.contiguous()}, temporary, metadata={"header": json.dumps(header)})
    return skipped


def _write_skipped(folder: Path, skipped: Sequence[tuple[str, str]]) -> None:
    import pandas as pd

    with atomic_write(folder / SKIPPED_NAME) as temporary:
        pd.DataFrame(skipped, columns=["item", "why"]).to_csv(temporary, index=False)
