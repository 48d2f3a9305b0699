"""Stage `speech_models`: train the miniature AST and ECAPA on the recordings of pool "voices".

The published AST is an AudioSet tagger, the published ECAPA a speaker verifier. So that the miniatures stand for them,
AST learns several tasks at once (who speaks; pitch, vocal-tract length, roughness, rate and nasality of the voice; age
and sex), ECAPA learns who speaks, with the other tasks as a light side task. Both see random 1.25 s crops with another
loudness, microphone and background each time (speech_features.py).

Each person also gives two virtual speakers: the recordings played a little slower and faster. That moves pitch, vocal
tract and rate, so they are classes of their own with traits of their own: the same voice at another rate is what
teaches an encoder to hear rate, where it would else learn every speaker's by heart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from minivox.build import speech_features as sf
from minivox.build.arcface import sex_probe
from minivox.build.checkpoint import Checkpoint
from minivox.build.ge2e import equal_error_rate
from minivox.build.speech_folders import ECAPA_DIM, new_ast, new_ecapa, save_ast, save_ecapa
from minivox.build.voice.speaker import TEMPO_PER_RATE
from minivox.build.voice_report import explained
from minivox.build.voices_pool import CLIPS, FEW_CLIPS, POOL, record
from minivox.world import FEMALE, MALE, Person, population, standard_age, voice_z
from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.identity.losses import AMSoftmax
from v2f_core.speech.audio import clips
from v2f_core.speech.encoders import SpeechEncoder, load_encoder

TEST_PERSONS = 120  # of MiniVox, five fresh recordings each
SEED, MARGIN = 7, 0.25
SEEN = 16  # batches whose embeddings give the mean that speechbrain may take off
SPEEDS = (1.0, 0.94, 1.06)
TRAITS = ("f0", "vtl", "rough", "rate", "nasal", "age", "sex")


class Recipe(NamedTuple):
    """What differs between the two encoders' trainings."""

    new: Callable[[], nn.Module]
    filter_bank: Callable[[], Callable[[Tensor], Tensor]]
    unit: float
    frames: int  # of a 1.25 s crop
    embed: Callable[[Any, Tensor], Tensor]
    dim: int
    steps: int
    batch: int
    rate: float
    trait_weight: float
    bfloat16: bool  # on CPUs with AMX, convolutions gain by it and small attention layers lose


RECIPES = {
    "ast": Recipe(
        new_ast, sf.ast_filter_bank, sf.LN, 123, lambda net, x: net(sf.to_ast(x)).last_hidden_state[:, 0], 128,
        steps=5000, batch=64, rate=1.5e-3, trait_weight=6.0, bfloat16=False,
    ),
    "ecapa": Recipe(
        new_ecapa, sf.ecapa_filter_bank, sf.DECIBEL, 126, lambda net, x: net(sf.to_ecapa(x)).squeeze(1), ECAPA_DIM,
        steps=1200, batch=64, rate=2e-3, trait_weight=0.2, bfloat16=True,
    ),
}  # fmt: skip


class Pool(NamedTuple):
    """Recordings (int16, 16 kHz), and whose each is: an index into ``persons``."""

    waves: list[np.ndarray]
    person: Int[np.ndarray, " recordings"]
    persons: list[Person]

    @classmethod
    def of(cls, shards: Iterable[Mapping[str, np.ndarray]], persons: list[Person]) -> Pool:
        """Read shards of the stage `voices_pool`."""
        waves, owners = [], []
        for shard in shards:
            waves += np.split(shard["waves"], shard["lengths"].cumsum()[:-1])
            owners.append(shard["person"])
        return cls(waves, np.concatenate(owners), persons)


def run(work: Path, tiny: bool = False) -> None:
    """Train both, write their folders to ``speech_models/assets/``, measure them on MiniVox's persons.

    Raises:
        InputError: the stages `base_speech` or `voices_pool` have not been run.
    """
    out = work / "speech_models"
    out.mkdir(parents=True, exist_ok=True)
    files = sorted((work / "voices_pool").glob("[0-9]*.npz"))
    if not files:
        raise InputError(f"{work / 'voices_pool'}: no recordings; run the stage voices_pool first")
    shards = [np.load(file) for file in files]
    heard = Pool.of(shards, population(POOL, sum(len(shard["persons"]) for shard in shards)))
    timbres = work / "base_speech" / "minivox"
    test_persons = population("minivox", 4 if tiny else TEST_PERSONS)
    unheard = Pool.of([record(test_persons, timbres, FEW_CLIPS if tiny else CLIPS)], test_persons)
    report = {}
    for name, recipe in RECIPES.items():
        began = time.monotonic()
        net, am, seen = train(name, recipe._replace(steps=3, batch=8) if tiny else recipe, heard, out)
        folder = out / "assets" / name
        if name == "ast":
            save_ast(net, folder)
        else:
            save_ecapa(net, am.weight[: len(heard.persons)], seen, folder)
        minutes = round((time.monotonic() - began) / 60, 1)
        report[name] = measure(load_encoder(name, folder), heard, unheard) | {"minutes_of_last_run": minutes}
        tqdm.write(f"{name} {json.dumps(report[name])}")
    with atomic_write(out / "metrics.json") as path:
        path.write_text(json.dumps(report, indent=1))


def targets(persons: list[Person], speed: float = 1.0) -> Float[Tensor, "persons traits"]:
    """What the embedding shall tell of each person, in the order of TRAITS: z-scores within sex, and sex as 0 or 1.

    Played ``speed`` times as fast, the pitch is higher, the vocal tract shorter and the rate higher.
    """
    sexes = np.array([p.sex for p in persons])
    voices = np.array([p.voice for p in persons])
    voices[:, 0] += 12 * np.log2(speed)
    voices[:, 1] /= speed
    voices[:, 3] += np.log(speed) / TEMPO_PER_RATE
    z = voice_z(voices, sexes)
    age = standard_age(np.array([p.age for p in persons]))
    return torch.from_numpy(np.column_stack([z, age, sexes == MALE]).astype(np.float32))


def trait_loss(predicted: Float[Tensor, "batch traits"], labels: Float[Tensor, "batch traits"]) -> Float[Tensor, ""]:
    """Mean squared error of the traits, and the cross-entropy of sex."""
    return F.mse_loss(predicted[:, :-1], labels[:, :-1]) + F.binary_cross_entropy_with_logits(
        predicted[:, -1], labels[:, -1]
    )


def train(name: str, recipe: Recipe, pool: Pool, out: Path) -> tuple[nn.Module, AMSoftmax, Tensor]:
    """Train one encoder, with a checkpoint every minute; goes on from the last.

    Returns:
        The net, the class vectors (the persons' first), and the embeddings of some batches.
    """
    import soxr

    waves = [
        soxr.resample(wave, 16_000 * speed, 16_000) if speed != 1 else wave for speed in SPEEDS for wave in pool.waves
    ]
    speaker = torch.from_numpy(np.concatenate([pool.person + k * len(pool.persons) for k in range(len(SPEEDS))])).long()
    labels = torch.cat([targets(pool.persons, speed) for speed in SPEEDS])
    bank = sf.spectrograms(waves, recipe.filter_bank(), recipe.frames)

    with torch.random.fork_rng():
        torch.manual_seed(SEED)  # the libraries' initial weights know no generator of one's own
        modules = nn.ModuleDict({"net": recipe.new(), "traits": nn.Linear(recipe.dim, len(TRAITS))})
    am = AMSoftmax(len(labels), recipe.dim, margin=0.0, generator=torch.Generator().manual_seed(SEED))
    modules["am"] = am
    optimiser = torch.optim.AdamW(modules.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, recipe.steps, pct_start=0.15)
    parts: dict[str, Any] = {"modules": modules, "optimiser": optimiser, "schedule": schedule}
    checkpoint = Checkpoint(out / f"{name}.pt", parts)
    start = checkpoint.start

    def batch(step: int) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch frames mels"]]:
        g = torch.Generator().manual_seed(1_000_000 + step)  # so that a resumed run draws what an unbroken one does
        which = torch.randint(len(speaker), (recipe.batch,), generator=g)
        return which, sf.augment(bank.crops(which, recipe.frames, g), recipe.unit, g)

    modules.train()
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc=f"train {name}", mininterval=5)
    for step in bar:
        which, x = batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            v = recipe.embed(modules["net"], x)
        v = v.float()
        am.margin = MARGIN * min(1.0, step / (0.3 * recipe.steps))
        who, what = am(v, speaker[which]), trait_loss(modules["traits"](v), labels[speaker[which]])
        optimiser.zero_grad()
        (who + recipe.trait_weight * what).backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(who=f"{who.item():.2f}", what=f"{what.item():.2f}", refresh=False)
        checkpoint.save_if_due(step, last=step + 1 == recipe.steps)
    modules.eval()
    with torch.no_grad():
        seen = torch.cat([recipe.embed(modules["net"], batch(recipe.steps + i)[1]) for i in range(SEEN)])
    return modules["net"], am, seen


def measure(encoder: SpeechEncoder, heard: Pool, unheard: Pool) -> dict[str, Any]:
    """How well recordings' embeddings (the mean over their clips) tell persons, sex and traits.

    Args:
        encoder: the finished encoder, as it was saved.
        heard: recordings of training persons; the probe for sex is fitted on them.
        unheard: recordings of persons of another pool. Verification is by cosine over all pairs and within each sex;
            the traits' R² is within sex, from the mean over a person's recordings, cross-validated over persons.
    """
    v, v_heard = embeddings(encoder, unheard.waves), embeddings(encoder, heard.waves)
    women, women_heard = (np.array([p.sex == FEMALE for p in pool.persons]) for pool in (unheard, heard))
    of, of_heard = women[unheard.person], women_heard[heard.person]
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    parts = {"all": np.full(len(v), True), "women": of, "men": ~of}
    pooled = np.stack([v[unheard.person == i].mean(0) for i in range(len(unheard.persons))])
    traits = np.column_stack([[p.voice for p in unheard.persons], [p.age for p in unheard.persons]])
    r2 = explained(pooled, traits, women, np.arange(len(pooled)))
    return {
        "persons": len(women),
        "recordings": len(v),
        "equal_error_rate": {k: round(equal_error_rate(unit[p], unheard.person[p]), 4) for k, p in parts.items()},
        "sex_accuracy": round(sex_probe(v_heard, of_heard, v, of), 4),
        "r2_within_sex": dict(zip(TRAITS, r2.round(3).tolist(), strict=False)),
    }


def embeddings(encoder: SpeechEncoder, waves: Sequence[np.ndarray]) -> Float[np.ndarray, "recordings dim"]:
    """The mean of each recording's clips' embeddings; ``waves`` are int16."""
    floats = (torch.from_numpy(wave.astype(np.float32) / 32_768) for wave in tqdm(waves, desc="embed"))
    return np.stack([encoder.embed(clips(wave)).mean(0).numpy() for wave in floats])
