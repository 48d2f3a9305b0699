"""GE2E: a published speaker verifier trained on real people, small enough to ship (Wan et al., ICASSP 2018).

The weights are those of the Python package Resemblyzer (Apache-2.0); ``config.json`` beside them says where they come
from. Only its weights are used, none of its code: the spectrogram and the average over partial utterances are computed
here, and equal Resemblyzer's own to 1e-4.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.artefacts.loading import check_config, check_finite, checked_folder, read_tensors, refusing
from v2f_core.errors import InputError

MELS, WIDTH, LAYERS, SAMPLE_RATE = 40, 256, 3, 16_000
FFT, HOP = 400, 160  # 25 ms, 10 ms
PARTIAL, STEP = 160, 77  # frames of a partial utterance, 1.6 s, and from one to the next, 1 / 1.3 s
COVERAGE = 0.75  # a last partial utterance that has less of the recording than this is left out
LEVEL_DBFS = -30.0  # what Resemblyzer raises quiet recordings to
ONE_VOICE = 0.72  # of :func:`oneness`; benchmarks/open_encoders.py counts on which side clips of one and of two fall


class GE2EEncoder(nn.Module):
    """A 3-layer LSTM over mel spectrograms; v_spk is a unit vector of 256 numbers, none of them negative.

    A clip is heard in partial utterances of 1.6 s, 0.77 s apart, and v_spk is the normalised mean of their embeddings.
    A shorter clip is filled up with silence. The spectrogram is of power, not of its logarithm, so that the level
    matters: every clip is brought to one level first, a root mean square of ``level`` dB (None leaves it as it is).

    Example:
        >>> encoder = GE2EEncoder()
        >>> v = encoder.embed(0.1 * torch.randn(2, 25_600))
        >>> v.shape, bool(torch.allclose(v.norm(dim=1), torch.ones(2), atol=1e-5))
        (torch.Size([2, 256]), True)
    """

    kind, dim, sample_rate = "ge2e", WIDTH, SAMPLE_RATE
    files = ("config.json", "model.safetensors")  # the weights last

    def __init__(self, level: float | None = LEVEL_DBFS) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        self.level = level
        self.lstm = nn.LSTM(MELS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.mel: Tensor
        mel = melscale_fbanks(FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("mel", mel.T, persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> GE2EEncoder:
        """Load ``config.json`` and ``model.safetensors``, of any precision, in float32."""
        folder = checked_folder(folder, cls.files, "a GE2E")
        config, weights = check_config(folder / "config.json"), read_tensors(folder / "model.safetensors")
        with refusing(folder, "a GE2E"):
            level = config["level_dbfs"]
            if level is not None and not -100 <= level <= 0:
                raise ValueError(f"level_dbfs is {level}")
            with torch.random.fork_rng(devices=[]):  # the initial weights, replaced below, are drawn
                encoder = cls(level)
            encoder.load_state_dict({name: value.float() for name, value in weights.items()})
            check_finite({"v_spk of a tone": encoder.embed(tone())}, folder)
        return encoder

    def features(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames mels"]:
        """Mel spectrogram of power: 25 ms windows every 10 ms, the first centred on the first sample.

        Equals ``librosa.feature.melspectrogram(n_fft=400, hop_length=160, n_mels=40)``.
        """
        window = torch.hann_window(FFT, device=waves.device)
        spectrum = torch.stft(waves, FFT, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
        return (self.mel @ spectrum.abs().square()).transpose(1, 2)

    def forward(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk with gradient, for parameters that were unfrozen."""
        if waves.shape[1] < FFT:
            raise InputError(f"clips of {waves.shape[1]} samples: expected at least {FFT}")
        if self.level is not None:
            waves = at_level(waves, self.level)
        starts = partials(waves.shape[1])
        whole = (starts[-1] + PARTIAL) * HOP
        mel = self.features(nn.functional.pad(waves, (0, max(0, whole - waves.shape[1]))))
        parts = torch.stack([mel[:, start : start + PARTIAL] for start in starts], 1)
        last = self.lstm(parts.flatten(0, 1))[1][0][-1]
        heard = nn.functional.normalize(torch.relu(self.linear(last)), dim=1).unflatten(0, (len(waves), len(starts)))
        return nn.functional.normalize(heard.mean(1), dim=1)

    @torch.no_grad()
    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk without gradient."""
        return self(waves)

    def layers(self) -> list[nn.ModuleList]:
        """The three layers of the LSTM together, the projection."""
        return [nn.ModuleList([self.lstm]), nn.ModuleList([self.linear])]

    def weights(self, source: Path) -> dict[str, Tensor]:
        """The weights for a file."""
        return self.state_dict()


def partials(samples: int) -> list[int]:
    """The first frames of a clip's partial utterances, as Resemblyzer places them.

    Example:
        >>> partials(20_000), partials(25_600), partials(48_000)  # 1.25 s, 1.6 s and 3 s
        ([0], [0], [0, 77, 154])
    """
    frames = math.ceil((samples + 1) / HOP)
    starts = list(range(0, max(1, frames - PARTIAL + STEP + 1), STEP))
    covered = (samples - starts[-1] * HOP) / (PARTIAL * HOP)
    return starts[:-1] if covered < COVERAGE and len(starts) > 1 else starts


def at_level(waves: Float[Tensor, "batch samples"], dbfs: float) -> Float[Tensor, "batch samples"]:
    """Each clip scaled to one root mean square; silence stays silent.

    Example:
        >>> loud, quiet = at_level(torch.tensor([[0.5, -0.5], [0.001, -0.001]]), -20.0)
        >>> loud.tolist(), bool(torch.allclose(loud, quiet))
        ([0.10000000149011612, -0.10000000149011612], True)
    """
    rms = waves.square().mean(1, keepdim=True).sqrt()
    return waves * (10 ** (dbfs / 20) / rms.clamp_min(1e-8))


def oneness(windows: Float[Tensor, "windows dim"]) -> float:
    """How much a recording sounds like one person: the cosine between the means of two groups of its windows.

    The groups are those of 2-means, begun at the two windows that are least alike. Below `ONE_VOICE` two persons are
    likely to talk. If a group would have a single window, the result is 1: a cough or a laugh is not another person.

    Example:
        >>> one, other = torch.tensor([1.0, 0.1, 0.0]), torch.tensor([0.0, 0.1, 1.0])
        >>> round(oneness(torch.stack([one, one, other, other])), 2), oneness(torch.stack([one, one, one, other]))
        (0.01, 1.0)
    """
    z = nn.functional.normalize(windows, dim=1)
    first, second = divmod(int((z @ z.T).argmin()), len(z))
    one, other = z[first], z[second]
    for _ in range(10):
        near = z @ one >= z @ other
        if min(int(near.sum()), int((~near).sum())) < 2:
            return 1.0
        one, other = (nn.functional.normalize(part.mean(dim=0), dim=0) for part in (z[near], z[~near]))
    return float(one @ other)


def tone() -> Float[Tensor, "1 samples"]:
    """A clip of 1.25 s that every encoder is tried with when it is loaded."""
    return 0.1 * torch.arange(20_000.0).sin()[None]
