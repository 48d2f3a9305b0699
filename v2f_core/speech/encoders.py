"""Speech encoders: from 1.25 s clips to speaker embeddings v_spk. AST is the paper's, ECAPA a common verifier.

Each is loaded from a folder in its library's own layout, so that the miniature and the published weights run through
the same code. Nothing is fetched from a hub.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.loading import check_config, check_finite, checked_folder, quiet, refusing, tensors_from_bin
from v2f_core.errors import InputError
from v2f_core.speech.audio import AudioWarning
from v2f_core.speech.ge2e import GE2EEncoder, tone
from v2f_core.speech.hyperparams import read_hyperparams

HOP, WINDOW, FFT = 160, 400, 512  # 10 ms, 25 ms: Kaldi's filter bank at 16 kHz


@runtime_checkable
class SpeechEncoder(Protocol):
    """The interface of a speech encoder for the rest of the package."""

    dim: int
    sample_rate: int

    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Embed clips without gradient; a clip's embedding does not depend on the others in the batch."""


class ASTEncoder(nn.Module):
    """Audio Spectrogram Transformer; v_spk is the [CLS] output after the last layer norm.

    Not ``pooler_output``, which averages [CLS] with the distillation token. Full size: 768-d,
    ``MIT/ast-finetuned-audioset-10-10-0.4593``. Parameters are frozen; unfreeze some to train through :meth:`forward`.

    Args:
        model, extractor: an ``ASTModel``, and its ``ASTFeatureExtractor`` for the settings alone.
        max_frames: cut the position embeddings to this many 10 ms frames, the first ones, so that a frame has the
            position it had. The published model pads every clip to 1,024 frames (10 s); 128 hold a 1.25 s clip and cost
            a tenth. None: as the model was trained.
    """

    kind = "ast"
    files = ("config.json", "preprocessor_config.json", "model.safetensors")  # the weights last

    def __init__(self, model: Any, extractor: Any, max_frames: int | None = None) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.frames = int(extractor.max_length)
        self.mean, self.std = 0.0, 1.0
        if extractor.do_normalize:
            self.mean, self.std = float(extractor.mean), 2 * float(extractor.std)
        self.dim = int(model.config.hidden_size)
        self.sample_rate = int(extractor.sampling_rate)
        if max_frames is not None:
            self._cut_positions(max_frames)
        self.mel: Tensor
        self.register_buffer("mel", kaldi_mel(int(extractor.num_mel_bins), self.sample_rate), persistent=False)

    @classmethod
    def from_folder(cls, folder: str | Path, max_frames: int | None = None) -> ASTEncoder:
        """Load ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``, or raise an ``InputError``."""
        from transformers import ASTFeatureExtractor, ASTModel

        folder = checked_folder(folder, cls.files, "an AST").resolve()
        for name in ("config.json", "preprocessor_config.json"):
            check_config(folder / name)
        with quiet(), refusing(folder, "an AST"):
            model, loading = ASTModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                use_safetensors=True,
                attn_implementation="sdpa",  # or a config could name a kernel to be downloaded
            )
            if missing := sorted(loading["missing_keys"]):
                raise ValueError(f"the weights lack {missing[0]} and {len(missing) - 1} more")
            check_finite(model, folder)
            extractor = ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
            sizes = extractor.num_mel_bins, extractor.max_length
            if sizes != (model.config.num_mel_bins, model.config.max_length):
                raise ValueError(f"{sizes[0]} mels and {sizes[1]} frames in preprocessor_config.json alone")
            encoder = cls(model, extractor, max_frames)
            check_finite({"v_spk of a tone": encoder.embed(tone())}, folder)
        return encoder

    def features(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames mels"]:
        """The normalised log-mel spectrogram, padded or cut to ``self.frames``; equals ``ASTFeatureExtractor``."""
        _check_length(waves, WINDOW)
        fbank = log_mel(waves, self.mel)[:, : self.frames]
        fbank = nn.functional.pad(fbank, (0, 0, 0, self.frames - fbank.shape[1]))
        return (fbank - self.mean) / self.std

    def forward(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk, with gradient for unfrozen parameters."""
        return self.model(self.features(waves)).last_hidden_state[:, 0]

    @torch.no_grad()
    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk without gradient; an ``AudioWarning`` where clips are longer than it hears.

        Example:
            >>> from transformers import ASTConfig, ASTFeatureExtractor, ASTModel
            >>> config = ASTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_length=128)
            >>> encoder = ASTEncoder(ASTModel(config), ASTFeatureExtractor(max_length=128))
            >>> encoder.embed(torch.randn(3, 20_000)).shape
            torch.Size([3, 32])
        """
        heard = WINDOW + (self.frames - 1) * HOP
        if waves.shape[1] >= heard + HOP:
            clips = f"clips of {waves.shape[1] / self.sample_rate:.2f} s"
            warnings.warn(
                AudioWarning(f"{clips}: this AST hears the first {heard / self.sample_rate:.2f} s"), stacklevel=2
            )
        return self(waves)

    def layers(self) -> list[nn.ModuleList]:
        """The transformer blocks, the last layer norm with the top one; patch embedding and positions do not count."""
        *lower, top = self.model.layers
        return [*(nn.ModuleList([block]) for block in lower), nn.ModuleList([top, self.model.layernorm])]

    def weights(self, source: Path) -> dict[str, Tensor]:
        """The weights for a file; positions, which are never trained, are those of ``source``, at full length."""
        positions = ASTEncoder.from_folder(source).model.embeddings.position_embeddings
        return {**self.model.state_dict(), "embeddings.position_embeddings": positions.detach()}

    def _cut_positions(self, max_frames: int) -> None:
        embeddings = self.model.embeddings
        rows, columns = embeddings.get_shape(self.model.config)
        keep = (max_frames - self.model.config.patch_size) // self.model.config.time_stride + 1
        if not 1 <= keep <= columns:
            raise InputError(f"max_frames={max_frames}: expected 16 to {self.frames}")
        table = embeddings.position_embeddings
        grid = table[:, 2:].unflatten(1, (rows, columns))  # the first two are [CLS]'s and the distillation token's
        table = torch.cat([table[:, :2], grid[:, :, :keep].flatten(1, 2)], 1)
        embeddings.position_embeddings = nn.Parameter(table, requires_grad=False)
        self.frames = max_frames


class ECAPAEncoder(nn.Module):
    """ECAPA-TDNN, a speaker verifier; v_spk is its 192-d output (full size: ``speechbrain/spkrec-ecapa-voxceleb``)."""

    kind, sample_rate = "ecapa", 16_000
    files = (
        "hyperparams.yaml",
        "mean_var_norm_emb.ckpt",
        "classifier.ckpt",
        "label_encoder.txt",
        "embedding_model.ckpt",  # the weights
    )

    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts.eval().requires_grad_(False)
        last: Any = parts["embedding_model"]
        self.dim = int(last.fc.conv.out_channels)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ECAPAEncoder:
        """Load speechbrain's folder: ``hyperparams.yaml``, three ``.ckpt`` files, ``label_encoder.txt``.

        speechbrain's own loader could run code. So the nets are built here, from the YAML's numbers alone
        (:func:`~v2f_core.speech.hyperparams.read_hyperparams`), and checkpoints must load with ``weights_only=True``.

        Raises:
            InputError: a file is missing, unsafe, or does not fit.
        """
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

        folder = checked_folder(folder, cls.files, "an ECAPA").resolve()
        settings = read_hyperparams(folder / "hyperparams.yaml")
        for path in sorted(folder.glob("*.ckpt")):  # used here or not: another program may open it
            with quiet(), refusing(path, "a checkpoint of tensors alone"):
                torch.load(path, map_location="cpu", weights_only=True)
        weights = tensors_from_bin(folder / "embedding_model.ckpt")
        check_finite(weights, folder / "embedding_model.ckpt")
        with quiet(), refusing(folder, "an ECAPA"):
            features = Fbank(**settings["compute_features"])
            norm = InputNormalization(**settings["mean_var_norm"])
            with torch.device("meta"):  # no memory is taken before the sizes are known to be the checkpoint's
                model = ECAPA_TDNN(**settings["embedding_model"])
            model.load_state_dict(weights, assign=True)
            parts = {"compute_features": features, "mean_var_norm": norm, "embedding_model": model.float()}
            encoder = cls(nn.ModuleDict(parts))
            check_finite({"v_spk of a tone": encoder.embed(tone())}, folder)
        return encoder

    def forward(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk, with gradient for unfrozen parameters; equals ``EncoderClassifier.encode_batch``."""
        _check_length(waves, 5 * HOP)  # the attention's statistics need a few frames
        lengths = torch.ones(len(waves), device=waves.device)
        features = self.parts["mean_var_norm"](self.parts["compute_features"](waves), lengths)
        return self.parts["embedding_model"](features, lengths).squeeze(1)

    @torch.no_grad()
    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk without gradient."""
        return self(waves)

    def layers(self) -> list[nn.ModuleList]:
        """The first convolution, the SE-Res2 blocks, their aggregation, the attentive pooling, the projection."""
        net: Any = self.parts["embedding_model"]
        stack = (*([block] for block in net.blocks), [net.mfa], [net.asp, net.asp_bn], [net.fc])
        return [nn.ModuleList(parts) for parts in stack]

    def weights(self, source: Path) -> dict[str, Tensor]:
        """The weights for a file; speaker classes and the mean embedding are never trained, and lie in other files."""
        return self.parts["embedding_model"].state_dict()


Encoder = ASTEncoder | ECAPAEncoder | GE2EEncoder


def load_encoder(kind: str, folder: str | Path, frames: int | None = None) -> Encoder:
    """Load a speech encoder, ``"ast"``, ``"ecapa"`` or ``"ge2e"``, from a folder in its library's own layout.

    ``frames`` is the length that an AST is cut to, see :class:`ASTEncoder`.

    Raises:
        InputError: another kind, or a folder that does not hold it.

    Example:
        >>> load_encoder("wav2vec", "models/ast")
        Traceback (most recent call last):
        v2f_core.errors.InputError: speech encoder 'wav2vec': expected 'ast', 'ecapa' or 'ge2e'
    """
    if kind == "ast":
        return ASTEncoder.from_folder(folder, frames)
    if kind == "ecapa":
        return ECAPAEncoder.from_folder(folder)
    if kind == "ge2e":
        return GE2EEncoder.from_folder(folder)
    raise InputError(f"speech encoder {kind!r}: expected 'ast', 'ecapa' or 'ge2e'")


# --- top layers: train them, save the encoder again


def unfreeze(encoder: Encoder, count: int) -> nn.ModuleList:
    """Make the top ``count`` of ``encoder.layers()`` trainable and no other parameter; return these layers.

    Call ``.train()`` on the returned layers alone: the frozen part keeps its batch statistics and has no dropout.
    """
    stack = encoder.layers()
    if not 0 <= count <= len(stack):
        raise InputError(f"unfreeze={count}: this encoder has {len(stack)} layers")
    encoder.eval().requires_grad_(False)
    return nn.ModuleList(stack[len(stack) - count :]).requires_grad_(True)


def save_encoder(encoder: Encoder, source: str | Path, folder: str | Path) -> None:
    """Write an encoder's folder with its present weights, as float32; copy all other files from ``source``.

    ``source`` is the folder that the encoder was loaded from.
    """
    source, folder = Path(source), Path(folder)
    *others, last = encoder.files
    for file in others:
        with atomic_write(folder / file) as temporary:
            shutil.copyfile(source / file, temporary)
    state = {key: value.contiguous().cpu() for key, value in encoder.weights(source).items()}
    with atomic_write(folder / last) as temporary:
        if last.endswith(".safetensors"):
            save_file(state, temporary, {"format": "pt"})
        else:
            with temporary.open("wb") as opened:  # given a path, torch writes the file's name into the file
                torch.save(state, opened)


# --- Kaldi's log-mel filter bank, batched: the input of an AST


def log_mel(
    waves: Float[Tensor, "batch samples"], mel: Float[Tensor, "mels bins"]
) -> Float[Tensor, "batch frames mels"]:
    """Kaldi's log-mel filter bank of whole 25 ms windows every 10 ms, for a batch at once.

    Example:
        >>> log_mel(torch.randn(2, 20_000), torch.rand(128, 257)).shape  # 1 + (20,000 − 400) // 160 frames
        torch.Size([2, 123, 128])
    """
    frames = waves.unfold(1, WINDOW, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    frames = torch.cat([frames[..., :1] * (1 - 0.97), frames[..., 1:] - 0.97 * frames[..., :-1]], -1)  # pre-emphasis
    window = torch.hann_window(WINDOW, periodic=False, device=waves.device)
    power = torch.fft.rfft(frames * window, FFT).abs().square()
    return (power @ mel.T).clamp_min(torch.finfo(torch.float32).eps).log()


def kaldi_mel(bins: int, sample_rate: int) -> Float[Tensor, "mels bins"]:
    """Kaldi's triangular mel filters from 20 Hz up, one row a filter, over the 257 bins of the spectrum."""
    from torchaudio.compliance.kaldi import get_mel_banks

    banks, _ = get_mel_banks(bins, FFT, sample_rate, 20.0, 0.0, 100.0, -500.0, 1.0)
    return nn.functional.pad(banks, (0, 1))  # Kaldi leaves out the last bin


def _check_length(waves: Tensor, least: int) -> None:
    if waves.shape[1] < least:
        raise InputError(f"clips of {waves.shape[1]} samples: expected at least {least}")
