"""What the report tells beside its rows: labels, ceilings, probes, who was left out; faces and voices to look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from minivox import bounds, ceilings, world
from minivox.dataset import factors
from v2f_core.artefacts.provenance import SYNTHETIC, folder_hash, versions
from v2f_core.errors import InputError
from v2f_core.evaluation import controls, inputs
from v2f_core.evaluation.inputs import AGE, TONE
from v2f_core.evaluation.report import Evaluated
from v2f_core.evaluation.stage1_report import ALL, WITHIN
from v2f_core.identity.sphere import mean_direction

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile
    from v2f_core.data.manifest import Manifest
    from v2f_core.evaluation.controls import Bench
    from v2f_core.evaluation.leaks import Control
    from v2f_core.evaluation.systems import System
    from v2f_core.training.pairs import Pairs

HEARD_SECONDS, PICTURE_SIDE = 2.5, 160


def evaluated(
    bench: Bench,
    manifest: Manifest,
    profile: Profile,
    systems: Sequence[System],
    judged: Sequence[Control],
    labels: str | Path | None = None,
    notes: Sequence[str] = (),
) -> Evaluated:
    """Everything that the report is assembled from.

    Args:
        bench: persons, photographs, scorers.
        manifest: of the dataset.
        profile: whose parts they are.
        systems: the rows.
        judged: the controls.
        labels: a CSV of ages and skin tones; MiniVox has its own.
        notes: what the report shall say beside what it counts itself.
    Raises:
        InputError: the labels cannot be read.
    """
    training, test = bench.training, bench.test
    sexes, known = np.array(test.sexes), labels_of(manifest, labels)
    by_name = {system.name: system for system in systems}
    main = [controls.NO_DSC, *(name for name in by_name if name.startswith(controls.FULL))][-1]
    made = {"aligner_sha256": folder_hash(profile.part("aligner"))} | dict(bench.made)
    made[f"{profile.encoder}_sha256"] = folder_hash(profile.part(profile.encoder))
    about = {
        "notice": SYNTHETIC,
        "profile": profile.name,
        "dataset": "MiniVox" if profile.dataset_is_packed else manifest.root.name,
        "main": main,
        "steps": bench.drawing.steps,
        "guidance": bench.drawing.guidance,
        "tuned": bool(bench.guidance),
        "seed": bench.drawing.seed,
        "draws": bench.draws,
        "weights_sha256": {name.removesuffix("_sha256"): digest for name, digest in made.items()},
        "versions": versions("v2f-core", "torch", "diffusers", "transformers", "numpy"),
    }
    best, curves = _ceilings(training, test) if bounds.known(test) and bounds.known(training) else ({}, {})
    return Evaluated(
        about=about,
        persons=test.persons,
        sexes=sexes,
        captions=_captions(test, known),
        systems=systems,
        gallery=bench.gallery,
        mean_face=mean_direction(training.centroids()).numpy(),
        reference={ALL: by_name[controls.MEAN], WITHIN: by_name[controls.SEX_MEAN]},
        attributes=inputs.attributes(known, test.persons, sexes, training.persons),
        controls=judged,
        left_out=_left_out(bench, manifest, systems, known, notes),
        ceilings=best,
        ceiling_curves=curves,
        probed=_probed(bench, by_name[main], known),
    )


def labels_of(manifest: Manifest, path: str | Path | None) -> pd.DataFrame:
    """Ages and skin tones by person: of a CSV, else the true ones of MiniVox or of a set made like it, else none."""
    if path is not None:
        return inputs.read_labels(path)
    if not (manifest.root / "factors.csv").is_file():
        return pd.DataFrame()
    return factors(manifest.root).rename(columns={"face_skin_tone": TONE})[[AGE, TONE]]


def media(report: Mapping[str, Any], e: Evaluated, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """``true:``, ``face:`` and ``voice:`` of everybody whom the report shows, as data URIs."""
    shown = report["exhibits"]
    queries = [query for group in shown["retrieval"].values() for query in group]
    cards = [card["person"] for group in shown["faces"].values() for card in group]
    failed = [person for kind in report["failures"] for person in kind["examples"]]
    seen = {*cards, *(q["person"] for q in queries), *(face["person"] for q in queries for face in q["top"])}
    place = {person: row for row, person in enumerate(e.persons)}
    for person in sorted(seen):
        if (path := e.gallery.paths[place[person]]) is not None:
            yield f"true:{person}", picture(path)
    for person in sorted({*cards, *failed}):
        if (path := e.main.faces[0].paths[place[person]]) is not None:
            yield f"face:{person}", picture(path)
    voices = manifest.voices("test").groupby("person").path.first()
    for person in sorted({*cards, *(q["person"] for q in queries)}):
        with suppress(InputError):  # this recording cannot be read, others could; the page says that it is missing
            yield f"voice:{person}", sound(manifest.root / voices[person])


def picture(path: Path, side: int = PICTURE_SIDE) -> str:
    """A picture as a data URI, small, with what its EXIF says of its making."""
    from PIL import Image

    with Image.open(path) as image:
        exif, small = image.getexif(), image.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=80, method=6, exif=exif)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def sound(path: Path, seconds: float = HEARD_SECONDS) -> str:
    """The beginning of a recording as a data URI (MP3)."""
    from v2f_core.show.players import SAMPLE_RATE, mp3
    from v2f_core.speech.audio import read_audio

    wave = read_audio(path)[: int(seconds * SAMPLE_RATE)].numpy()
    return f"data:audio/mpeg;base64,{base64.b64encode(mp3(wave)).decode()}"


def _ceilings(training: Pairs, test: Pairs) -> tuple[dict[str, Any], dict[str, Any]]:
    drawn = world.population(bounds.POOL, 1600)
    scores = ceilings.log_likelihood(drawn, drawn)
    everybody, men = np.zeros(len(drawn), int), np.array([person.sex == world.MALE for person in drawn]).astype(int)
    curves = {
        ALL: ceilings.rank_curve(scores, everybody, len(test.persons)),
        WITHIN: ceilings.rank_curve(scores, men, min(test.sexes.count("f"), test.sexes.count("m"))),
    }
    return bounds.bounds(test, training), curves


def _captions(test: Pairs, known: pd.DataFrame) -> list[str]:
    ages = inputs.truth_of(known, test.persons, AGE)
    return [
        f"{person}, {'woman' if sex == 'f' else 'man'}" + ("" if np.isnan(age) else f" of {age:.0f}")
        for person, sex, age in zip(test.persons, test.sexes, ages, strict=True)
    ]


def _probed(bench: Bench, main: System, known: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Truth, and what is read from the drawn and from the real face, of every attribute with labels to learn from."""
    from v2f_core.evaluation.attributes import fit_probes

    training, test, found = bench.training, bench.test, {}
    if not main.faces or len(set(training.sexes)) < 2:
        return {}
    drawn, real = main.faces[0].identities, bench.gallery.identities
    centroids, sexes = training.centroids().numpy(), np.array(training.sexes)
    sex = fit_probes(centroids, sexes).sex
    found["sex"] = (np.array(test.sexes), sex(drawn), sex(real))
    for name in (AGE, TONE):
        truth, target = (inputs.truth_of(known, pairs.persons, name) for pairs in (test, training))
        if np.isfinite(target).sum() >= 10 and np.isfinite(truth).any():
            read = fit_probes(centroids, sexes, target).age  # a reader of any number, years or tone
            assert read is not None
            found[name] = (truth, read(drawn), read(real))
    return found


def _left_out(
    bench: Bench, manifest: Manifest, systems: Sequence[System], known: pd.DataFrame, notes: Sequence[str]
) -> dict[str, Any]:
    """Counts of everything that is not as it should be, each a line, and the lists behind them."""
    test, n = bench.test, len(bench.test.persons)
    table = manifest.left_out
    files = [{"item": str(item), "why": str(why)} for item, why in zip(table["item"], table["why"], strict=True)]
    alone = int((~bench.has_other).sum())
    told = [
        *notes,
        f"{len(test.left_out)} persons of the test split have no usable voice or no usable face",
        f"{len(files)} items of the dataset were not used",
        f"{alone} of {n} persons have one photograph only, and are not asked where another is needed",
        f"{int((~bench.gallery.identities.any(axis=1)).sum())} of {n} photographs of the gallery show no face that is "
        "found: their persons cannot be retrieved",
    ]
    for system in (system for system in systems if system.faces and system.shuffles is None):
        asked = (n if system.asked is None else int(system.asked.sum())) * len(system.faces)
        told += [f"{system.name}: no face found in {system.undetected} of {asked} images (misses with cosine 0)"]
    unknown = {name: int(np.isnan(inputs.truth_of(known, test.persons, name)).sum()) for name in (AGE, TONE)}
    told += [f"{name}: not known of {count} of {n} persons" for name, count in unknown.items() if count]
    groups = inputs.attributes(known, test.persons, np.array(test.sexes), bench.training.persons)
    for attribute, column in groups.items():
        empty = [group for group, count in column.value_counts().items() if group and not count]
        told += [f"{attribute}: nobody is {group!r}" for group in empty]
    if not bench.gallery.posteriors.shape[1]:
        told.append("no judge in this profile: VFS is missing")
    if not bench.gallery.features.shape[1]:
        told.append("no second scorer in this profile")
    if n < 300:
        told.append(f"SF2F's protocol of three galleries of 100 needs 300 persons, there are {n}")
    return {"persons": list(test.left_out), "files": files, "notes": told}
