"""Draws from p(z | v), judged: proper scores, retrieval, calibration, variety, and who is drawn at all.

    python benchmarks/posterior.py --posterior runs/posterior       # identities; a minute of one core
    python benchmarks/posterior.py --posterior runs/posterior --faces 2      # and two drawn faces a voice; an hour
    V2F_DATASET=$(python -m minivox.large) python benchmarks/posterior.py …    # the 1,000 test persons of MiniVox-L

Everything is of test persons, of whom nothing was trained or chosen. Intervals are BCa over persons. Skill is the way
from a random face of the speaker's sex (0) to the exact posterior of the known world (1), both over the training
persons' faces. Writes posterior.csv (one row a measure and system), posterior_fairness.csv and, with --faces,
posterior_faces.csv.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draws
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from scipy.linalg import LinAlgWarning
from scipy.special import softmax
from scipy.stats import hypergeom, kstest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict

from minivox import ceilings
from minivox.ceilings import people
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation import metrics
from v2f_core.evaluation.metrics import bootstrap
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.faces import FacePack
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.pipeline import made_from
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import Pairs, pair_up

TRUNCATIONS = (0.0, 0.5, 1.0)
DRAWS, K, GALLERY = 200, 10, 100
SETS, FLOOR = 2000, 0.215  # random sets of persons, and the R@10 that was asked for
TONE, TONES = "skin tone", ("light", "medium", "dark")
ATTRIBUTES = {"age of the skin": "face_skin_age", TONE: "face_skin_tone", "black hair": "black hair", "man": "man"}


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posterior", type=Path, required=True, help="folder that 'v2f_core posterior' wrote")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--faces", type=int, default=0, help="faces to draw for each voice and truncation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="posterior", help="beginning of the tables' names")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    began = time.perf_counter()
    world = World.open(chosen.posterior, chosen.split)
    drawn = {t: world.draw(t, DRAWS, chosen.seed) for t in TRUNCATIONS}
    tables = {
        "": pd.DataFrame(
            [
                *recognition(world),
                *scores(world, drawn),
                *variety(world, drawn),
                *spread(world, drawn),
                *calibrated(world, drawn),
            ]
        ),
        "_fairness": pd.DataFrame(fairness(world, drawn)),
    }
    if chosen.faces:
        tables["_faces"] = pd.DataFrame(list(of_faces(world, chosen.faces, chosen.seed)))
    for end, table in tables.items():
        print(table.to_string(index=False))
        with atomic_write(chosen.out / f"{chosen.name}{end}.csv") as part:
            table.to_csv(part, index=False, float_format="%.4g")
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


@dataclass(frozen=True)
class World:
    """The persons of a split, those trained on, the posterior, and readers of attributes."""

    posterior: IdentityPosterior
    training: Pairs
    test: Pairs
    sex: Shaped[np.ndarray, " n"]
    photos: list[Float[np.ndarray, "n dim"]]
    readers: dict[str, Reader]
    truth: pd.DataFrame
    cuts_from: Float[np.ndarray, " persons"]

    @classmethod
    def open(cls, folder: Path, split: str) -> World:
        """Everything of the profile's dataset."""
        profile = load_profile()
        manifest = open_dataset(profile)
        aligner = Aligner.from_pretrained(profile.part("aligner"))
        posterior = IdentityPosterior.from_pretrained(folder, aligner, made_from(profile))
        voices, faces = embed_dataset(profile, manifest)
        training, test = (pair_up(manifest, voices, faces, name) for name in ("train", split))
        factors = pd.read_csv(manifest.root / "factors.csv").set_index("name")
        factors["black hair"] = (factors.face_hair_colour == "black").astype(float)
        factors["man"] = (factors.sex == "m").astype(float)
        owner = np.repeat(np.arange(len(training.persons)), training.face_start.diff())
        told = factors.loc[training.persons]
        readers = {
            name: Reader.fit(training.face.numpy(), told[column].to_numpy()[owner], owner)
            for name, column in ATTRIBUTES.items()
        }
        start = test.face_start.numpy()
        photos = [test.face.numpy()[np.minimum(start[:-1] + view, start[1:] - 1)] for view in range(3)]
        return cls(
            posterior,
            training,
            test,
            np.array(test.sexes),
            photos,
            readers,
            factors.loc[test.persons],
            told[ATTRIBUTES[TONE]].to_numpy(),
        )

    def draw(self, truncation: float, count: int, seed: int) -> Float[np.ndarray, "n draws dim"]:
        """Identities for every voice of the split."""
        generator = torch.Generator().manual_seed(seed)
        return self.posterior.sample(self.test.pooled_voices(), count, truncation, generator).numpy()


@dataclass(frozen=True)
class Reader:
    """A ridge regression from identities to an attribute, its penalty chosen by person; ``error``: its spread."""

    ridge: Any
    error: float

    @classmethod
    def fit(
        cls, photos: Float[np.ndarray, "m dim"], values: Float[np.ndarray, " m"], owner: Int[np.ndarray, " m"]
    ) -> Reader:
        """From training persons' photographs."""
        folds = GroupKFold(5)
        warnings.filterwarnings("ignore", category=LinAlgWarning)  # MiniVox-L's identities lie within 100 axes
        ridge = RidgeCV(np.logspace(-3, 2, 11), cv=list(folds.split(photos, groups=owner))).fit(photos, values)
        guess = cross_val_predict(Ridge(ridge.alpha_), photos, values, groups=owner, cv=folds)
        return cls(ridge, float((values - guess).std()))

    def read(self, identities: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch"]:
        """The attribute of each identity."""
        flat: np.ndarray = self.ridge.predict(identities.reshape(-1, identities.shape[-1]))
        return flat.reshape(identities.shape[:-1])


def recognition(world: World) -> Iterator[dict[str, Any]]:
    """By voice alone, within sex: R@10 of random galleries of 100, 1:2 matching; by cosine with ẑ and by log ratio."""
    voices = world.test.pooled_voices()
    estimate = world.posterior.mean(voices).numpy()
    centre = {s: world.training.face.numpy()[_photo_sex(world.training) == s].mean(axis=0) for s in ("f", "m")}
    first = world.photos[0]
    yield row("cosine", "ẑ", metrics.cosine(estimate, first), world.sex)
    ratio = world.posterior.log_ratio(torch.from_numpy(first), voices).double().numpy()
    yield row("nats that a voice tells", "posterior", np.diag(ratio), world.sex)
    systems = {
        "cosine with ẑ": estimate @ first.T,
        "cosine, mean face of the sex taken off": estimate @ (first - np.stack([centre[s] for s in world.sex])).T,
        "log likelihood ratio": ratio,
        "ceiling: what faces show, exact": ceilings.log_likelihood(people(world.test), people(world.test)),
    }
    for name, values in systems.items():
        yield row("R@10 of 100 within sex", name, metrics.within(_recall, values, world.sex), world.sex)
        yield row("1:2 matching within sex", name, metrics.within(metrics.matching, values, world.sex), world.sex)
        if len(values) >= 4 * GALLERY:
            yield from _luck(name, values, world.sex)


def scores(world: World, drawn: dict[float, Float[np.ndarray, "n draws dim"]]) -> Iterator[dict[str, Any]]:
    """Energy scores, means over the person's photographs, and their skill."""
    weights = softmax(ceilings.log_likelihood(people(world.test), people(world.training)), axis=1)
    alike = (world.sex[:, None] == np.array(world.training.sexes)).astype(float)
    pool = world.training.gallery().numpy()

    def mean(score: Any) -> Float[np.ndarray, " n"]:
        found: np.ndarray = np.mean([score(truth) for truth in world.photos], axis=0)
        return found

    found = {
        "random face of the sex": mean(
            lambda truth: draws.energy_score_of_pool(alike / alike.sum(axis=1, keepdims=True), pool, truth)
        ),
        "exact posterior of the world": mean(lambda truth: draws.energy_score_of_pool(weights, pool, truth)),
    }
    for truncation, identities in drawn.items():
        found[f"truncation {truncation:g}"] = mean(lambda truth, z=identities: draws.energy_score(z, truth))
    for name, values in found.items():
        yield row("energy score", name, values, world.sex)
    ends = [found["random face of the sex"], found["exact posterior of the world"]]
    for truncation in drawn:
        name = f"truncation {truncation:g}"
        three = np.stack([*ends, found[name]], axis=1)
        interval = bootstrap(three, lambda m: (m[..., 0] - m[..., 2]) / (m[..., 0] - m[..., 1]), world.sex)
        yield {"measure": "energy score, skill", "system": name, **interval._asdict(), "n": len(three)}


def variety(world: World, drawn: dict[float, Float[np.ndarray, "n draws dim"]]) -> Iterator[dict[str, Any]]:
    """Diversity beside that of a faithful sampler and of real persons; two voices; distance to real faces."""
    likelihood = ceilings.log_likelihood(people(world.test), people(world.training))
    alike, error = ceilings.mean_and_sample(likelihood, world.training.gallery().numpy())[1]
    ends = {"low": 1 - alike - 1.96 * error, "high": 1 - alike + 1.96 * error}
    yield {
        "measure": "diversity",
        "system": "faithful sampler, 1 − C_sample",
        "value": 1 - alike,
        **ends,
        "n": len(likelihood),
    }
    first = world.photos[0]
    real = 1 - draws.between_voices(first[:, None], world.sex)
    yield {"measure": "diversity", "system": "real persons of the sex", "value": real, "n": len(first)}
    yield {"measure": "cosine of two voices' faces", "system": "photographs", "value": 1 - real, "n": len(first)}
    men = world.readers["man"]
    yield row("sex right", "photographs", ((men.read(first) > 0.5) == (world.sex == "m")).astype(float), world.sex)
    trained = world.training.gallery().numpy()
    yield from _distances(world, "other photographs", trained, np.array(world.training.sexes))
    for truncation, identities in drawn.items():
        name = f"truncation {truncation:g}"
        yield row("diversity", name, metrics.diversity(identities), world.sex)
        value = draws.between_voices(identities, world.sex)
        yield {"measure": "cosine of two voices' faces", "system": name, "value": value, "n": len(first)}
        right = (men.read(identities) > 0.5) == (world.sex == "m")[:, None]
        yield row("sex right", name, right.mean(axis=1), world.sex)
        yield from _distances(world, name, identities[:, :4].reshape(-1, identities.shape[-1]), np.repeat(world.sex, 4))


def spread(world: World, drawn: dict[float, Float[np.ndarray, "n draws dim"]]) -> Iterator[dict[str, Any]]:
    """The standard deviation of an attribute within a voice, and of one draw a voice within sex.

    Beside draws: training faces drawn by the exact posterior of the world, and any of the sex.
    """
    generator, pool = np.random.default_rng(0), world.training.gallery().numpy()
    weights = {
        "exact posterior of the world": ceilings.log_likelihood(people(world.test), people(world.training)),
        "random face of the sex": np.where(world.sex[:, None] == np.array(world.training.sexes), 0.0, -np.inf),
    }
    systems = {f"truncation {truncation:g}": identities for truncation, identities in drawn.items() if truncation}
    for name, values in weights.items():
        chosen = [generator.choice(len(pool), DRAWS, p=share) for share in softmax(values, axis=1)]
        systems[name] = pool[np.stack(chosen)]
    for name in ("age of the skin", TONE):
        for system, identities in systems.items():
            read = world.readers[name].read(identities)
            yield row(f"spread within a voice: {name}", system, read.std(axis=1), world.sex)
            about = [read[world.sex == s] - read[world.sex == s].mean() for s in ("f", "m")]
            pooled = float(np.mean([values.std() for values in about]))
            yield {
                "measure": f"spread over all voices of a sex: {name}",
                "system": system,
                "value": pooled,
                "n": len(read),
            }


def calibrated(world: World, drawn: dict[float, Float[np.ndarray, "n draws dim"]]) -> Iterator[dict[str, Any]]:
    """Coverage of central intervals of the draws, and whether the PIT is uniform.

    The truth is what the same reader reads from the photograph; and, of age and tone, the world's own number, for which
    the reader's error is added to each draw.
    """
    generator = np.random.default_rng(0)
    for name, column in ATTRIBUTES.items():
        reader, of_world = world.readers[name], world.truth[column].to_numpy()
        truths = {f"{name}, as read from the photograph": (reader.read(world.photos[0]), 0.0)}
        if name in ("age of the skin", TONE):
            truths[f"{name}, the world's"] = (of_world, reader.error)
        for truncation in TRUNCATIONS[1:]:
            read = reader.read(drawn[truncation])
            for what, (truth, error) in truths.items():
                found = draws.calibration(read + error * generator.standard_normal(read.shape), truth)
                for level, inside in found.inside.items():
                    yield row(f"coverage of {level:.0%}: {what}", f"truncation {truncation:g}", inside * 1.0, world.sex)
                yield row(f"PIT, mean: {what}", f"truncation {truncation:g}", found.pit, world.sex)
                p = float(kstest(found.pit, "uniform").pvalue)
                uniform = {"measure": f"PIT, p of uniform: {what}", "system": f"truncation {truncation:g}"}
                yield {**uniform, "value": p, "n": len(truth)}


def fairness(
    world: World, drawn: dict[float, Float[np.ndarray, "n draws dim"]], read: Any = None
) -> Iterator[dict[str, Any]]:
    """How often speakers of the lightest and the darkest third are drawn a face of it, beside how often anybody is.

    Both the speakers' thirds and the faces' are those of the training persons' photographs, as the reader reads them.
    """
    reader = world.readers[TONE]
    reference = reader.read(world.training.gallery().numpy())
    cuts = np.quantile(reference, [1 / 3, 2 / 3])
    speakers = np.array(TONES)[np.searchsorted(cuts, reader.read(world.photos[0]))]
    for truncation, identities in drawn.items():
        tones = reader.read(identities)
        levels = np.array(TONES)[np.searchsorted(cuts, tones)]
        for level in (TONES[0], TONES[-1]):
            shares = (levels == level).mean(axis=1)
            about = {"truncation": truncation, "third": level}
            for who, of in (("speakers of this third", speakers == level), ("all speakers", np.full(len(tones), True))):
                found = bootstrap(shares[of])
                yield {**about, "of": who, "speakers": int(of.sum()), "drawn so": found.value} | {
                    "low": found.low,
                    "high": found.high,
                    "base rate": float((speakers == level).mean()),
                }


def of_faces(world: World, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The same of drawn faces: f_arc looks at what the prior drew from each identity; undetected faces are left out."""
    profile = load_profile()
    prior, pack = Prior.from_folder(profile.part("prior")), FacePack.from_folder(profile.part("faces"))
    for truncation in TRUNCATIONS:
        identities = world.draw(truncation, count, seed).reshape(-1, 512)
        seen, found = [], []
        for start in range(0, len(identities), 40):
            part = torch.from_numpy(identities[start : start + 40])
            each = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
            pictures = prior.sample(part, profile.steps, profile.guidance, each)
            pixels = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            z, there = pack.embed(list(pixels))
            seen.append(z)
            found.append(there)
        looked = np.concatenate(seen).reshape(-1, count, 512)
        detected = np.concatenate(found).reshape(-1, count)
        whole = detected.all(axis=1)
        sex, name = world.sex[whole], f"truncation {truncation:g}"
        yield {"measure": "undetected", "system": name, "value": float((~detected).mean()), "n": detected.size}
        yield row("cosine of a face", name, metrics.cosine(looked[whole, 0], world.photos[0][whole]), sex)
        yield row("diversity", name, metrics.diversity(looked[whole]), sex)
        between = draws.between_voices(looked[whole], sex)
        yield {"measure": "cosine of two voices' faces", "system": name, "value": between, "n": int(whole.sum())}
        right = (world.readers["man"].read(looked[whole]) > 0.5) == (sex == "m")[:, None]
        yield row("sex right", name, right.mean(axis=1), sex)
        yield from _distances(world, name, looked[whole].reshape(-1, 512), np.repeat(sex, count))
        kept = World(**{**world.__dict__, "photos": [photo[whole] for photo in world.photos]})
        for fair in fairness(kept, {truncation: looked[whole]}):
            measure = f"drawn {fair['third']}: {fair['of']}"
            yield {"measure": measure, "system": name, "value": fair["drawn so"]} | {
                "low": fair["low"],
                "high": fair["high"],
                "n": fair["speakers"],
            }


def row(measure: str, system: str, values: Float[np.ndarray, " n"], sex: Shaped[np.ndarray, " n"]) -> dict[str, Any]:
    """A mean over persons, sexes alike, with its interval."""
    return {"measure": measure, "system": system, **bootstrap(values, groups=sex)._asdict(), "n": len(values)}


def _recall(values: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """R@10 of each voice, as the mean over all galleries of 100 that hold its face: ties count against it."""
    above = metrics.rank(values) - 1
    size = min(GALLERY, len(values))
    hits: np.ndarray = hypergeom(len(values) - 1, above, size - 1).cdf(K - 1)
    return hits


def _luck(name: str, values: Float[np.ndarray, "n n"], sex: Shaped[np.ndarray, " n"]) -> Iterator[dict[str, Any]]:
    """R@10 of random sets of 100 women and 100 men, as many as MiniVox's test persons; the interval is of sets."""
    generator, found = np.random.default_rng(0), []
    for _ in range(SETS):
        sets = [generator.choice(np.flatnonzero(sex == s), GALLERY, replace=False) for s in ("f", "m")]
        found.append(np.mean([metrics.recall(values[np.ix_(some, some)], K).mean() for some in sets]))
    low, high = np.quantile(found, [0.025, 0.975])
    about = {"system": name, "n": SETS}
    yield {
        "measure": "R@10 of 100 within sex, sets of 200",
        "value": float(np.mean(found)),
        "low": low,
        "high": high,
    } | about
    yield {
        "measure": f"sets of 200 with an R@10 below {FLOOR}",
        "value": float(np.mean(np.array(found) < FLOOR)),
    } | about


def _distances(
    world: World, name: str, faces: Float[np.ndarray, "m dim"], sex: Shaped[np.ndarray, " m"]
) -> Iterator[dict[str, Any]]:
    parts = [metrics.kernel_distance(faces[sex == s], world.photos[0][world.sex == s]) for s in ("f", "m")]
    measure = "kernel distance to real faces within sex"
    yield {"measure": measure, "system": name, "value": float(np.mean(parts)), "n": len(faces)}


def _photo_sex(pairs: Pairs) -> Shaped[np.ndarray, " photos"]:
    return np.repeat(np.array(pairs.sexes), pairs.face_start.diff())


if __name__ == "__main__":
    main()
