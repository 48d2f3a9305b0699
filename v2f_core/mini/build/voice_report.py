"""Stage ``voice_report``: how well MiniVox's voices tell persons apart, and how well their traits can be heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from v2f_core.files import atomic_write
from v2f_core.mini import world
from v2f_core.mini.build.voice.speaker import Voice, load_timbres, voice_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CLIPS = 3


def run(work: Path, tiny: bool = False, pool: str = "voices") -> None:
    """Write ``work/voice_report/POOL.json``.

    Identity: GE2E's equal error rate over 60 persons x 3 clips, all, women, men. Traits: R² of a ridge regression from
    the statistics of three clips' log-mel spectra, within sex, cross-validated so that no timbre is in both parts.
    """
    timbres = load_timbres(work / "base_speech" / pool)
    people = world.population(pool, 16 if tiny else 400)
    voices = [voice_of(person, timbres) for person in people]
    clips = [_clips(voice, n) for n, voice in enumerate(tqdm(voices, desc="clips", unit="person"))]
    report: dict[str, Any] = {"pool": pool, "timbres": len(timbres), "persons": len(people), "clips": CLIPS}
    if not tiny:  # the meter is a download
        report["equal_error_rate"] = _identity(work, clips[:60], people)
    features = np.stack([np.mean([statistics(c) for c in several], 0) for several in clips])
    traits = np.array([person.voice for person in people])
    women = np.array([person.sex == world.FEMALE for person in people])
    groups = np.unique([voice.base.timbre.name for voice in voices], return_inverse=True)[1]
    r2 = explained(features, traits, women, groups)
    report["r2_within_sex"] = dict(zip(world.VoiceTraits._fields, r2.round(3).tolist(), strict=True))
    with atomic_write(work / "voice_report" / f"{pool}.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))


def _clips(voice: Voice, seed: int) -> list[Float[np.ndarray, " samples"]]:
    rng = np.random.default_rng(seed)
    return [voice.say(int(sentence), rng) for sentence in rng.permutation(voice.sentences)[:CLIPS]]


def _identity(work: Path, clips: list[list[Float[np.ndarray, " samples"]]], people: list[world.Person]) -> dict:
    from v2f_core.mini.build.ge2e import GE2E, equal_error_rate

    meter = GE2E(work)
    vectors = np.stack([meter(clip) for several in clips for clip in several])
    owner = np.repeat(np.arange(len(clips)), CLIPS)
    woman = np.array([people[n].sex == world.FEMALE for n in owner])
    parts = {"all": np.full(owner.size, True), "women": woman, "men": ~woman}
    return {name: round(equal_error_rate(vectors[part], owner[part]), 4) for name, part in parts.items()}


def statistics(clip: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " features"]:
    """Simple statistics of a clip's log-mel spectrum: level, spread and change of each band, pitch, and length."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(16_000, 512, hop_length=160, n_mels=64)(torch.from_numpy(clip)).clamp(min=1e-9).log().numpy()
    mel = mel - mel.max()
    loud = mel[:, mel.mean(0) > np.quantile(mel.mean(0), 0.4)]
    fine = (
        torch.stft(torch.from_numpy(clip), 1024, 160, window=torch.hann_window(1024), return_complex=True)
        .abs()
        .numpy()[:128]
        .mean(1)
    )
    change = np.abs(np.diff(mel, axis=1))
    parts = [mel.mean(1), mel.std(1), loud.mean(1), loud.std(1), change.mean(1), np.log(fine + 1e-6)]
    return np.concatenate([*parts, [np.log(clip.size)]])


def explained(
    features: Float[np.ndarray, "people features"],
    traits: Float[np.ndarray, "people traits"],
    women: np.ndarray,
    groups: Int[np.ndarray, " people"],
) -> Float[np.ndarray, " traits"]:
    """R² within sex of every trait: both sides are centred by sex; folds never split a group."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y = traits.copy()
    for sex in (women, ~women):
        y[sex] -= y[sex].mean(0)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 16)))
    x = np.concatenate([features, women[:, None]], 1)
    folds = GroupKFold(min(10, len(np.unique(groups))))
    guess = np.stack([cross_val_predict(model, x, column, cv=folds, groups=groups) for column in y.T], 1)
    return 1 - ((y - guess) ** 2).sum(0) / (y**2).sum(0)
