"""Would a flow on the sphere draw better identities than the Gaussian family that ships?

    V2F_DATASET=$(python -m minivox.large) python benchmarks/flow.py --posterior runs/posterior  # half an hour

Conditional flow matching along geodesics (Lipman et al. 2023; Chen & Lipman 2024). From a start x₀ to a photograph x₁
the path is x_t = exp_{x₀}(t · log_{x₀} x₁), and a network learns its velocity, told t and what was heard. Starts are
uniform on the sphere within the photographs' principal axes, or draws of the shipped family, which the flow then has
only to mend. What was heard is ẑ on its first axes. Steps and the number of these axes are chosen by the validation
persons' velocity error.

Expected: from uniform starts the flow is worse than the Gaussian family, since 2,890 persons are few for a free
distribution on a sphere of some 200 axes. From draws of the family it is within the family's interval: what is not
Gaussian in these faces (hair, beard) is a small part of their spread. Neither gains 0.05 of skill.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import draws
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from posterior import World
from scipy.special import softmax
from torch import Tensor, nn

from minivox import ceilings
from minivox.ceilings import people
from v2f_core.artefacts.files import atomic_write
from v2f_core.evaluation.metrics import bootstrap
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.identity.sphere import angle, normalise, uniform
from v2f_core.training.pairs import Pairs

STEPS, EVERY, BATCH, WIDTH, HEARD = 6000, 500, 256, 384, (4, 16)
EULER, DRAWS = 40, 100
Start = Callable[[Tensor, torch.Generator], Tensor]  # speaker embeddings -> one start each, in the axes


class Velocity(nn.Module):
    """The tangent at x, told the time and what was heard."""

    def __init__(self, axes: int, heard: int) -> None:
        super().__init__()
        self.first = nn.Linear(axes + heard + 8, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.last = nn.Linear(WIDTH, axes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Float[Tensor, "n axes"], t: Float[Tensor, "n 1"], heard: Float[Tensor, "n heard"]) -> Tensor:
        waves = torch.cat([torch.sin(t * f) for f in (1, 2, 4, 8)] + [torch.cos(t * f) for f in (1, 2, 4, 8)], dim=1)
        h = self.first(torch.cat([x, heard, waves], dim=1))
        for layer in self.middle:
            h = h + layer(nn.functional.silu(h))
        v = self.last(nn.functional.silu(h))
        return v - (v * x).sum(dim=1, keepdim=True) * x  # tangent


def log_map(base: Tensor, point: Tensor) -> Tensor:
    """The tangent at ``base`` that points to ``point`` and is as long as the angle between them."""
    across = point - (base * point).sum(dim=1, keepdim=True) * base
    return nn.functional.normalize(across, dim=1) * angle(base, point)[:, None]


def exp_map(base: Tensor, tangent: Tensor) -> Tensor:
    """The end of the great circle from ``base`` in the tangent's direction and of its length."""
    length = tangent.norm(dim=1, keepdim=True)
    return normalise(torch.cos(length) * base + torch.sinc(length / torch.pi) * tangent)


def velocity_error(net: nn.Module, x0: Tensor, x1: Tensor, t: Tensor, heard: Tensor) -> Tensor:
    """Mean squared distance from the geodesic's velocity at time t."""
    way = log_map(x0, x1)
    x = exp_map(x0, t * way)
    wanted = log_map(x, x1) / (1 - t).clamp(min=1e-3)  # what is left of the way, in the time that is left
    return (net(x, t, heard) - wanted).square().sum(dim=1).mean()


def fit(
    start: Start, axes: Tensor, heard: Callable[[Tensor], Tensor], splits: tuple[Pairs, Pairs]
) -> tuple[nn.Module, float, int]:
    """Train a flow; the weights, validation error and step of the lowest validation error."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    training, validation = splits
    net = Velocity(axes.shape[1], heard(training.pooled_voices()[:1]).shape[1])
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    averaged = copy.deepcopy(net)
    held = Pairs.draw(validation, 10_000, 1, torch.Generator().manual_seed(1))
    held = [torch.cat([part] * 40) for part in held[:2]]
    fixed = torch.Generator().manual_seed(2)
    x0, t = start(held[0], fixed), torch.rand(len(held[0]), 1, generator=fixed)
    best: tuple[nn.Module, float, int] = (net, float("inf"), 0)
    for step in range(1, STEPS + 1):
        voice, face, _ = training.draw(BATCH, 3, g)
        when = torch.rand(len(voice), 1, generator=g)
        loss = velocity_error(net, start(voice, g), normalise(face @ axes), when, heard(voice))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), net.parameters(), strict=True):
                mean.lerp_(value, 0.005)
            if step % EVERY == 0:
                error = float(velocity_error(averaged, x0, normalise(held[1] @ axes), t, heard(held[0])))
                if error < best[1]:
                    best = copy.deepcopy(averaged), error, step
    return best


@torch.no_grad()
def sample(
    net: nn.Module, start: Start, axes: Tensor, heard: Callable[[Tensor], Tensor], voices: Tensor, count: int
) -> np.ndarray:
    """Identities for every voice, by Euler's steps along great circles."""
    g = torch.Generator().manual_seed(0)
    each = voices.repeat_interleave(count, dim=0)
    x, told = start(each, g), heard(each)
    for i in range(EULER):
        x = exp_map(x, net(x, torch.full((len(x), 1), i / EULER), told) / EULER)
    return normalise(x @ axes.T).reshape(len(voices), count, -1).numpy()


def skill(world: World, identities: np.ndarray) -> dict[str, float]:
    """Skill of the energy score and diversity, with intervals over persons."""
    weights = softmax(ceilings.log_likelihood(people(world.test), people(world.training)), axis=1)
    alike = (world.sex[:, None] == np.array(world.training.sexes)).astype(float)
    alike /= alike.sum(axis=1, keepdims=True)
    pool = world.training.gallery().numpy()
    of = [
        lambda truth: draws.energy_score_of_pool(alike, pool, truth),
        lambda truth: draws.energy_score_of_pool(weights, pool, truth),
        lambda truth: draws.energy_score(identities, truth),
    ]
    three = np.stack([np.mean([score(truth) for truth in world.photos], axis=0) for score in of], axis=1)
    found = bootstrap(three, lambda m: (m[..., 0] - m[..., 2]) / (m[..., 0] - m[..., 1]), world.sex)
    return {"skill": found.value, "low": found.low, "high": found.high, "persons": len(three)}


def main() -> None:
    """Train both flows, choose on validation persons, measure on test persons, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posterior", type=Path, required=True, help="folder that 'v2f_core posterior' wrote")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow.csv"))
    chosen = parser.parse_args()
    began = time.perf_counter()
    worlds = {split: World.open(chosen.posterior, split) for split in ("val", "test")}
    family: IdentityPosterior = worlds["test"].posterior
    axes = family.basis
    training, validation = worlds["test"].training, worlds["val"].test
    spread = torch.pca_lowrank(family.mean(training.pooled_voices()), max(HEARD), niter=8)[2]

    def from_uniform(voice: Tensor, g: torch.Generator) -> Tensor:
        return uniform(len(voice), axes.shape[1], g)

    def from_family(voice: Tensor, g: torch.Generator) -> Tensor:
        return normalise(family.sample(voice, 1, generator=g)[:, 0] @ axes)

    rows = [
        {"system": "Gaussian family", "split": split, **skill(world, world.draw(1.0, DRAWS, 0))}
        for split, world in worlds.items()
    ]
    for name, start in {"from uniform": from_uniform, "from the family": from_family}.items():
        fitted = {}
        for count in HEARD:

            def heard(voice: Tensor, count: int = count) -> Tensor:
                return family.mean(voice) @ spread[:, :count] * 10  # of about unit size

            fitted[count] = (*fit(start, axes, heard, (training, validation)), heard)
            print(name, count, fitted[count][1:3], f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
        count = min(fitted, key=lambda count: fitted[count][1])
        net, error, step, heard = fitted[count]
        for split, world in worlds.items():
            identities = sample(net, start, axes, heard, world.test.pooled_voices(), DRAWS)
            about = {"axes of ẑ": count, "step": step, "velocity error": error}
            rows.append({"system": f"flow {name}", "split": split, **skill(world, identities), **about})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    with atomic_write(chosen.out) as part:
        table.to_csv(part, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
