"""Reads files ahead, in their order, in worker processes if wanted: what comes out does not depend on how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from v2f_core.errors import InputError

AHEAD = 4  # files that each worker keeps ready

# Reads one file; runs in another process, so that it must be a function of a module, or a partial of one.
Decoder = Callable[[Path], Any]


def read_ahead(paths: Sequence[Path], decode: Decoder, workers: int = 0) -> Iterator[Any]:
    """What ``decode`` makes of each file, or the ``InputError`` that it raised, in the files' order.

    Args:
        paths: the files.
        decode: reads one.
        workers: processes that read; 0 reads here.
    Raises:
        InputError: a worker died.

    Example:
        >>> list(read_ahead([Path("a.png"), Path("b.png")], as_is))
        [PosixPath('a.png'), PosixPath('b.png')]
    """
    import torch
    from torch.utils.data import DataLoader

    # spawned, since a forked process may hang on the locks of this one's threads
    options: dict[str, Any] = {"multiprocessing_context": "spawn", "prefetch_factor": AHEAD} if workers else {}
    options["generator"] = torch.Generator()  # a loader draws a seed: not from the caller's randomness
    files: Any = _Files(paths, decode)  # torch asks for no base class
    loader: Any = DataLoader(files, batch_size=None, collate_fn=as_is, num_workers=workers, **options)
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        line = " ".join(str(error).split())
        way_out = "run it again with fewer, what is done is kept"
        raise InputError(f"{workers} workers: one died ({line}), perhaps for want of memory; {way_out}") from error


def as_is(value: Any) -> Any:
    """The same: for files that are read where they are used."""
    return value


class _Files:
    """A torch dataset of files."""

    def __init__(self, paths: Sequence[Path], decode: Decoder) -> None:
        self.paths, self.decode = paths, decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.decode(self.paths[index])
        except InputError as error:
            return error
