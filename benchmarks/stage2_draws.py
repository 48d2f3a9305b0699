"""Does sampling do what L_self is said to do, does a critic on draws add to it, and where do pictures lose a draw?

    python benchmarks/stage2_draws.py pictures     # a critic on draws, causes; MiniVox's 100 validation persons
    python benchmarks/stage2_draws.py l_self       # L_self beside sampling; each half an hour of one free core
    python benchmarks/stage2_draws.py pictures --persons 16 --stage2-steps 4 --seeds 1 --work runs/trial --out runs

The paper motivates L_self by identities that lie off the manifold on which the prior was trained. Stage II is trained
here from the shipped aligner, as Eq. 14 says and by the best other critic of the study, for as many steps as in the
study; and once more on draws (`obey`). Everyone's faces start from the same noise under every system. What is measured
is kept in the work folder, so that an interrupted run goes on; the table, stage2_draws.csv or draws_in_pictures.csv, is
written anew after every system.

- residual: mean square of the noise that the prior does not foresee in the speaker's photograph, told the identity;
- L_self: Eq. 14 of the same photograph;
- kept: the cosine of a drawn face with the identity that it was drawn for;
- likeness, matching within sex by cosine and by log ratio: of a drawn face, against another photograph than the one
  that the true identity is read from;
- nearer to its own identity, by the second scorer: the cosine of the judge's features of a drawn face with those that
  its identity foretells, less the mean cosine with those that others' identities of the sex foretell, so that what all
  faces share has no effect. A ridge regression on training photographs foretells. Told apart: how often it is nearer;
- sex right: the speaker's; sex kept: the one that is read from the identity;
- tone, picture minus identity: skin tone as a ridge regression reads it, above 0 where the picture is darker; drawn
  light, drawn dark: in that third of training photographs; dark kept: of the dark identities, those drawn dark;
  contrast: the slope of the pictures' tone on the identities', 1 where nothing is lost (added after the first table had
  shown that pictures are not darker or lighter on average);
- diversity of a voice's faces, cosine of two voices' faces, kernel distance to training persons' photographs
  within sex.

Attributes are read by f_arc and by the second scorer. Intervals are BCa over persons, those of the kernel distance over
its pseudo-values; gains are paired with the system named under "against". Seeds are averaged for each person first.

**Expected of L_self.** Eq. 14 has the lowest L_self, because its network stops listening, and the worst residual. By
all other measures it is worse than ẑ, or no face at all. The other critic is within the interval of ẑ but for its lower
diversity. Draws have a higher residual than ẑ, since a wrong person is a worse guess than a mean, and a tenth or less
of ẑ's kernel distance; they are kept as well as true identities are, ẑ is not; likeness and matching of one draw are
below ẑ's. So sampling puts identities where the prior knows them, and no L_self does.

**Expected of a critic on draws** (written before its first run; known by then: draws are kept with 0.69, true
identities with 0.78; in pictures sex is right in 95.5 % and dark faces are drawn too seldom). A draw needs no judge of
whether it could be the voice's, since it comes from p(z | v). Faces with a larger p(z | v)/p(z) would be nearer to ẑ
and less varied, and that is truncation. What can be mended is that the picture shows the draw. So the critic asks f_arc
which of the batch's draws a face was drawn for. All others are rivals, of either sex, so that what f_arc likes in
anybody (light, frontal faces) gains nothing and a lost sex costs. At the temperature 0.2 the right answer has a
probability of one half at the start; at 0.1 draws are told apart already. The ordinary loss on photographs is added, as
an anchor; its weight gives both gradients of the adapters the same length at the start (0.14 and 0.0028 on training
persons). Only adapters are trained: a draw passes no gradient to φ.

A gain is a gain by two scorers, of which the second has no part in the training: faces of draws come nearer to their
own identity by the second scorer *and* faces of true identities, which the critic never saw, look more like another
photograph of the person by the second scorer; both paired intervals lie above 0; and neither diversity nor kernel
distance is worse with a paired interval beyond 0. Expected: draws are kept better by 0.03 to 0.10 by f_arc, sex right
gains one to two points by f_arc. By the second scorer draws come nearer by −0.02 to +0.02, and true identities'
likeness falls by 0.00 to 0.02: adapters again learn what f_arc reads, as `cycle` with adapters did in the study. Of
what tone loses, less than half is won back. Kernel distance rises a little. So: no gain by the standard, most likely.

**Expected of the causes.** Photographs and their reconstructions by the VAE are dark at the base rate and show their
sex, so it is neither reader nor VAE. True identities are drawn lighter too, by about as much as draws: it is the prior.
Without guidance (1) faces are less saturated, kept less well, and tone moves less; 10 steps are as 25. Draws lose sex
more often than true identities, since more of them lie between the sexes. (Found first: neither kind is drawn lighter,
but both with less contrast, and guidance 1 is worse than 1.5. So more guidance was added, and this written before it
ran: with a guidance of 3 the contrast of draws rises from 0.73 to 0.80, sex is kept by one point more, draws are kept
better, and the kernel distance doubles.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import draws
import numpy as np
import pandas as pd
import study
import torch
from jaxtyping import Float, UInt8
from posterior import TONE, Reader, World, row
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from v2f_core.app.evaluate import log_ratio
from v2f_core.artefacts.files import atomic_write, folder_hash, write_json
from v2f_core.artefacts.profiles import Profile, load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.consistency import Critic, FaceBatch, SelfConsistency, View, denoise, paper
from v2f_core.diffusion.lora import fuse_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation import metrics
from v2f_core.evaluation.judge import Judge
from v2f_core.evaluation.metrics import bootstrap, paired_difference
from v2f_core.evaluation.protocols import first_of_each_sex
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import FacePack
from v2f_core.identity.photos import read_image
from v2f_core.studies.ablation import TABLES, Ablation
from v2f_core.studies.critics import cycle, generated
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.latents import pair_faces, stored_latents
from v2f_core.training.stage2 import Stage2Settings, train_stage2

OF_THE_STUDY = (*study.TABLES["chosen"], *TABLES["table4"])
STAGE2 = [row for row in OF_THE_STUDY if row.system in ("cycle, φ alone, λ 30", "paper")]
FILES = {"pictures": "draws_in_pictures", "l_self": "stage2_draws"}
PAPER_STEPS = 25
STEPS = 150  # the study's
SETTINGS = {  # steps and guidance
    "guidance 1": (25, 1.0),
    "10 steps": (10, 1.5),
    "guidance 1, 10 steps": (10, 1.0),
    "guidance 2, 10 steps": (10, 2.0),
    "guidance 3, 10 steps": (10, 3.0),
}
DRAWS, TRUE = "draws, truncation 1", "true identities"
READERS, MOVED = ("f_arc", "the second scorer"), "tone, picture minus identity, read by "
AT_ONCE, NOISINGS = 20, 4

Pictures = UInt8[np.ndarray, "n views height width 3"]


def obey(view: View, draws: Float[Tensor, "batch 512"], faces: FaceBatch, anchor: float = 50.0) -> Tensor:
    """−log softmax over the batch of whom the face drawn for a draw shows; and the prior's own loss on photographs."""
    rivals = replace(faces, women=torch.ones_like(faces.women))  # everyone else, whatever their sex
    told = generated(view, draws, rivals, critic=partial(cycle, rival_temperature=0.2))
    return told + anchor * denoise(view, faces.z_arc, faces)


class Drawing(Aligner):
    """An aligner whose answer is a draw from p(z | v), which passes no gradient."""

    draw: Callable[[Tensor], Tensor]

    def forward(self, v: Float[Tensor, "*batch speaker"]) -> Float[Tensor, "*batch 512"]:
        """One identity a voice."""
        return self.draw(v)[..., 0, :]


class Shown(NamedTuple):
    """Identities and the pictures that show them, and the prior that drew these."""

    identities: Float[np.ndarray, "n views 512"]
    pictures: Pictures
    prior: Prior | None = None  # without it the losses are left out


class Source(NamedTuple):
    """A system: its name, how its pictures are made, the seed of its training, and what it is compared with."""

    name: str
    make: Callable[[], Shown]
    against: str = ""
    seed: int = 0
    identities: Float[np.ndarray, "n views 512"] | None = None  # where they are known before any training


class Measured(NamedTuple):
    """Values of persons, NaN where there are none, and values of the whole set."""

    each: dict[str, list[float]]
    whole: dict[str, float]


def main() -> None:
    """Train, draw, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=FILES)
    parser.add_argument("--persons", type=int, default=100, help="validation persons, women and men alike")
    parser.add_argument("--draws", type=int, default=2, help="faces of each voice")
    parser.add_argument("--stage2-steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=2, help="of the critic on draws")
    parser.add_argument("--work", type=Path, default=Path("runs/stage2_draws"), help="for weights and measured values")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    bench = Bench.open(load_profile("mini"), chosen.persons, chosen.draws, chosen.work, chosen.stage2_steps)
    found: dict[str, list[Measured]] = {}
    against, tones = {}, {}
    for source in getattr(bench, chosen.table)(chosen.seeds):
        kept = chosen.work / f"{source.name} {source.seed}.json"
        if not kept.is_file():
            write_json(kept, bench.measure(source.make())._asdict())
        found.setdefault(source.name, []).append(Measured(**json.loads(kept.read_text())))
        against[source.name] = source.against
        if source.identities is not None:
            tones[source.name] = bench.world.readers[TONE].read(source.identities).mean(axis=1)
        table = tabulate(found, against, bench.world.sex, tones)
        print(table[table.system == source.name].to_string(index=False), flush=True)
        with atomic_write(chosen.out / f"{FILES[chosen.table]}.csv") as part:
            table.to_csv(part, index=False, float_format="%.4g")


def tabulate(
    found: dict[str, list[Measured]], against: dict[str, str], sex: np.ndarray, tones: dict[str, np.ndarray]
) -> pd.DataFrame:
    """One row a system and measure, with the paired gain where the other system has it too.

    ``tones``: the skin tone of each person's identities under a system, for the contrast of its pictures.
    """

    rows = []
    for system, seeds in found.items():
        base = found.get(against[system], [])
        for name in seeds[0].each:
            values = mean_over_seeds(seeds, name)
            known = np.isfinite(values)
            if not enough(sex[known]):  # such as how many dark identities are drawn dark, where no identity is dark
                continue
            line = {"seeds": len(seeds), **row(name, system, values[known], sex[known])}
            if base and name in base[0].each:
                others = mean_over_seeds(base, name)
                both = known & np.isfinite(others)
                if enough(sex[both]):
                    gain = paired_difference(values[both], others[both], sex[both])
                    line |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
                    line["against"] = against[system]
            rows.append(line)
        for reader in READERS if system in tones else ():
            moved = [mean_over_seeds(found[name], MOVED + reader) for name in (system, against[system]) if name]
            about = {"system": system, "measure": f"contrast of skin tone, read by {reader}", "seeds": len(seeds)}
            rows.append(about | contrast(tones[system], moved, sex) | {"n": len(sex), "against": against[system]})
        for name in seeds[0].whole:
            value = float(np.mean([measured.whole[name] for measured in seeds]))
            rows.append({"seeds": len(seeds), "system": system, "measure": name, "value": value, "n": len(sex)})
    columns = ["system", "measure", "value", "low", "high", "n", "seeds", "against", "gain", "gain low", "gain high"]
    return pd.DataFrame(rows).reindex(columns=columns)


def mean_over_seeds(seeds: list[Measured], name: str) -> Float[np.ndarray, " n"]:
    """Each person's mean of a measure."""
    return np.mean([measured.each[name] for measured in seeds], axis=0)


def enough(sexes: np.ndarray) -> bool:
    """Whether there are women and men, two of each, so that an interval can be told."""
    return min((sexes == sex).sum() for sex in ("f", "m")) >= 2


def contrast(told: Float[np.ndarray, " n"], moved: list[Float[np.ndarray, " n"]], sex: np.ndarray) -> dict[str, float]:
    """The slope over persons of the pictures' tone on the identities'; with a second system, also the gain over it.

    ``moved``: the pictures' tone minus that of the identities, of the system and of the other. Persons without a face
    are left out.
    """
    known = np.isfinite(moved).all(axis=0)
    values = [told, told**2, *(column for less in moved for column in (told + less, told * (told + less)))]
    moments = np.stack([value[known] for value in values], axis=1)

    def slope(m: np.ndarray, at: int) -> np.ndarray:
        return (m[..., at + 1] - m[..., 0] * m[..., at]) / (m[..., 1] - m[..., 0] ** 2)

    line = bootstrap(moments, lambda m: slope(m, 2), sex[known])._asdict()
    if len(moved) > 1:
        gain = bootstrap(moments, lambda m: slope(m, 2) - slope(m, 4), sex[known])
        line |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
    return line


class SecondScorer(NamedTuple):
    """The judge's features, less their mean over training photographs, and what they foretell."""

    judge: Judge
    centre: Float[np.ndarray, " features"]
    readers: dict[str, Reader]
    foretelling: Any  # a ridge regression from identities to features

    @classmethod
    def fit(cls, judge: Judge, photographs: Pictures, world: World, values: dict[str, np.ndarray]) -> SecondScorer:
        """From the first photograph of each training person."""
        features = judge.features(list(photographs[:, 0]))
        readers = {name: Reader.fit(features, value, np.arange(len(value))) for name, value in values.items()}
        identities = world.training.gallery().numpy()
        foretelling = RidgeCV(np.logspace(-3, 2, 11)).fit(identities, features - features.mean(axis=0))
        return cls(judge, features.mean(axis=0), readers, foretelling)

    def foretell(self, identities: Float[np.ndarray, "n 512"]) -> Float[np.ndarray, "n features"]:
        """The features that a face of each identity should have, less the mean."""
        features: np.ndarray = self.foretelling.predict(identities)
        return unit(features)

    def look(self, pictures: Pictures) -> tuple[Float[np.ndarray, "n views features"], dict[str, np.ndarray]]:
        """Unit features less the mean, and the attributes that are read from them."""
        flat = self.judge.features(list(pictures.reshape(-1, *pictures.shape[2:])))
        read = {name: reader.read(flat).reshape(pictures.shape[:2]) for name, reader in self.readers.items()}
        return unit(flat - self.centre).reshape(*pictures.shape[:2], -1), read


class Bench(NamedTuple):
    """Validation persons with photographs as the prior sees them, and the nets."""

    profile: Profile
    world: World
    faces: FaceBatch
    pairs: tuple[Any, Any]
    pack: FacePack
    arcface: nn.Module
    second: SecondScorer
    photographs: Pictures  # the first two of each person
    cuts: dict[str, Float[np.ndarray, " 2"]]  # reader → where the thirds of skin tone meet
    count: int
    work: Path
    steps: int

    @classmethod
    def open(cls, profile: Profile, persons: int, count: int, work: Path, steps: int) -> Bench:
        """Of the profile's dataset."""
        folder, manifest = profile.posterior_of("aligner"), open_dataset(profile)
        assert folder is not None  # the mini profile ships one
        assert profile.judge is not None
        world = World.open(folder, "val")
        pack, prior = FacePack.from_folder(profile.part("faces")), Prior.from_folder(profile.part("prior"))
        stores = *embed_dataset(profile, manifest), stored_latents(profile, manifest, prior, pack)
        pairs = tuple(pair_faces(manifest, *stores, split, prior.latent_shape) for split in ("train", "val"))
        assert pairs[1].pairs.persons == world.test.persons
        rows = first_of_each_sex(world.test.sexes, min(persons, len(world.test.persons)))
        _, faces = pairs[1].first(len(pairs[1].pairs.persons))
        some = {"test": world.test.only(rows), "sex": world.sex[rows], "photos": [z[rows] for z in world.photos]}
        of_all = world.training.persons
        images = [read_photographs(manifest, names, 2) for names in (of_all, some["test"].persons)]
        factors = pd.read_csv(manifest.root / "factors.csv").set_index("name").loc[of_all]
        values = {TONE: factors.face_skin_tone.to_numpy(), "man": (factors.sex == "m").to_numpy() * 1.0}
        second = SecondScorer.fit(Judge.from_folder(profile.judge), images[0], world, values)
        read = {
            "f_arc": world.readers[TONE].read(world.training.gallery().numpy()),
            "the second scorer": second.look(images[0][:, :1])[1][TONE][:, 0],
        }
        return cls(
            profile,
            World(**{**world.__dict__, **some}),
            faces[torch.tensor(rows)],
            pairs,
            pack,
            differentiable_arcface(pack.arcface_path),
            second,
            images[1],
            {name: np.quantile(tones, [1 / 3, 2 / 3]) for name, tones in read.items()},
            count,
            work,
            steps,
        )

    def pictures(self, seeds: int) -> Iterator[Source]:
        """Photographs; faces of draws and of true identities, also after a critic on draws and by other samplers."""
        own = self.repeated(self.world.photos[0])
        one, taken = own[:, :1], {"photographs": self.photographs[:, :1], "photographs through the VAE": self.rebuilt()}
        for name, pictures in taken.items():
            against = "" if name == "photographs" else "photographs"
            yield Source(name, partial(Shown, one, pictures), against, identities=one)
        both = {DRAWS: self.world.draw(1.0, self.count, 0), TRUE: own}
        for name, identities in both.items():
            yield Source(name, partial(self.drawn, identities, self.fresh), identities=identities)
        for seed in range(seeds):
            for name, identities in both.items():
                make = partial(self.drawn, identities, partial(self.obeying, seed))
                yield Source(f"{name}, after a critic on draws", make, name, seed, identities)
        for setting, (steps, guidance) in SETTINGS.items():
            for name, identities in both.items():
                make = partial(self.drawn, identities, self.fresh, steps, guidance)
                yield Source(f"{name}, {setting}", make, name, identities=identities)

    def l_self(self, seeds: int) -> Iterator[Source]:
        """Faces of ẑ, of ẑ after Stage II as in the study, of draws, and of true identities; of one seed."""
        voices = self.world.test.pooled_voices()
        yield Source("ẑ", partial(self.drawn, self.repeated(self.world.posterior.mean(voices).numpy()), self.fresh))
        for line in STAGE2:
            yield Source(f"ẑ after {line.mode}", partial(self.by_the_study, line), "ẑ")
        for truncation in (0.5, 1.0):
            identities = self.world.draw(truncation, self.count, 0)
            yield Source(f"draws, truncation {truncation:g}", partial(self.drawn, identities, self.fresh))
        yield Source(TRUE, partial(self.drawn, self.repeated(self.world.photos[0]), self.fresh))

    def repeated(self, identities: Float[np.ndarray, "n 512"]) -> Float[np.ndarray, "n draws 512"]:
        """One identity for every face of a voice."""
        return np.repeat(identities[:, None], self.count, axis=1)

    # --- priors

    def fresh(self) -> Prior:
        """The prior as it is shipped."""
        return Prior.from_folder(self.profile.part("prior")).requires_grad_(False)

    def by_the_study(self, line: Ablation) -> Shown:
        """Faces of ẑ after Stage II as in the study, from the shipped aligner."""
        aligner = Aligner.from_pretrained(self.profile.part("aligner"))
        settings = line.settings(self.profile, 0, self.steps)
        adapted = self.trained(aligner, settings, line.critic or paper, line.mode)
        with torch.no_grad():
            identities = aligner(self.world.test.pooled_voices()).numpy()
        return self.drawn(self.repeated(identities), lambda: adapted)

    def obeying(self, seed: int) -> Prior:
        """The prior with adapters that were trained on draws of training voices."""
        drawing = Drawing.from_pretrained(self.profile.part("aligner"))
        drawing.draw = partial(self.world.posterior.sample, n=1)
        identity = Ablation("").identity(self.profile, seed)
        changes = {"steps": self.steps, "trains": "lora", "weight_id": 0.0, "seed": seed, "identity": identity}
        settings = Stage2Settings(**{**self.profile.stage2, **changes})
        return self.trained(drawing, settings, obey, f"obey {seed}")

    def trained(self, aligner: Aligner, settings: Stage2Settings, critic: Critic, name: str) -> Prior:
        """Stage II, resumed if it was begun, of the aligner in place; the prior with what its adapters learned."""
        folder = self.work / name
        made = {part: folder_hash(self.profile.part(part)) for part in ("prior", "aligner", "faces")}
        train_stage2(aligner, self.fresh(), self.arcface, *self.pairs, settings, folder, made, critic=critic)
        adapted = self.fresh()
        fuse_lora(adapted, folder / "lora")
        return adapted

    # --- pictures

    def drawn(
        self,
        identities: Float[np.ndarray, "n draws 512"],
        make_prior: Callable[[], Prior],
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Shown:
        """A picture of each identity. With other steps the losses, which know no sampler, are left out."""
        prior, flat, parts = make_prior(), torch.from_numpy(identities).flatten(0, 1), []
        steps, guidance, losses = steps or PAPER_STEPS, guidance or self.profile.guidance, steps is None
        for start in range(0, len(flat), AT_ONCE):
            part = flat[start : start + AT_ONCE].contiguous()
            each = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
            parts.append(pixels(prior.sample(part, steps, guidance, each)))
        pictures = np.concatenate(parts)
        pictures = pictures.reshape(*identities.shape[:2], *pictures.shape[1:])
        return Shown(identities, pictures, prior if losses else None)

    @torch.no_grad()
    def rebuilt(self) -> Pictures:
        """The first photographs through the VAE."""
        return pixels(self.fresh().decode(self.faces.latents))[:, None]

    # --- measures

    def measure(self, shown: Shown) -> Measured:
        """All measures of a system's pictures."""
        sex, truth = self.world.sex, self.world.photos[1]
        conditions, views = shown.identities, range(shown.identities.shape[1])
        each: dict[str, Float[np.ndarray, " n"]] = {}
        if shown.prior is not None:
            for name, critic in {"residual": denoise, "L_self": paper}.items():
                each[name] = self.judged(shown, shown.prior, critic)
        flat = shown.pictures.reshape(-1, *shown.pictures.shape[2:])
        seen = self.pack.embed(list(flat))[0].reshape(conditions.shape)
        features, read = self.second.look(shown.pictures)
        of_another = self.second.look(self.photographs[:, 1:])[0][:, 0]
        found = seen.any(axis=-1)
        each["undetected"] = (~found).mean(axis=1)
        by_view: dict[str, list[np.ndarray]] = {
            "kept": [metrics.cosine(seen[:, k], conditions[:, k]) for k in views],
            "likeness": [metrics.cosine(seen[:, k], truth) for k in views],
            "likeness by the second scorer": [metrics.cosine(features[:, k], of_another) for k in views],
        }
        foretold = [features[:, k] @ self.second.foretell(conditions[:, k]).T for k in views]
        scored = {
            "1:2 matching within sex by cosine": [metrics.score_matrix(seen[:, k], truth) for k in views],
            "1:2 matching within sex by log ratio": [self.ratios(seen[:, k], truth) for k in views],
            "1:2 matching within sex by the second scorer": [features[:, k] @ of_another.T for k in views],
            "told apart by the second scorer": foretold,
        }
        others = (sex[:, None] == sex) & ~np.eye(len(sex), dtype=bool)
        by_view["nearer to its own identity, by the second scorer"] = [
            score.diagonal() - (score * others).sum(axis=1) / others.sum(axis=1) for score in foretold
        ]
        for name, scores in scored.items():
            by_view[name] = [metrics.within(metrics.matching, score, sex) for score in scores]
        each |= {name: np.mean(values, axis=0) for name, values in by_view.items()}
        by_f_arc = {name: np.where(found, self.world.readers[name].read(seen), np.nan) for name in (TONE, "man")}
        for reader, attributes in zip(READERS, (by_f_arc, read), strict=True):
            for name, value in self.who(attributes, conditions, self.cuts[reader]).items():
                each[f"{name}, read by {reader}"] = value
        whole, ample = found.all(axis=1), {}
        if len(views) > 1 and min((whole & (sex == s)).sum() for s in ("f", "m")) >= 5:
            each["diversity"] = np.full(len(sex), np.nan)
            each["diversity"][whole] = metrics.diversity(seen[whole])
            each["kernel distance"] = np.full(len(sex), np.nan)
            faces, owners = self.world.training.gallery().numpy(), np.array(self.world.training.sexes)
            real = {s: faces[owners == s] for s in ("f", "m")}
            each["kernel distance"][whole] = kernel_distances(seen[whole], sex[whole], real)
            ample["cosine of two voices' faces"] = draws.between_voices(seen[whole], sex[whole])
        return Measured({name: value.tolist() for name, value in each.items()}, ample)

    def who(
        self, read: dict[str, np.ndarray], identities: Float[np.ndarray, "n views 512"], cuts: np.ndarray
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Whether sex and skin tone in the pictures are those of the identities and speakers; NaN where not known."""
        told = {name: self.world.readers[name].read(identities) for name in (TONE, "man")}
        known, man = np.isfinite(read["man"]), (self.world.sex == "m")[:, None]
        dark_told = told[TONE] > self.cuts["f_arc"][1]
        values = {
            "sex right": ((read["man"] > 0.5) == man, known),
            "sex kept": ((read["man"] > 0.5) == (told["man"] > 0.5), known),
            "tone, picture minus identity": (read[TONE] - told[TONE], known),
            "drawn light": (read[TONE] < cuts[0], known),
            "drawn dark": (read[TONE] > cuts[1], known),
            "dark kept": (read[TONE] > cuts[1], known & dark_told),
        }
        return {name: mean_where(value * 1.0, there) for name, (value, there) in values.items()}

    @torch.no_grad()
    def judged(self, shown: Shown, prior: Prior, critic: Critic) -> Float[np.ndarray, " n"]:
        """A critic's loss of everyone's noised photograph, the mean over some noisings, told the first identity."""
        identities, found = torch.from_numpy(shown.identities[:, 0]), []
        consistency = SelfConsistency(prior, self.arcface, critic)
        for start in range(0, len(identities), AT_ONCE):
            faces, part = self.faces[slice(start, start + AT_ONCE)], identities[start : start + AT_ONCE]
            generator = torch.Generator().manual_seed(start)
            found.append(torch.stack([consistency(part, faces, generator).each for _ in range(NOISINGS)]).mean(dim=0))
        return torch.cat(found).double().numpy()

    def ratios(self, seen: Float[np.ndarray, "n 512"], truth: Float[np.ndarray, "n 512"]) -> Float[np.ndarray, "n n"]:
        """Log ratios of all photographs for each drawn face, in ẑ's place; 0 where none is detected."""
        scores, found, ratio = np.zeros((len(seen), len(truth))), seen.any(axis=1), log_ratio(self.world.posterior)
        if found.any() and ratio is not None:
            scores[found] = ratio(seen[found], truth)
        return scores


def kernel_distances(
    seen: Float[np.ndarray, "n draws dim"], sex: np.ndarray, real: dict[str, Float[np.ndarray, "m dim"]]
) -> Float[np.ndarray, " n"]:
    """Pseudo-values of the kernel distance within sex to ``real`` photographs of each; their mean is the distance.

    To photographs of the same persons it would be too small.
    """

    def distance(kept: np.ndarray) -> float:
        parts = {s: seen[kept & (sex == s)].reshape(-1, seen.shape[-1]) for s in real}
        return float(np.mean([metrics.kernel_distance(part, real[s]) for s, part in parts.items()]))

    everyone = np.arange(len(seen))
    without = np.array([distance(everyone != i) for i in everyone])
    moved = (len(seen) - 1) * (without.mean() - without)
    return distance(everyone >= 0) + moved


def read_photographs(manifest: Any, persons: list[str], count: int) -> Pictures:
    """The first photographs of each person; one who has fewer shows the last again."""
    paths = manifest.faces().groupby("person").path.apply(list)
    views = [[paths[name][min(view, len(paths[name]) - 1)] for view in range(count)] for name in persons]
    return np.stack([np.stack([read_image(manifest.root / path) for path in some]) for some in views])


def pixels(pictures: Float[Tensor, "batch 3 height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """From −1 … 1 to bytes."""
    found: np.ndarray = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return found


def unit(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mean_where(values: Float[np.ndarray, "n views"], there: np.ndarray) -> Float[np.ndarray, " n"]:
    """Each person's mean over the views that count, NaN where none does."""
    count = there.sum(axis=1)
    return np.where(count, np.where(there, values, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


if __name__ == "__main__":
    main()
