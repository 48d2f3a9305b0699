"""A store of embeddings: each made once, and gone on with where a killed run stopped.

A store is a folder of shards, ``00000.safetensors`` and so on. Shard i holds the embeddings of a fixed slice of the
items, and, in its header, which item each row is of and which items were skipped and why. A shard is written whole or
not at all, so that a run can be killed at any moment: the next one makes the missing shards and no other, with the same
bytes. Files are read by worker processes if wanted, and under ``torchrun`` or ``accelerate launch`` each process makes
its share of the shards; neither changes a byte, since what is embedded together does not depend on it.
``provenance.json`` says what the store was made from; ``skipped.csv`` lists the bad items.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.training.processes import join, wait
from v2f_core.training.reading import Decoder, as_is, read_ahead

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
        share: (i, n) makes every n-th shard from the i-th; None is this process's share where a launcher started
            several, which then wait for each other, or all.
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
    first, step = share or join()
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
    with tqdm(total=ours, desc=describe, unit="file", mininterval=1.0, disable=first > 0) as bar:
        for path, part in parts.items():
            if path in todo:
                skipped += _make_shard(path, root, part, read, embed, batch)
            bar.update(len(part))
            if len(skipped) > max_bad * ours:
                _write_report(folder, skipped)
                raise InputError(
                    f"{folder / SKIPPED_NAME}: {len(skipped)} of {ours} files could not be used, more than "
                    f"{max_bad:.0%}; the first is {skipped[0][0]} ({skipped[0][1]}); mend them "
                    "and run it again, or take them out of the dataset and its manifest"
                )
    if share is None:
        wait()
    store = load(folder)
    if first == 0:
        _write_report(folder, store.skipped)
    return store


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
