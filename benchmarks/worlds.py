"""Do settings of Stage I travel? The same settings in worlds with other links, other spaces, other numbers of persons.

    python benchmarks/worlds.py  # hours; writes benchmarks/results/worlds.csv and worlds.md
    python benchmarks/worlds.py --persons 100 --seeds 1  # some minutes

What is measured is kept in outputs/worlds, a file for each row of a world, so that a stopped run goes on, and a run
with more persons or seeds adds to it. The table is of all that is kept.

Each world is a table of embeddings, without pictures or sound. Shared causes drive traits of the face and of the
voice, by MiniVox's links or by random ones of the same strengths. Traits, sex and what is the face's or the voice's own
are sent into the two spaces by random maps, linear and bent: "signed" is like MiniVox's (voices of 64 numbers, faces of
512 without a common mean), "open" like GE2E's and SFace's (voices of 256 numbers, none negative, of length one; faces
of 128 with a common mean of length 0.3). A person has six windows and three photographs. Settings are trained on
persons of one world and stopped by 100 others of it; 400 more are tested: 1:2 matching within sex, and R@10 in four
galleries of 100.

Expected, written before the run: the miniature's settings win in MiniVox's own kind of world and fall below the ridge
regression by likelihood ratio in "open" worlds and with few persons; the paper's settings fall below it everywhere
under 1,000 persons; subtracting the common mean (ratio against cosine) matters in "open" worlds alone; a ridge
regression with an MLP that adds to it, stopped by validation persons, is nowhere worse than the regression, and better
with 2,000 persons and more.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from minivox import world
from v2f_core.artefacts.files import safe_name
from v2f_core.artefacts.profiles import load_profile
from v2f_core.evaluation import tables
from v2f_core.evaluation.protocols import WITHIN
from v2f_core.identity.ridge import fit_ridge
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings, train_stage1

RESULTS = Path("benchmarks/results")
WINDOWS, PHOTOS, VALIDATION, TEST = 6, 3, 100, 400
PERSONS = (100, 300, 800, 2000)
RATIO, COSINE = "ridge, likelihood ratio", "ridge, cosine"
ROWS = [RATIO, COSINE, "the paper's", "the miniature's", "the open profile's"]
SHOWN = (tables.MATCHING, "R@10", tables.COSINE)


class Space(NamedTuple):
    """A voice's and an identity's width, and their kind."""

    voice: int
    face: int
    positive: bool  # voices are of unit length, without negative numbers
    mean: float  # length of the identities' common mean


SPACES = {"signed": Space(64, 512, False, 0.0), "open": Space(256, 128, True, 0.3)}
LINKS = ("MiniVox's", "random")


def main() -> None:
    """Make the worlds, train, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", nargs="+", default=LINKS, choices=LINKS)
    parser.add_argument("--spaces", nargs="+", default=SPACES, choices=SPACES)
    parser.add_argument("--persons", type=int, nargs="+", default=PERSONS)
    parser.add_argument("--seeds", type=int, default=3, help="worlds of each kind")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--kept", type=Path, default=Path("outputs/worlds"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    rows = dict.fromkeys([RATIO, *chosen.rows])  # all gains are over it
    for seed in range(chosen.seeds):
        for persons in chosen.persons:
            for links in chosen.links:
                for space in chosen.spaces:
                    name = f"{links} links, {space}, {persons} persons"
                    for row in rows:
                        path = chosen.kept / f"{safe_name(f'{name}, {row}, {seed}')}.csv"
                        if not path.exists():
                            frame = measured(links, SPACES[space], persons, seed, row)
                            where = {"gallery": name, "links": links, "space": space, "persons": persons}
                            tables.write(chosen.kept, path.name, frame.assign(**where, system=row, seed=seed))
                            print(path.stem, flush=True)
    table = worlds_table(pd.concat(map(pd.read_csv, sorted(chosen.kept.glob("*.csv")))))
    tables.write(chosen.out, "worlds.csv", table)
    tables.write(chosen.out, "worlds.md", text_of(table))


def worlds_table(tidy: pd.DataFrame) -> pd.DataFrame:
    """The summary of each kind of world over the seeds that all its rows have, each against :data:`RATIO`; and of
    all worlds together, and of those with so many persons.

    The persons of one world are tested once for each number that train: together their values are averaged first.
    """
    places = {"links": LINKS.index, "space": list(SPACES).index, "persons": int, "system": ROWS.index}
    tidy = tidy.sort_values(["links", "space", "persons", "system"], key=lambda c: c.map(places[str(c.name)]))
    kinds = []
    for _, frame in tidy.groupby("gallery", sort=False):
        seeds = set.intersection(*frame.groupby("system").seed.agg(set))
        kinds.append(frame[frame.seed.isin(seeds)].assign(worlds=len(seeds)))
    kept = pd.concat(kinds)
    everywhere = [name for name in ROWS if all((frame.system == name).any() for frame in kinds)]
    together = kept[kept.system.isin(everywhere)].copy()
    for column in ("stratum", "person"):
        together[column] = together.links + together.space + together[column].astype(str)
    pools = {"all": together} | {f"all, {n} persons": part for n, part in together.groupby("persons")}
    one = ["links", "space", "persons", "seed"]
    frames = [part.assign(gallery=name, worlds=len(part.groupby(one))) for name, part in pools.items()]
    return pd.concat(
        tables.wide(tables.summarise(frame, RATIO, resamples=1000), SHOWN).assign(worlds=frame.worlds.iloc[0])
        for frame in (*frames, *kinds)
    )


def text_of(table: pd.DataFrame) -> str:
    """All worlds together, and each kind of them, below each other as Markdown."""
    return "".join(
        f"{name}, {worlds} world{'s' * (worlds > 1)}\n\n{tables.markdown(part, SHOWN)}\n"
        for (name, worlds), part in table.groupby(["gallery", "worlds"], sort=False)
    )


def settings(seed: int) -> dict[str, Stage1Settings]:
    """The settings that are compared. The paper's 10,000 steps are cut to 400: persons so few are learnt by then."""
    mini = load_profile("mini").stage1
    return {
        "the paper's": Stage1Settings(steps=400, evaluate_every=50, seed=seed),
        "the miniature's": Stage1Settings(**{**mini, "seed": seed}),
        "the open profile's": Stage1Settings(**{**load_profile("open").stage1, "seed": seed}),
    }


def measured(links: str, space: Space, persons: int, seed: int, row: str) -> pd.DataFrame:
    """A row's values of the test persons of one world."""
    training, validation, test = world_of(links, space, persons, seed)
    voices = test.pooled_voices()
    if row in (RATIO, COSINE):
        ridge = fit_ridge(training.pooled_voices(), training.centroids())
        return scored((ridge.ratio if row == RATIO else ridge.mean)(voices), test)
    with tempfile.TemporaryDirectory() as folder:
        aligner = train_stage1(training, validation, settings(seed)[row], folder, {})
    with torch.no_grad():
        return scored(aligner(voices), test)


def scored(predicted: torch.Tensor, test: Pairs) -> pd.DataFrame:
    """Values of each person within galleries of 100 of one sex, as a tidy frame. A seed's persons are its own."""
    z, truth = normalize(predicted.float(), dim=1).numpy(), test.gallery().numpy()
    order = np.argsort(np.array(test.sexes), kind="stable")
    labels = np.empty(len(order), dtype="<U8")
    labels[order] = [f"{i // 100}" for i in range(len(order))]
    values: dict[str, Any] = tables.person_values(z @ truth.T, labels)
    values |= {tables.COSINE: (z * truth).sum(axis=1)}
    frame = pd.DataFrame({"person": test.persons, "stratum": labels, **{name: values[name] for name in SHOWN}})
    return frame.melt(["person", "stratum"], var_name="metric").assign(by=WITHIN)


# --- the worlds


def world_of(links: str, space: Space, persons: int, seed: int) -> tuple[Pairs, Pairs, Pairs]:
    """Training, validation and test persons of a world; the same world whatever the number of persons."""
    g = np.random.default_rng((seed, LINKS.index(links), space.voice))
    face_links, voice_links = (links_of(side, links, g) for side in ("face", "voice"))
    to_face = Embedding(6 + 1 + 20, space.face, g, space.mean, positive=False)
    to_voice = Embedding(5 + 1 + 20, space.voice, g, 0.0, positive=space.positive)
    parts = []
    for split, count in (("test", TEST), ("val", VALIDATION), ("train", persons)):
        shared = g.standard_normal((count, face_links.shape[1]))
        man = np.repeat([[-1.0], [1.0]], [count - count // 2, count // 2], axis=0)
        face = np.hstack([traits(shared, face_links, g), shared[:, -1:], man, g.standard_normal((count, 20))])
        voice = np.hstack([traits(shared, voice_links, g), man, g.standard_normal((count, 20))])
        names = [f"{seed}/{split}/{i:05d}" for i in range(count)]
        rows, starts = (), []
        for embed, values, each in ((to_voice, voice, WINDOWS), (to_face, face, PHOTOS)):
            rows += (torch.from_numpy(embed(np.repeat(values, each, axis=0), g)).float(),)
            starts.append(torch.arange(0, count * each + 1, each))
        sexes = ["f" if sex < 0 else "m" for sex in man[:, 0]]
        parts.append(Pairs(names, sexes, rows[0], starts[0], rows[1], starts[1]))
    test, validation, training = parts
    return training, validation, test


def links_of(side: str, kind: str, g: np.random.Generator) -> np.ndarray:
    """Weights of the shared causes in each trait: MiniVox's, or random ones of the same sum of squares."""
    weights = world.loadings(side)
    if kind == LINKS[0]:
        return weights
    random = g.standard_normal(weights.shape)
    lengths = np.linalg.norm(weights, axis=1, keepdims=True)
    return random / np.linalg.norm(random, axis=1, keepdims=True) * lengths


def traits(shared: np.ndarray, weights: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Traits of variance one: the links' part and noise."""
    own = np.sqrt(np.maximum(1 - (weights**2).sum(axis=1), 0))
    return shared @ weights.T + own * g.standard_normal((len(shared), len(weights)))


class Embedding:
    """A random map from traits into a space: a linear part, a bent part, noise of each window or photograph."""

    def __init__(self, width: int, dim: int, g: np.random.Generator, mean: float, positive: bool) -> None:
        self.linear, self.bent = (g.standard_normal((width, dim)) / np.sqrt(width) for _ in range(2))
        self.inside = g.standard_normal((width, width)) / np.sqrt(width)
        self.scale = np.exp(g.normal(0, 0.7, dim))  # axes differ in size, which a rotation hides
        self.rotation = np.linalg.qr(g.standard_normal((dim, dim)))[0]
        direction = g.standard_normal(dim)
        self.mean, self.positive = mean * direction / np.linalg.norm(direction), positive

    def __call__(self, values: np.ndarray, g: np.random.Generator) -> np.ndarray:
        """Embeddings of some rows of traits."""
        x = values @ self.linear + np.tanh(2 * values @ self.inside) @ self.bent
        x = (x + 0.6 * g.standard_normal(x.shape)) * self.scale @ self.rotation
        if self.positive:
            x = np.maximum(x - 0.3 * x.std(), 0) + 1e-6
            return x / np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        x = x * np.sqrt(1 - self.mean @ self.mean) + self.mean
        return x / np.linalg.norm(x, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
