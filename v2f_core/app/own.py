"""``own`` and ``forget``: a class or a lab's own persons, from a folder to Stage I's table; and one who withdraws."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import pandas as pd

from v2f_core.artefacts.files import atomic_write, check_writable
from v2f_core.artefacts.profiles import Profile, cache_folder
from v2f_core.artefacts.store import PROVENANCE_NAME, files_in
from v2f_core.data.manifest import Manifest
from v2f_core.data.voxceleb import LISTS, open_dataset
from v2f_core.errors import InputError
from v2f_core.evaluation import folds, tables
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import Pairs, everybody
from v2f_core.training.stage1 import Stage1Settings

MAX_BAD = 0.5  # of a small set's files: each is named, so more are allowed than of a large one's
SHOWN = (tables.COSINE, tables.MATCHING, "R@1")
CARD = "CARD.md"


def own(
    profile: Profile, out: Path, deals: int = 4, steps: int | None = None, seed: int = 0, device: str = "cpu"
) -> Path:
    """Embed a dataset of one's own and measure Stage I by folds of persons, beside ridge regression and the controls.

    Writes stage1.csv, stage1.md and left_out.csv to ``out``, and a card for consent beside the data, if there is none.

    Args:
        profile: whose dataset and encoders; "open" needs no download.
        out: folder for the tables.
        deals: how often persons are dealt into folds.
        steps, seed: of Stage I, in place of the profile's; of weights, batches and folds.
        device: where to embed.
    Returns:
        the table as Markdown.
    Raises:
        InputError: the dataset or a part cannot be used, fewer than eight persons have both voice and face, or half of
            the files are bad.
    """
    started = time.perf_counter()
    check_writable(out)
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest, device, max_bad=MAX_BAD)
    pairs = everybody(manifest, voices, faces)
    embedded = time.perf_counter() - started
    left_out = pd.DataFrame(voices.skipped + faces.skipped, columns=["item", "why"])
    left_out = pd.concat([manifest.left_out, left_out], ignore_index=True)
    tables.write(out, "left_out.csv", left_out)
    for row in left_out.itertuples():
        print(f"left out: {row.item}: {row.why}", file=sys.stderr)
    settings = Stage1Settings(**{**profile.stage1, "seed": seed} | ({"steps": steps} if steps else {}))
    table = folds.folds_table(*folds.leave_out(pairs, settings, deals))
    tables.write(out, "stage1.csv", table)
    trained = time.perf_counter() - started - embedded
    took = f"{embedded:.0f} s to embed, {trained:.0f} s to train, {peak()} MB of memory"
    tables.write(out, "stage1.md", report(pairs, table, deals, took))
    if not (manifest.root / CARD).exists():
        write_card(manifest, pairs)
    print((out / "stage1.md").read_text(encoding="utf-8"))
    return out / "stage1.md"


def report(pairs: Pairs, table: pd.DataFrame, deals: int, took: str) -> str:
    """The table with how it came about."""
    count = folds.fold_count(len(pairs.persons))
    sexes = ", ".join(f"{pairs.sexes.count(sex)} {sex}" for sex in sorted(set(pairs.sexes)))
    text = (
        f"# Stage I on {len(pairs.persons)} persons ({sexes})\n\n"
        f"Each person was tested {deals} times, among the {len(pairs.persons) // count} or so of a fold, by an aligner "
        f"that was trained on the others ({count} folds). 95 % intervals over persons; they leave out that aligners "
        "share training persons. The second line of a cell is the gain over ridge regression by likelihood ratio. "
        f"{took}.\n\nNo faces are drawn. A voice does not determine a face: do not use this to find a person.\n\n"
    )
    for where, part in table.groupby("gallery", sort=False):
        text += f"Gallery: {where} (of a fold)\n\n{tables.markdown(part, SHOWN)}\n"
    return text


def peak() -> int:
    """The most memory that this process has held, MB; 0 on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def write_card(manifest: Manifest, pairs: Pairs) -> None:
    """A card for a dataset of one's own, with the questions of consent that only its owner can answer."""
    counts = manifest.persons()
    text = f"""# Data card

| | |
|---|---|
| persons | {len(counts)}, of whom {len(pairs.persons)} have a usable voice and face |
| files | {int(counts.voices.sum())} recordings, {int(counts.faces.sum())} photographs |
| collected by, when, where | *to be filled in* |
| consent | *to be filled in: what each person was told, what each agreed to, where the signed forms are* |
| purpose | *to be filled in*; not to identify, accuse, profile or deceive anybody |
| kept until | *to be filled in* |
| who may see it | *to be filled in* |

Voices and faces are biometric data, and so are their embeddings. None of this belongs on a public server.

## Withdrawal

A person may withdraw at any time, without a reason:

    python -m v2f_core forget {manifest.root.name} NAME

removes that person's files, rows of tables and stored embeddings. Copies, backups and trained aligners are yours to
remove: train again, and delete what was trained before.
"""
    with atomic_write(manifest.root / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def forget(profile: Profile, person: str) -> list[str]:
    """Remove a person's files, the rows that name them, and every store of embeddings that holds one of them, whole.

    Returns what was removed, a line each. The others' embeddings are made again.
    """
    if profile.dataset_is_packed:
        raise InputError(f"{profile.dataset}: a packed dataset of synthetic persons; nobody can withdraw from it")
    manifest = open_dataset(profile)
    rows = manifest.table[manifest.table.person == person]
    if rows.empty:
        raise InputError(f"{person}: nobody in {manifest.root} has this name; the names are in its table or folders")
    lines = []
    files = set(rows.path)  # no file is of two persons
    for name in sorted(files):
        path = manifest.root / name
        if path.is_file():
            path.unlink()
            lines.append(f"file {path}")
        if path.parent != manifest.root and not any(path.parent.iterdir()):
            path.parent.rmdir()
    lines += [f"{count} rows of {path}" for path, count in _without(manifest.root, person, files)]
    for mark in sorted(cache_folder().rglob(PROVENANCE_NAME)):
        if files & files_in(mark.parent):
            shutil.rmtree(mark.parent)
            lines.append(f"embeddings {mark.parent}")
    return lines


def _without(root: Path, person: str, files: set[str]) -> list[tuple[Path, int]]:
    """Take a person's rows out of the tables in a dataset's root; each table with the number of rows."""
    changed = []
    for path in (root / name for name in (*LISTS, "left_out.csv", "split.csv")):
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if not _names(line, person, files)]
        if len(kept) < len(lines):
            with atomic_write(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
            changed.append((path, len(lines) - len(kept)))
    return changed


def _names(line: str, person: str, files: set[str]) -> bool:
    parts = re.split("[,;\t]", line)
    cells = [part.strip().strip('"').replace("\\", "/") for part in parts]
    return person in cells or any(cell in files for cell in cells)
