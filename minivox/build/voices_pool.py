"""Stage ``voices_pool``: recordings of persons outside MiniVox, for the miniature speech encoders' own pre-training.

Shards of whole persons, ``work/voices_pool/NNN.npz``; one that exists is skipped, so a killed run goes on where it
stopped. A shard holds ``waves`` (int16, all clips end to end, 16 kHz), ``lengths`` (int64, samples of each clip),
``person`` (int32, each clip's index in the pool), ``sentence`` (int8, of each clip), ``persons`` (int32, the shard's
persons), ``traits`` (float64, persons x f0, vtl, rough, rate, nasal), ``male`` (bool) and ``age`` (float64, years).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from minivox import world
from minivox.build.voice.speaker import load_timbres, voice_of
from v2f_core.artefacts.files import atomic_write

if TYPE_CHECKING:
    from jaxtyping import Float

POOL = "voices"
PERSONS, CLIPS, FEW_CLIPS, SHARD = 1000, 5, 2, 25  # clips a person, few in a tiny build; persons a shard


def run(work: Path, tiny: bool = False) -> None:
    """Write the shards. Needs the stage ``base_speech``.

    Raises:
        InputError: the base speech is not there.
    """
    people = world.population(POOL, 4 if tiny else PERSONS)
    shards = [people[start : start + SHARD] for start in range(0, len(people), SHARD)]
    for number, shard in enumerate(tqdm(shards, desc="voices", unit="shard")):
        file = work / "voices_pool" / f"{number:03d}.npz"
        if not file.exists():
            content = record(shard, work / "base_speech" / POOL, FEW_CLIPS if tiny else CLIPS)
            with atomic_write(file) as temporary:
                np.savez(temporary, **content)  # type: ignore[arg-type]


def record(people: list[world.Person], timbres: Path, each: int = CLIPS) -> dict[str, np.ndarray]:
    """All clips of some persons, as a shard's arrays."""
    said = [(p.index, *clip) for p in people for clip in clips(p, timbres, each)]
    return {
        "waves": np.concatenate([np.round(wave * 32_767).astype(np.int16) for _, _, wave in said]),
        "lengths": np.array([wave.size for _, _, wave in said]),
        "person": np.array([index for index, _, _ in said], np.int32),
        "sentence": np.array([sentence for _, sentence, _ in said], np.int8),
        "persons": np.array([p.index for p in people], np.int32),
        "traits": np.array([p.voice for p in people]),
        "male": np.array([p.sex == world.MALE for p in people]),
        "age": np.array([p.age for p in people]),
    }


def clips(person: world.Person, timbres: Path, count: int) -> list[tuple[int, Float[np.ndarray, " samples"]]]:
    """A person's clips, (sentence, wave) each: the voice's sentences in an order of their own."""
    voice = voice_of(person, load_timbres(timbres))
    order = np.random.default_rng([person.voice_seed, 0]).permutation(voice.sentences)
    said = [int(order[n % len(order)]) for n in range(count)]
    return [(s, voice.say(s, np.random.default_rng([person.voice_seed, 1 + n]))) for n, s in enumerate(said)]
