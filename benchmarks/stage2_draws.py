"""Does sampling do what L_self is said to do? Faces of ẑ, before and after Stage II, of draws, of true identities.

    python benchmarks/stage2_draws.py                 # MiniVox's 100 validation persons; an hour of one core
    python benchmarks/stage2_draws.py --persons 16 --stage2-steps 10 --name trial --out runs        # a trial; minutes

The paper motivates L_self by identities that lie off the manifold on which the prior was trained. Stage II is trained
here from the shipped aligner, as Eq. 14 says and by the best other critic of the study; each has the study's settings.
Everyone's faces start from the same noise under every system.

- residual: mean square of the noise that the prior does not foresee in the speaker's photograph, told the identity;
- L_self: Eq. 14 of the same photograph;
- kept: the cosine of a drawn face with the identity that it was drawn for;
- likeness, matching within sex by cosine and by log ratio: of a drawn face, against another photograph than the one
  that the true identity is read from;
- diversity of a voice's faces, cosine of two voices' faces, kernel distance to training persons' photographs
  within sex.

Intervals are BCa over persons; those of the kernel distance are from a jackknife over persons.

Expected: Eq. 14 has the lowest L_self, because its network stops listening, and the worst residual. By all other
measures it is worse than ẑ, or no face at all. The other critic is within the interval of ẑ but for its lower
diversity. Draws have a higher residual than ẑ, since a wrong person is a worse guess than a mean, and a tenth or less
of ẑ's kernel distance; they are kept as well as true identities are, ẑ is not; likeness and matching of one draw are
below ẑ's. So sampling puts identities where the prior knows them, and no L_self does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import draws
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from posterior import World, row
from torch import nn

from v2f_core.app.evaluate import log_ratio
from v2f_core.artefacts.files import atomic_write, folder_hash
from v2f_core.artefacts.profiles import Profile, load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.consistency import Critic, FaceBatch, SelfConsistency, denoise, paper
from v2f_core.diffusion.lora import fuse_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation import metrics
from v2f_core.evaluation.protocols import first_of_each_sex
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import FacePack
from v2f_core.studies import ablation
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.latents import pair_faces, stored_latents
from v2f_core.training.stage2 import train_stage2

STAGE2 = {
    "paper": ("table4", "paper"),
    "cycle": ("chosen", "cycle, φ alone, λ 30"),
}  # name → table and row of the study
TRUNCATIONS = (0.5, 1.0)
AT_ONCE, NOISINGS = 20, 4


class Source(NamedTuple):
    """A system: whom its faces show, and the prior that draws them."""

    name: str
    identities: Float[np.ndarray, "n draws 512"]
    prior: Prior


def main() -> None:
    """Train, draw, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=100, help="validation persons, women and men alike")
    parser.add_argument("--draws", type=int, default=2, help="faces of each voice")
    parser.add_argument("--stage2-steps", type=int, help="in place of the profile's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/stage2_draws"), help="for trained weights")
    parser.add_argument("--name", default="stage2_draws", help="of the table")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    profile = load_profile("mini")
    bench = Bench.open(profile, chosen.persons, chosen.draws, chosen.seed)
    rows = []
    for source in bench.sources(chosen.work, chosen.stage2_steps):
        rows += [{**found, "system": source.name} for found in bench.measure(source)]
        print(pd.DataFrame(rows).tail(12).to_string(index=False), flush=True)
    with atomic_write(chosen.out / f"{chosen.name}.csv") as part:
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.4g")


class Bench(NamedTuple):
    """Validation persons with photographs as the prior sees them, and the nets."""

    profile: Profile
    world: World
    faces: FaceBatch
    pairs: tuple[Any, Any]
    pack: FacePack
    arcface: nn.Module
    count: int
    seed: int

    @classmethod
    def open(cls, profile: Profile, persons: int, count: int, seed: int) -> Bench:
        """Of the profile's dataset."""
        folder, manifest = profile.posterior_of("aligner"), open_dataset(profile)
        assert folder is not None  # the mini profile ships one
        world = World.open(folder, "val")
        pack, prior = FacePack.from_folder(profile.part("faces")), Prior.from_folder(profile.part("prior"))
        stores = *embed_dataset(profile, manifest), stored_latents(profile, manifest, prior, pack)
        training, validation = (pair_faces(manifest, *stores, split, prior.latent_shape) for split in ("train", "val"))
        assert validation.pairs.persons == world.test.persons
        rows = first_of_each_sex(world.test.sexes, min(persons, len(world.test.persons)))
        _, faces = validation.first(len(validation.pairs.persons))
        some = {"test": world.test.only(rows), "sex": world.sex[rows], "photos": [z[rows] for z in world.photos]}
        arcface = differentiable_arcface(pack.arcface_path)
        pairs = training, validation
        return cls(
            profile,
            World(**{**world.__dict__, **some}),
            faces[torch.tensor(rows)],
            pairs,
            pack,
            arcface,
            count,
            seed,
        )

    def sources(self, work: Path, steps: int | None) -> Iterator[Source]:
        """The systems, one after the other."""
        prior, voices = self.fresh(), self.world.test.pooled_voices()
        yield Source("ẑ", self.repeated(self.world.posterior.mean(voices).numpy()), prior)
        for name, (table, system) in STAGE2.items():
            (line,) = [line for line in ablation.table(table) if line.system == system]
            aligner, adapted = self.trained(line, work / name, steps)
            with torch.no_grad():
                yield Source(f"ẑ after {name}", self.repeated(aligner(voices).numpy()), adapted)
        for truncation in TRUNCATIONS:
            drawn = self.world.draw(truncation, self.count, self.seed)
            yield Source(f"draws, truncation {truncation:g}", drawn, prior)
        yield Source("true identities", self.repeated(self.world.photos[0]), prior)

    def repeated(self, identities: Float[np.ndarray, "n 512"]) -> Float[np.ndarray, "n draws 512"]:
        """One identity for every face of a voice."""
        return np.repeat(identities[:, None], self.count, axis=1)

    def fresh(self) -> Prior:
        """The prior as it is shipped."""
        return Prior.from_folder(self.profile.part("prior")).requires_grad_(False)

    def trained(self, line: ablation.Ablation, folder: Path, steps: int | None) -> tuple[Aligner, Prior]:
        """Stage II of the shipped aligner, resumed if it was begun; its aligner, and the prior with what it learned."""
        settings, start = line.settings(self.profile, self.seed, steps), self.profile.part("aligner")
        made = {part: folder_hash(self.profile.part(part)) for part in ("prior", "aligner", "faces")}
        nets = Aligner.from_pretrained(start), self.fresh(), self.arcface
        train_stage2(*nets, *self.pairs, settings, folder, made, critic=line.critic or paper)
        adapted = self.fresh()
        if (folder / "lora").is_dir():
            fuse_lora(adapted, folder / "lora")
        return Aligner.from_pretrained(folder / "aligner"), adapted

    def measure(self, source: Source) -> Iterator[dict[str, Any]]:
        """One row a measure."""
        sex, truth = self.world.sex, self.world.photos[1]
        for name, critic in {"residual": denoise, "L_self": paper}.items():
            yield row(name, "", self.judged(source, critic), sex)
        seen = self.draw(source)
        found = seen.any(axis=-1)
        yield {"measure": "undetected", "value": float((~found).mean()), "n": found.size}
        conditions, every = source.identities, range(self.count)
        by_draw = {
            "kept": [metrics.cosine(seen[:, k], conditions[:, k]) for k in every],
            "likeness": [metrics.cosine(seen[:, k], truth) for k in every],
        }
        for name, score in {"cosine": metrics.score_matrix, "log ratio": self.ratios}.items():
            scores = [metrics.within(metrics.matching, score(seen[:, k], truth), sex) for k in every]
            by_draw[f"1:2 matching within sex by {name}"] = scores
        for name, values in by_draw.items():
            yield row(name, "", np.mean(values, axis=0), sex)
        whole = found.all(axis=1)
        if min((whole & (sex == s)).sum() for s in ("f", "m")) < 5:
            return  # a jackknife of the kernel distance needs as many
        yield row("diversity", "", metrics.diversity(seen[whole]), sex[whole])
        between = draws.between_voices(seen[whole], sex[whole])
        yield {"measure": "cosine of two voices' faces", "value": between, "n": int(whole.sum())}
        training = self.world.training
        real = {s: training.gallery().numpy()[np.array(training.sexes) == s] for s in ("f", "m")}
        yield kernel_row(seen[whole], sex[whole], real)

    @torch.no_grad()
    def judged(self, source: Source, critic: Critic) -> Float[np.ndarray, " n"]:
        """A critic's loss of everyone's noised photograph, the mean over some noisings, told the first identity."""
        identities, found = torch.from_numpy(source.identities[:, 0]), []
        consistency = SelfConsistency(source.prior, self.arcface, critic)
        for start in range(0, len(identities), AT_ONCE):
            faces, part = self.faces[slice(start, start + AT_ONCE)], identities[start : start + AT_ONCE]
            generator = torch.Generator().manual_seed(self.seed + start)
            found.append(torch.stack([consistency(part, faces, generator).each for _ in range(NOISINGS)]).mean(dim=0))
        return torch.cat(found).double().numpy()

    def draw(self, source: Source) -> Float[np.ndarray, "n draws 512"]:
        """f_arc of everyone's drawn faces; zero where none is detected."""
        identities, seen = torch.from_numpy(source.identities).flatten(0, 1), []
        for start in range(0, len(identities), AT_ONCE):
            part = identities[start : start + AT_ONCE].contiguous()
            each = [torch.Generator().manual_seed(self.seed + start + i) for i in range(len(part))]
            pictures = source.prior.sample(part, self.profile.steps, self.profile.guidance, each)
            pixels = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            seen.append(self.pack.embed(list(pixels))[0])
        return np.concatenate(seen).reshape(source.identities.shape)

    def ratios(self, seen: Float[np.ndarray, "n 512"], truth: Float[np.ndarray, "n 512"]) -> Float[np.ndarray, "n n"]:
        """Log ratios of all photographs for each drawn face, in ẑ's place; 0 where none is detected."""
        scores, found, ratio = np.zeros((len(seen), len(truth))), seen.any(axis=1), log_ratio(self.world.posterior)
        if found.any() and ratio is not None:
            scores[found] = ratio(seen[found], truth)
        return scores


def kernel_row(
    seen: Float[np.ndarray, "n draws 512"], sex: np.ndarray, real: dict[str, Float[np.ndarray, "m 512"]]
) -> dict[str, Any]:
    """Kernel distance within sex to photographs of others: of the same persons it would be too small."""

    def distance(kept: np.ndarray) -> float:
        parts = {s: seen[kept & (sex == s)].reshape(-1, 512) for s in real}
        return float(np.mean([metrics.kernel_distance(part, real[s]) for s, part in parts.items()]))

    n, everyone = len(seen), np.arange(len(seen))
    value = distance(everyone >= 0)
    without = np.array([distance(everyone != i) for i in everyone])
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    ends = {"low": value - 1.96 * error, "high": value + 1.96 * error}
    return {"measure": "kernel distance", "value": value, **ends, "n": n}


if __name__ == "__main__":
    main()
