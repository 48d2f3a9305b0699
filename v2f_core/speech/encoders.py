"""Speech encoders: from clips of speech to speaker embeddings v_spk. AST is the paper's, ECAPA and GE2E are verifiers.

Each is loaded from a folder in its library's own layout, so that the miniature and the published weights run through
the same code. Nothing is fetched from a hub.
"""

from __future__ import annotations

import math
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.loading import (
    check_config,
    check_finite,
    checked_folder,
    quiet,
    read_tensors,
    refusing,
    tensors_from_bin,
)
from v2f_core.errors import InputError
from v2f_core.speech.audio import AudioWarning

Waves = Float[Tensor, "batch samples"]
Embeddings = Float[Tensor, "batch dim"]

WINDOWS_AT_ONCE = 64  # that an encoder gets together: a long recording has hundreds
HOP = 160  # samples between frames: 10 ms at 16 kHz
WINDOW, FFT = 400, 512  # 25 ms: Kaldi's filter bank


class SpeechEncoder(nn.Module):
    """A speech encoder, frozen until :func:`unfreeze` frees its top layers.

    A subclass has ``dim``, the width of v_spk, and ``forward(clips)``, which gives v_spk with gradient for unfrozen
    parameters; a clip's embedding does not depend on the others in the batch. To be trained and saved it has ``files``,
    ``layers`` and ``weights``, too.
    """

    kind: ClassVar[str] = ""
    dim: int
    sample_rate: int = 16_000
    files: ClassVar[tuple[str, ...]] = ()  # of its folder, the trained weights last
    folder: Path | None = None  # that it was loaded from
    max_frames: int | None = None  # that an AST's positions were cut to

    @torch.no_grad()
    def embed(self, waves: Waves) -> Embeddings:
        """v_spk of clips, without gradient."""
        return self(waves)

    def layers(self) -> list[nn.ModuleList]:
        """The parts that can be unfrozen, from the bottom."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """The weights for the last of ``files``."""
        return self.state_dict()


class ASTEncoder(SpeechEncoder):
    """Audio Spectrogram Transformer; v_spk is the [CLS] output after the last layer norm.

    Not ``pooler_output``, which averages [CLS] with the distillation token. Full size: 768-d,
    ``MIT/ast-finetuned-audioset-10-10-0.4593``. That pads every clip to 1,024 frames of 10 ms; ``max_frames`` keeps the
    positions of the first ones alone. 128 hold a 1.25 s clip and cost a tenth.
    """

    kind, files = "ast", ("config.json", "preprocessor_config.json", "model.safetensors")

    def __init__(self, model: Any, extractor: Any, max_frames: int | None = None) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.frames = int(extractor.max_length)
        mean, std = (extractor.mean, 2 * extractor.std) if extractor.do_normalize else (0, 1)
        self.mean, self.std = float(mean), float(std)
        self.dim = int(model.config.hidden_size)
        self.positions = model.embeddings.position_embeddings.detach()
        if max_frames is not None:
            self._cut_positions(max_frames)
        self.mel: Tensor
        self.register_buffer("mel", kaldi_mel(int(extractor.num_mel_bins)), persistent=False)

    @classmethod
    def from_folder(cls, folder: str | Path, max_frames: int | None = None) -> ASTEncoder:
        """Load transformers' folder of an ``ASTModel`` and its ``ASTFeatureExtractor``, or raise an ``InputError``."""
        from transformers import ASTFeatureExtractor, ASTModel

        folder = checked_folder(folder, cls.files, "an AST").resolve()
        for name in ("config.json", "preprocessor_config.json"):
            check_config(folder / name)
        # sdpa, or a config could name a kernel to be downloaded
        options = {"dtype": torch.float32, "use_safetensors": True, "attn_implementation": "sdpa"}
        with quiet(), refusing(folder, "an AST"):
            extractor = ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
            loaded = ASTModel.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
            model, loading = loaded
            if missing := sorted(loading["missing_keys"]):
                raise ValueError(f"the weights lack {missing[0]} and {len(missing) - 1} more")
            check_finite(model, folder)
            theirs = extractor.num_mel_bins, extractor.max_length, extractor.sampling_rate
            if theirs != (model.config.num_mel_bins, model.config.max_length, cls.sample_rate):
                raise ValueError("{} mels, {} frames, {} Hz in preprocessor_config.json alone".format(*theirs))
            return cls(model, extractor, max_frames)

    def features(self, waves: Waves) -> Float[Tensor, "batch frames mels"]:
        """The normalised log-mel spectrogram, padded or cut to ``self.frames``: ``ASTFeatureExtractor``'s."""
        _check_length(waves, WINDOW)
        fbank = log_mel(waves, self.mel)[:, : self.frames]
        fbank = nn.functional.pad(fbank, (0, 0, 0, self.frames - fbank.shape[1]))
        return (fbank - self.mean) / self.std

    def forward(self, waves: Waves) -> Embeddings:
        """v_spk, the [CLS] output; an ``AudioWarning`` where clips are longer than is heard of them."""
        heard = WINDOW + (self.frames - 1) * HOP
        if waves.shape[1] >= heard + HOP:
            whole, first = (f"{samples / self.sample_rate:.2f} s" for samples in (waves.shape[1], heard))
            warnings.warn(AudioWarning(f"clips of {whole}: this AST hears the first {first}"), stacklevel=2)
        return self.model(self.features(waves)).last_hidden_state[:, 0]

    def layers(self) -> list[nn.ModuleList]:
        """The transformer blocks, the last layer norm with the top one; patch embedding and positions do not count."""
        *lower, top = self.model.layers
        return [*(nn.ModuleList([block]) for block in lower), nn.ModuleList([top, self.model.layernorm])]

    def weights(self) -> dict[str, Tensor]:
        """With the positions, which are never trained, at full length."""
        return {**self.model.state_dict(), "embeddings.position_embeddings": self.positions}

    def _cut_positions(self, max_frames: int) -> None:
        config, embeddings = self.model.config, self.model.embeddings
        rows, columns = embeddings.get_shape(config)
        keep = (max_frames - config.patch_size) // config.time_stride + 1
        if not 1 <= keep <= columns:
            raise InputError(f"max_frames={max_frames}: expected 16 to {self.frames}")
        tokens, grid = self.positions[:, :2], self.positions[:, 2:].unflatten(1, (rows, columns))  # [CLS], distillation
        table = torch.cat([tokens, grid[:, :, :keep].flatten(1, 2)], 1)
        embeddings.position_embeddings = nn.Parameter(table, requires_grad=False)
        self.frames = max_frames


def log_mel(waves: Waves, mel: Float[Tensor, "mels bins"]) -> Float[Tensor, "batch frames mels"]:
    """Kaldi's log-mel filter bank of whole 25 ms windows every 10 ms, for a batch at once: the input of an AST."""
    frames = waves.unfold(1, WINDOW, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    frames = torch.cat([frames[..., :1] * (1 - 0.97), frames[..., 1:] - 0.97 * frames[..., :-1]], -1)  # pre-emphasis
    window = torch.hann_window(WINDOW, periodic=False, device=waves.device)
    power = torch.fft.rfft(frames * window, FFT).abs().square()
    return (power @ mel.T).clamp_min(torch.finfo(torch.float32).eps).log()


def kaldi_mel(bins: int) -> Float[Tensor, "mels bins"]:
    """Kaldi's triangular mel filters from 20 Hz up, one row a filter, over the 257 bins of the spectrum at 16 kHz."""
    from torchaudio.compliance.kaldi import get_mel_banks

    banks, _ = get_mel_banks(bins, FFT, SpeechEncoder.sample_rate, 20.0, 0.0, 100.0, -500.0, 1.0)
    return nn.functional.pad(banks, (0, 1))  # Kaldi leaves out the last bin


# in an ECAPA's hyperparams.yaml; speechbrain would run whatever else is named there
TAGS = (
    "!new:speechbrain.lobes.features.Fbank",
    "!new:speechbrain.processing.features.InputNormalization",
    "!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",
    "!new:speechbrain.lobes.models.ECAPA_TDNN.Classifier",
    "!new:speechbrain.dataio.encoder.CategoricalEncoder",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
    "!ref",
)


class ECAPAEncoder(SpeechEncoder):
    """ECAPA-TDNN, a speaker verifier; v_spk is its 192-d output (full size: ``speechbrain/spkrec-ecapa-voxceleb``)."""

    kind = "ecapa"
    files = (
        "hyperparams.yaml",
        "mean_var_norm_emb.ckpt",
        "classifier.ckpt",
        "label_encoder.txt",
        "embedding_model.ckpt",
    )

    def __init__(self, net: Any) -> None:
        from speechbrain.lobes.features import Fbank
        from speechbrain.processing.features import InputNormalization

        super().__init__()
        self.mel = Fbank(n_mels=net.blocks[0].conv.conv.in_channels)
        self.norm = InputNormalization(norm_type="sentence", std_norm=False)
        self.net, self.dim = net, int(net.fc.conv.out_channels)
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ECAPAEncoder:
        """Load speechbrain's folder, or raise an ``InputError`` if a file is missing or unsafe, or no ECAPA's.

        The YAML is not parsed: the nets are built below, with the sizes of the checkpoint's tensors. Checkpoints must
        load with ``weights_only=True``, used here or not: another program may open them.
        """
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        folder = checked_folder(folder, cls.files, "an ECAPA").resolve()
        settings = folder / "hyperparams.yaml"
        with refusing(settings, "an ECAPA's settings"):
            if unknown := [tag for tag in re.findall(r"!\S+", settings.read_text(encoding="utf-8")) if tag not in TAGS]:
                raise InputError(f"{unknown[0]} refused; an ECAPA has no such part")
        for path in sorted(folder.glob("*.ckpt")):
            with quiet(), refusing(path, "a checkpoint of tensors alone"):
                torch.load(path, map_location="cpu", weights_only=True)
        weights = tensors_from_bin(folder / "embedding_model.ckpt")
        check_finite(weights, folder / "embedding_model.ckpt")
        with quiet(), refusing(folder, "an ECAPA"):
            width, mels, _ = weights["blocks.0.conv.conv.weight"].shape
            sizes = {
                "input_size": mels,
                "channels": [width] * 4 + [len(weights["mfa.conv.conv.weight"])],
                "attention_channels": len(weights["asp.tdnn.conv.conv.weight"]),
                "se_channels": len(weights["blocks.1.se_block.conv1.conv.weight"]),
                "lin_neurons": len(weights["fc.conv.weight"]),
            }
            with torch.device("meta"):  # random initial weights would advance the caller's generator
                net = ECAPA_TDNN(**sizes)
            net.load_state_dict(weights, assign=True)
            return cls(net.float())

    def forward(self, waves: Waves) -> Embeddings:
        """v_spk; equals ``EncoderClassifier.encode_batch``."""
        _check_length(waves, 5 * HOP)  # the attention's statistics need a few frames
        lengths = torch.ones(len(waves), device=waves.device)
        return self.net(self.norm(self.mel(waves), lengths), lengths).squeeze(1)

    def layers(self) -> list[nn.ModuleList]:
        """The first convolution, the SE-Res2 blocks, their aggregation, the attentive pooling, the projection."""
        net = self.net
        stack = (*([block] for block in net.blocks), [net.mfa], [net.asp, net.asp_bn], [net.fc])
        return [nn.ModuleList(parts) for parts in stack]

    def weights(self) -> dict[str, Tensor]:
        """Without speaker classes and mean embedding, which are never trained and lie in other files."""
        return self.net.state_dict()


LEVEL_DBFS = -30.0  # what Resemblyzer raises quiet recordings to
PARTIAL, STEP = 160, 77  # frames of a partial utterance, 1.6 s, and from one to the next, 1 / 1.3 s
COVERAGE = 0.75  # a last partial utterance that has less of the recording than this is left out


class GE2EEncoder(SpeechEncoder):
    """A verifier trained on real people: v_spk is a unit vector of 256 numbers, none negative (Wan et al. 2018).

    The weights, a 3-layer LSTM over mel spectrograms, are those of the Python package Resemblyzer (Apache-2.0), and the
    results are, too, to 1e-4. A clip is heard in partial utterances of 1.6 s, 0.77 s apart, and v_spk is the
    normalised mean of their embeddings. A shorter clip is filled up with silence. The spectrogram is of power, not of
    its logarithm: every clip is brought to one level first, a root mean square of ``level`` dB (None leaves it).
    """

    kind, dim, files = "ge2e", 256, ("config.json", "model.safetensors")

    def __init__(self, level: float | None = LEVEL_DBFS) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        self.level = level
        self.lstm = nn.LSTM(40, self.dim, num_layers=3, batch_first=True)
        self.linear = nn.Linear(self.dim, self.dim)
        self.mel: Tensor
        mel = melscale_fbanks(WINDOW // 2 + 1, 0.0, 8_000.0, 40, self.sample_rate, norm="slaney", mel_scale="slaney")
        self.register_buffer("mel", mel.T, persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> GE2EEncoder:
        """Load ``config.json`` and ``model.safetensors``, of any precision, in float32."""
        folder = checked_folder(folder, cls.files, "a GE2E")
        config, weights = check_config(folder / "config.json"), read_tensors(folder / "model.safetensors")
        with refusing(folder, "a GE2E"):
            with torch.random.fork_rng(devices=[]):  # the initial weights, replaced below, are drawn
                encoder = cls(float(config["level_dbfs"]))
            encoder.load_state_dict({name: value.float() for name, value in weights.items()})
        return encoder

    def features(self, waves: Waves) -> Float[Tensor, "batch frames mels"]:
        """Mel spectrogram of power: ``librosa.feature.melspectrogram(n_fft=400, hop_length=160, n_mels=40)``."""
        window = torch.hann_window(WINDOW, device=waves.device)
        spectrum = torch.stft(waves, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
        return (self.mel @ spectrum.abs().square()).transpose(1, 2)

    def forward(self, waves: Waves) -> Embeddings:
        """v_spk, by the recipe above."""
        _check_length(waves, WINDOW)
        if self.level is not None:
            rms = waves.square().mean(1, keepdim=True).sqrt()
            waves = waves * (10 ** (self.level / 20) / rms.clamp_min(1e-8))  # silence stays silent
        starts = partials(waves.shape[1])
        lacking = (starts[-1] + PARTIAL) * HOP - waves.shape[1]
        mel = self.features(nn.functional.pad(waves, (0, max(0, lacking))))
        parts = torch.stack([mel[:, start : start + PARTIAL] for start in starts], 1)
        last = self.lstm(parts.flatten(0, 1))[1][0][-1]
        heard = nn.functional.normalize(torch.relu(self.linear(last)), dim=1).unflatten(0, (len(waves), len(starts)))
        return nn.functional.normalize(heard.mean(1), dim=1)

    def layers(self) -> list[nn.ModuleList]:
        """The three layers of the LSTM together, the projection."""
        return [nn.ModuleList([self.lstm]), nn.ModuleList([self.linear])]


def partials(samples: int) -> list[int]:
    """The first frames of a clip's partial utterances, as Resemblyzer places them.

    Example:
        >>> partials(20_000), partials(48_000)  # 1.25 s and 3 s
        ([0], [0, 77, 154])
        >>> partials(31_360), partials(31_680)  # three quarters of the second part end at 1.97 s
        ([0], [0, 77])
    """
    frames = math.ceil((samples + 1) / HOP)
    starts = list(range(0, max(1, frames - PARTIAL + STEP + 1), STEP))
    covered = (samples - starts[-1] * HOP) / (PARTIAL * HOP)
    return starts[:-1] if covered < COVERAGE and len(starts) > 1 else starts


def load_encoder(kind: str, folder: str | Path, frames: int | None = None) -> SpeechEncoder:
    """Load a speech encoder, ``"ast"``, ``"ecapa"`` or ``"ge2e"``, from a folder in its library's own layout.

    ``frames`` is the length that an AST is cut to. Raises an ``InputError`` for another kind, or a folder of another.
    """
    loaders: dict[str, Callable[[], SpeechEncoder]] = {
        "ast": lambda: ASTEncoder.from_folder(folder, frames),
        "ecapa": lambda: ECAPAEncoder.from_folder(folder),
        "ge2e": lambda: GE2EEncoder.from_folder(folder),
    }
    if kind not in loaders:
        raise InputError(f"speech encoder {kind!r}: expected 'ast', 'ecapa' or 'ge2e'")
    with refusing(folder, f"a speech encoder ({kind})"):
        encoder = loaders[kind]()
        tone = 0.1 * torch.arange(20_000.0).sin()[None]
        check_finite({"v_spk of a tone": encoder.embed(tone)}, folder)
        encoder.folder, encoder.max_frames = Path(folder), frames
        return encoder


def embed_windows(
    encoder: SpeechEncoder, recordings: Sequence[Float[Tensor, "_ samples"]]
) -> list[Float[Tensor, "_ speaker"]]:
    """The embeddings of each recording's windows, `WINDOWS_AT_ONCE` of all recordings together."""
    device = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
    parts = torch.cat(list(recordings)).split(WINDOWS_AT_ONCE)
    embedded = torch.cat([encoder.embed(part.to(device)) for part in parts])
    return list(embedded.float().split([len(windows) for windows in recordings]))


# --- top layers: train them, save the encoder again


def unfreeze(encoder: SpeechEncoder, count: int) -> nn.ModuleList:
    """Make the top ``count`` of ``encoder.layers()`` trainable and no other parameter; return these layers.

    Call ``.train()`` on the returned layers alone: the frozen part keeps its batch statistics and has no dropout.
    """
    stack = encoder.layers()
    if not 0 <= count <= len(stack):
        raise InputError(f"unfreeze={count}: this encoder has {len(stack)} layers")
    encoder.eval().requires_grad_(False)
    return nn.ModuleList(stack[len(stack) - count :]).requires_grad_(True)


def save_encoder(encoder: SpeechEncoder, source: str | Path, folder: str | Path) -> None:
    """Write an encoder's folder with its present weights; all other files are those of ``source``, its old folder."""
    *others, last = encoder.files
    for file in others:
        with atomic_write(Path(folder) / file) as temporary:
            shutil.copyfile(Path(source) / file, temporary)
    state = {key: value.contiguous().cpu() for key, value in encoder.weights().items()}
    with atomic_write(Path(folder) / last) as temporary:
        if last.endswith(".safetensors"):
            save_file(state, temporary, {"format": "pt"})
        else:
            with temporary.open("wb") as opened:  # given a path, torch writes the file's name into the file
                torch.save(state, opened)


ONE_VOICE = 0.72  # of :func:`oneness`; benchmarks/open_encoders.py counts on which side clips of one and of two fall


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


def _check_length(waves: Tensor, least: int) -> None:
    if waves.shape[1] < least:
        raise InputError(f"clips of {waves.shape[1]} samples: expected at least {least}")
