"""Stage ``voice_report``: how well MiniVox's voices tell persons apart, and how well their traits can be heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from minivox import world
from minivox.build.voice.speaker import Voice, load_timbres, voice_of
from v2f_core.artefacts.files import atomic_write
from v2f_core.speech.encoders import GE2EEncoder

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CLIPS = 3


def run(work: Path, tiny: bool = False, pool: str = "minivox") -> None:
    """Write ``work/voice_report/POOL.json``. Needs the stages `base_speech` and `ge2e`.

    Identity: GE2E's equal error rate over 60 persons x 3 clips, all, women, men. Traits: R² within sex of a ridge
    regression, cross-validated so that no timbre is in both parts; from the clips' simple statistics, and from GE2E's
    vectors. Both are means over a person's three clips.
    """
    timbres = load_timbres(work / "base_speech" / pool)
    people = world.population(pool, 4 if tiny else 400)
    voices = [voice_of(person, timbres) for person in people]
    clips = [_clips(voice, n) for n, voice in enumerate(tqdm(voices, desc="clips", unit="person"))]
    traits = np.array([person.voice for person in people])
    women = np.array([person.sex == world.FEMALE for person in people])
    timbre = np.unique([voice.base.timbre.name for voice in voices], return_inverse=True)[1]

    def r2(features: Float[np.ndarray, "people clips d"]) -> dict[str, float]:
        found = explained(features.mean(1), traits, women, timbre)
        return dict(zip(world.VoiceTraits._fields, found.round(3).tolist(), strict=True))

    report: dict[str, Any] = {"pool": pool, "timbres": len(timbres), "persons": len(people), "clips": CLIPS}
    report["r2_by_statistics"] = r2(np.array([[statistics(clip) for clip in several] for several in clips]))
    if not tiny:  # a tiny build's GE2E has random weights
        import torch

        encoder = GE2EEncoder.from_folder(work / "ge2e" / "assets")
        heard = [[encoder.embed(torch.from_numpy(clip)[None])[0].numpy() for clip in several] for several in clips]
        vectors = np.array(heard)
        report["r2_by_ge2e"] = r2(vectors)
        report["equal_error_rate"] = _identity(vectors[:60], women[:60])
    with atomic_write(work / "voice_report" / f"{pool}.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))


def _clips(voice: Voice, seed: int) -> list[Float[np.ndarray, " samples"]]:
    rng = np.random.default_rng(seed)
    return [voice.say(int(sentence), rng) for sentence in rng.permutation(voice.sentences)[:CLIPS]]


def _identity(vectors: Float[np.ndarray, "people clips d"], women: np.ndarray) -> dict[str, float]:
    from minivox.build.ge2e import equal_error_rate

    parts = {"all": np.full(len(women), True), "women": women, "men": ~women}
    owner = np.repeat(np.arange(len(women)), CLIPS).reshape(-1, CLIPS)
    rates = {k: equal_error_rate(np.concatenate(vectors[part]), owner[part].ravel()) for k, part in parts.items()}
    return {name: round(rate, 4) for name, rate in rates.items()}


def statistics(clip: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " features"]:
    """Simple statistics of a clip: log-mel bands' level, spread and change; pitch and periodicity; length."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(16_000, 512, hop_length=160, n_mels=64)(torch.from_numpy(clip)).clamp(min=1e-9).log().numpy()
    mel = mel - mel.max()
    loud = mel[:, mel.mean(0) > np.quantile(mel.mean(0), 0.4)]
    change = np.abs(np.diff(mel, axis=1))
    return np.concatenate([loud.mean(1), loud.std(1), change.mean(1), *periodicity(clip), [np.log(clip.size)]])


def periodicity(clip: Float[np.ndarray, " samples"]) -> tuple[np.ndarray, np.ndarray]:
    """Quartiles of log pitch and of the autocorrelation's peak, by windows of 40 ms; the louder half of them."""
    frames = np.lib.stride_tricks.sliding_window_view(clip, 640)[::160]
    frames = frames[frames.std(1) > np.median(frames.std(1))] * np.hanning(640)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :300]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2)[:300]
    peaks = (correlation / correlation[:, :1] * (window[0] / window))[:, 40:267]  # 60 to 400 Hz
    pitch = np.log(16_000 / (40 + peaks.argmax(1)))
    quartiles = [0.25, 0.5, 0.75]
    return np.quantile(pitch, quartiles), np.quantile(peaks.max(1), quartiles)


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
