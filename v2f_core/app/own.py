"""``own`` and ``forget``: a class or a lab's own persons, from a folder to Stage I's table; and one who withdraws."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from codecs import BOM_UTF8
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pandas as pd
import torch

from v2f_core.artefacts.files import atomic_write, check_writable
from v2f_core.artefacts.profiles import Profile, cache_folder
from v2f_core.artefacts.store import PROVENANCE_NAME, Embeddings, files_in
from v2f_core.data.manifest import composed, plain_path
from v2f_core.data.voxceleb import LISTS, open_dataset, people_in
from v2f_core.errors import InputError
from v2f_core.evaluation import folds, tables
from v2f_core.speech.encoders import ONE_VOICE, oneness
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.stage1 import Stage1Settings

SHOWN = (tables.COSINE, tables.MATCHING, "R@1")
TEMPLATE = Path(__file__).with_name("own_card.md")


def own(
    profile: Profile, out: Path, deals: int = 4, steps: int | None = None, seed: int = 0, device: str = "cpu"
) -> Path:
    """Embed a dataset of one's own and measure Stage I by folds of persons, beside ridge regression and the controls.

    Writes stage1.csv, stage1.md and left_out.csv to ``out``, and a card for consent beside the data, if there is none;
    returns stage1.md. Persons are dealt into folds ``deals`` times.

    Raises:
        InputError: the dataset or a part cannot be used, fewer than eight persons have both voice and face, or half of
            the files are bad.
    """
    started = time.perf_counter()
    check_writable(out)
    manifest = open_dataset(profile)
    name_left_out(manifest.left_out)
    persons = manifest.persons()
    folds.fold_count(int(((persons.voices > 0) & (persons.faces > 0)).sum()))  # before all is embedded
    voices, faces = embed_dataset(profile, manifest, device)
    pairs = pair_up(manifest, voices, faces)
    embedded = time.perf_counter() - started
    left_out = pd.concat([manifest.left_out, bad_files(profile, voices, faces)])
    tables.write(out, "left_out.csv", left_out)
    settings = Stage1Settings(**{**profile.stage1, "seed": seed} | ({"steps": steps} if steps else {}))
    table = folds.folds_table(folds.leave_out(pairs, settings, deals))
    tables.write(out, "stage1.csv", table)
    trained = time.perf_counter() - started - embedded
    took = f"{embedded:.0f} s to embed, {trained:.0f} s to train, {peak()} MB of memory"
    tables.write(out, "stage1.md", report(pairs, table, deals, took))
    for where, part in table.groupby("gallery", sort=False):
        print(f"\nGallery: {where} (of a fold)\n{tables.plain(part, SHOWN)}")
    card = manifest.root / "CARD.md"
    if not card.exists():
        counts = {"persons": len(persons), "usable": len(pairs.persons), "folder": manifest.root.name}
        counts |= {"voices": persons.voices.sum(), "faces": persons.faces.sum()}
        tables.write(manifest.root, card.name, TEMPLATE.read_text(encoding="utf-8").format(**counts))
        print(f"\nCard, with questions of consent for you to answer: {card}")
    print(f"tables: {out}")
    return out / "stage1.md"


def name_left_out(table: pd.DataFrame) -> None:
    """Name what is not used on stderr, with the reason."""
    for row in table.itertuples():
        print(f"left out: {row.item}: {row.why}", file=sys.stderr)


def bad_files(profile: Profile, voices: Embeddings, faces: Embeddings) -> pd.DataFrame:
    """The files that could not be embedded, with the reason; each is named on stderr, and so is a doubt.

    A doubt is of a recording that sounds like two persons, which GE2E can tell.
    """
    skipped = [(item, why.rpartition(f"{item}: ")[2]) for item, why in voices.skipped + faces.skipped]
    table = pd.DataFrame(skipped, columns=["item", "why"], dtype=str)
    name_left_out(table)
    if profile.encoder == "ge2e":
        for item, rows in groupby(range(len(voices.items)), voices.items.__getitem__):
            if oneness(voices.vectors[torch.tensor(list(rows))]) < ONE_VOICE:
                print(f"note: {item}: sounds like two persons; listen to it", file=sys.stderr)
    return table


def report(pairs: Pairs, table: pd.DataFrame, deals: int, took: str) -> str:
    """The table with how it came about."""
    count = folds.fold_count(len(pairs.persons))
    sexes = ", ".join(f"{pairs.sexes.count(sex)} {sex}" for sex in sorted(set(pairs.sexes)))
    size, times = len(pairs.persons) // count, f"{deals} time{'s' * (deals > 1)}"
    text = (
        f"# Stage I on {len(pairs.persons)} persons ({sexes})\n\n"
        f"Each person was tested {times}, among the {size} or so of a fold, by an aligner "
        f"that was trained on the others ({count} folds). 95 % intervals over persons; they leave out that aligners "
        "share training persons. The second line of a cell is the gain over ridge regression by likelihood ratio. "
        f"{took}.\n\nNo faces are drawn. A voice does not determine a face: do not use this to find a person.\n\n"
    )
    for where, part in table.groupby("gallery", sort=False):
        text += f"Gallery: {where} (of a fold)\n\n{tables.markdown(part, SHOWN)}\n"
    return text


def peak() -> int:
    """The most memory that this process has held, MB; 0 on Windows, which does not tell."""
    with suppress(ImportError):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
    return 0


def forget(profile: Profile, person: str, out: Path = Path("outputs/own")) -> list[str]:
    """Remove every store of embeddings that holds a file of a person, the person's files, and the rows that name them.

    Rows are taken out of the dataset's tables, and of the left_out.csv that :func:`own` wrote to ``out``; they go last,
    so that a run that was killed can be repeated. A store is removed whole: the others' embeddings are made again.
    Returns what was removed, a line each.

    Raises:
        InputError: nobody in the dataset has this name, or the dataset is packed.
    """
    if profile.dataset_is_packed:
        raise InputError(f"{profile.dataset}: a packed dataset of synthetic persons; nobody can withdraw from it")
    manifest = open_dataset(profile)
    files = set(manifest.table.path[manifest.table.person == person])  # no file is of two persons
    if not any((manifest.root / name).is_file() for name in LISTS):  # what cannot be used lies in the folder too
        folders = [folder for folder in people_in(manifest.root) if composed(folder.name) == person]
        inside = [path for folder in folders for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
        files |= {path.relative_to(manifest.root).as_posix() for path in inside}
    if not files:
        raise InputError(f"{person}: nobody in {manifest.root} has this name; the names are in its table or folders")
    lines = []
    for mark in sorted(cache_folder().rglob(PROVENANCE_NAME)):
        if files & files_in(mark.parent):
            shutil.rmtree(mark.parent)
            lines.append(f"embeddings {mark.parent}")
    for name in sorted(files):
        path = manifest.root / name
        if path.is_file() or path.is_symlink():
            path.unlink()
            lines.append(f"file {path}")
        for folder in path.parents:
            if folder == manifest.root or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()
    tables_here = [path for folder in (manifest.root, out) for name in NAMING if (path := folder / name).is_file()]
    taken = [(_take_out(path, {person, *files}), path) for path in tables_here]
    return lines + [f"{count} rows of {path}" for count, path in taken if count]


# columns that name a person or a file of theirs
NAMING: dict[str, tuple[str, ...]] = dict.fromkeys(LISTS, ("person", "clip", "face", "photo", "path"))
NAMING |= {"left_out.csv": ("item",), "split.csv": ("name",)}


def _take_out(path: Path, names: set[str]) -> int:
    """Take the rows that name a person or a file of theirs out of a table, which is else as it was; how many."""
    data = path.read_bytes()
    encoding = "utf-8-sig" if data.startswith(BOM_UTF8) else "utf-8"
    lines = data.decode(encoding).splitlines(keepends=True)
    separator = next((sign for sign in "\t;" if lines and sign in lines[0]), ",")
    rows = [next(csv.reader([line], delimiter=separator), []) for line in lines]
    places = [i for i, name in enumerate(rows[0] if rows else []) if name.strip().lower() in NAMING[path.name]]

    def names_one(row: list[str]) -> bool:
        cells = [row[i].strip().replace("\\", "/") for i in places if i < len(row)]
        return not names.isdisjoint(composed(plain_path(cell)) for cell in cells)

    kept = lines[:1] + [line for line, row in zip(lines[1:], rows[1:], strict=True) if not names_one(row)]
    if len(kept) < len(lines):
        with atomic_write(path) as temporary:
            temporary.write_bytes("".join(kept).encode(encoding))
    return len(lines) - len(kept)
