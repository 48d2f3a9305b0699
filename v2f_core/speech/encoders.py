"""Speech encoders: 1.25 s clips in, speaker embeddings v_spk out. AST is the paper's, ECAPA the field's.

Each is loaded from a folder in its library's own layout, so that the miniature and the published weights
run through the same code: ``transformers`` for AST, ``speechbrain`` for ECAPA. Nothing is fetched from a hub.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.artefacts.pickles import tensors_from_bin
from v2f_core.errors import InputError
from v2f_core.speech.hyperparams import read_hyperparams
from v2f_core.speech.mel import HOP, WINDOW, kaldi_mel, log_mel
from v2f_core.speech.opening import folder_with, one_line, quiet, refuse_code

Positions = Literal["cut", "interpolate"]
Change = Callable[[Tensor], Tensor]  # of a log-mel spectrogram in training, see `v2f_core.speech.augment`
AST_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
ECAPA_FILES = (
    "hyperparams.yaml",
    "embedding_model.ckpt",
    "mean_var_norm_emb.ckpt",
    "classifier.ckpt",
    "label_encoder.txt",
)


@runtime_checkable
class SpeechEncoder(Protocol):
    """What the rest of the house needs of an encoder; both classes below are also ``nn.Module``."""

    dim: int
    sample_rate: int

    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Embed clips without gradient; a clip's embedding does not depend on the others in the batch."""


class ASTEncoder(nn.Module):
    """Audio Spectrogram Transformer; v_spk is the [CLS] output after the last layer norm.

    Not ``pooler_output``, which averages [CLS] with the distillation token. Full size: 768-d,
    ``MIT/ast-finetuned-audioset-10-10-0.4593``. Parameters are frozen; unfreeze some to train through :meth:`forward`.

    Args:
        model: an ``ASTModel``.
        extractor: the ``ASTFeatureExtractor`` that goes with it, for its settings: the filter bank is batched here.
        max_frames: shorten the position embeddings to this many 10 ms frames. The published model pads every clip
            to 1,024 frames (10 s); 128 hold a 1.25 s clip and cost a tenth. None: as the model was trained.
        positions: how they are shortened: "cut" keeps the first ones, so that a frame has the position it had;
            "interpolate" squeezes all of them together, so that a clip spans what ten seconds did.
    """

    def __init__(self, model: Any, extractor: Any, max_frames: int | None = None, positions: Positions = "cut") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.frames = int(extractor.max_length)
        self.mean, self.std = 0.0, 1.0
        if extractor.do_normalize:
            self.mean, self.std = float(extractor.mean), 2 * float(extractor.std)
        self.dim = int(model.config.hidden_size)
        self.sample_rate = int(extractor.sampling_rate)
        if max_frames is not None:
            self._shorten_positions(max_frames, positions)
        self.mel: Tensor
        self.register_buffer("mel", kaldi_mel(int(extractor.num_mel_bins), self.sample_rate), persistent=False)

    @classmethod
    def from_folder(cls, folder: str | Path, max_frames: int | None = None, positions: Positions = "cut") -> ASTEncoder:
        """Load ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

        Raises:
            InputError: a file is missing, or is not what an AST needs.
        """
        from transformers import ASTFeatureExtractor, ASTModel

        folder = folder_with(folder, AST_FILES, "an AST")
        with quiet():
            try:
                model, loading = ASTModel.from_pretrained(
                    folder,
                    dtype=torch.float32,
                    local_files_only=True,
                    output_loading_info=True,
                    use_safetensors=True,
                    attn_implementation="sdpa",  # or a config could name a kernel to be downloaded
                )
                extractor = ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(f"{folder}: cannot be loaded as an AST: {one_line(error)}") from error
        if loading["missing_keys"]:
            missing = sorted(loading["missing_keys"])
            raise InputError(f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more; get it anew")
        return cls(model, extractor, max_frames, positions)

    def features(
        self, waves: Float[Tensor, "batch samples"], change: Change | None = None
    ) -> Float[Tensor, "batch frames mels"]:
        """The normalised log-mel spectrogram, padded or cut to ``self.frames``; equals ``ASTFeatureExtractor``.

        ``change`` is applied before it is padded and normalised.
        """
        _check(waves, WINDOW)
        fbank = log_mel(waves, self.mel)[:, : self.frames]
        fbank = change(fbank) if change else fbank
        fbank = nn.functional.pad(fbank, (0, 0, 0, self.frames - fbank.shape[1]))
        return (fbank - self.mean) / self.std

    def forward(
        self, waves: Float[Tensor, "batch samples"], change: Change | None = None
    ) -> Float[Tensor, "batch dim"]:
        """v_spk with gradient, for parameters that were unfrozen; ``change`` alters the spectrogram, see `features`."""
        return self.model(self.features(waves, change)).last_hidden_state[:, 0]

    @torch.no_grad()
    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk without gradient.

        Example:
            >>> from transformers import ASTConfig, ASTFeatureExtractor, ASTModel
            >>> config = ASTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_length=128)
            >>> encoder = ASTEncoder(ASTModel(config), ASTFeatureExtractor(max_length=128))
            >>> encoder.embed(torch.randn(3, 20_000)).shape
            torch.Size([3, 32])
        """
        return self(waves)

    def _shorten_positions(self, max_frames: int, positions: Positions) -> None:
        embeddings = self.model.embeddings
        rows, columns = embeddings.get_shape(self.model.config)
        keep = (max_frames - self.model.config.patch_size) // self.model.config.time_stride + 1
        if not 1 <= keep <= columns:
            raise InputError(f"max_frames={max_frames}: expected 16 to {self.frames}")
        table = embeddings.position_embeddings
        grid = table[:, 2:].unflatten(1, (rows, columns))  # the first two are [CLS]'s and the distillation token's
        if positions == "cut":
            grid = grid[:, :, :keep]
        else:
            grid = nn.functional.interpolate(grid.permute(0, 3, 1, 2), (rows, keep), mode="bilinear").permute(
                0, 2, 3, 1
            )
        table = torch.cat([table[:, :2], grid.flatten(1, 2)], 1)
        embeddings.position_embeddings = nn.Parameter(table, requires_grad=False)
        self.frames = max_frames


class ECAPAEncoder(nn.Module):
    """ECAPA-TDNN, a speaker verifier; v_spk is its 192-d output (full size: ``speechbrain/spkrec-ecapa-voxceleb``).

    Args:
        parts: ``compute_features``, ``mean_var_norm`` and ``embedding_model`` of a speechbrain ``EncoderClassifier``.
    """

    sample_rate = 16_000

    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts.eval().requires_grad_(False)
        last: Any = parts["embedding_model"]
        self.dim = int(last.fc.conv.out_channels)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ECAPAEncoder:
        """Load speechbrain's folder: ``hyperparams.yaml``, three ``.ckpt`` files, ``label_encoder.txt``.

        Checkpoints are pickles and the YAML can name any Python class, so that speechbrain's own loader could run code.
        It is not used: the nets are built here, from the YAML's numbers alone (see
        :func:`~v2f_core.speech.hyperparams.read_hyperparams`), and checkpoints must load with ``weights_only=True``.

        Raises:
            InputError: a file is missing, unsafe, or does not fit.
        """
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

        folder = folder_with(folder, ECAPA_FILES, "an ECAPA")
        settings = read_hyperparams(folder / "hyperparams.yaml")
        refuse_code(folder)
        weights = tensors_from_bin(folder / "embedding_model.ckpt")
        with quiet():
            try:
                features = Fbank(**settings.compute_features)
                norm = InputNormalization(**settings.mean_var_norm)
                with torch.device("meta"):  # no memory is taken before the sizes are known to be the checkpoint's
                    model = ECAPA_TDNN(**settings.embedding_model)
                model.load_state_dict(weights, assign=True)
            except Exception as error:  # speechbrain's classes check by assertions, divisions and lookups
                raise InputError(f"{folder}: cannot be loaded as an ECAPA: {one_line(error)}") from error
        parts = {"compute_features": features, "mean_var_norm": norm, "embedding_model": model.float()}
        return cls(nn.ModuleDict(parts))

    def forward(
        self, waves: Float[Tensor, "batch samples"], change: Change | None = None
    ) -> Float[Tensor, "batch dim"]:
        """v_spk with gradient, for parameters that were unfrozen; equals ``EncoderClassifier.encode_batch``.

        ``change`` alters the log-mel spectrogram before its mean is taken off.
        """
        _check(waves, 5 * HOP)  # the attention's statistics need a few frames
        lengths = torch.ones(len(waves), device=waves.device)
        features = self.parts["compute_features"](waves)
        features = change(features) if change else features
        features = self.parts["mean_var_norm"](features, lengths)
        return self.parts["embedding_model"](features, lengths).squeeze(1)

    @torch.no_grad()
    def embed(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """v_spk without gradient."""
        return self(waves)


def load_encoder(
    kind: str, folder: str | Path, frames: int | None = None, positions: Positions = "cut"
) -> ASTEncoder | ECAPAEncoder:
    """Load a speech encoder, ``"ast"`` or ``"ecapa"``, from its folder.

    Args:
        kind: which.
        folder: in its library's own layout.
        frames, positions: the length an AST is shortened to and how, see :class:`ASTEncoder`; an ECAPA hears any.

    Raises:
        InputError: another kind, or a folder that does not hold it.

    Example:
        >>> load_encoder("wav2vec", "models/ast")
        Traceback (most recent call last):
        v2f_core.errors.InputError: speech encoder 'wav2vec': expected 'ast' or 'ecapa'
    """
    if kind == "ast":
        return ASTEncoder.from_folder(folder, frames, positions)
    if kind == "ecapa":
        return ECAPAEncoder.from_folder(folder)
    raise InputError(f"speech encoder {kind!r}: expected 'ast' or 'ecapa'")


def _check(waves: Tensor, least: int) -> None:
    if waves.shape[1] < least:
        raise InputError(f"clips of {waves.shape[1]} samples: expected at least {least}")
