"""The aligner g_φ: from a speaker embedding to a point on the sphere of faces (Eq. 4 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write, versions, write_json
from v2f_core.artefacts.loading import check_config, checked_folder, read_tensors, refusing
from v2f_core.errors import InputError
from v2f_core.identity.ridge import Line
from v2f_core.identity.sphere import normalise

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


class Aligner(nn.Module):
    """g_φ: a three-layer MLP with SiLU, LayerNorm and dropout, ℓ2-normalised; the defaults are the paper's.

    ``linear`` is our addition: v_spk is standardised by stored means and deviations, and what the MLP gives is added to
    a linear map of it, which :meth:`start_from` fills. The MLP then starts at zero and learns what a line misses.

    Example:
        >>> aligner = Aligner(speaker_width=8, hidden_width=16).eval()
        >>> identity = aligner(torch.randn(3, 8))
        >>> identity.shape, bool(torch.allclose(identity.norm(dim=-1), torch.ones(3), atol=1e-5))
        (torch.Size([3, 512]), True)
    """

    def __init__(
        self,
        speaker_width: int = 768,
        hidden_width: int = 1024,
        identity_width: int = 512,
        dropout: float = 0.1,
        linear: bool = False,
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"speaker_width": speaker_width, "hidden_width": hidden_width}
        self.settings |= {"identity_width": identity_width, "dropout": dropout, **({"linear": True} if linear else {})}
        self.provenance: dict[str, Any] = {}
        self.speaker_width = speaker_width
        layers: list[nn.Module] = []
        for width in (speaker_width, hidden_width):
            layers += [nn.Linear(width, hidden_width), nn.LayerNorm(hidden_width), nn.SiLU(), nn.Dropout(dropout)]
        self.net = nn.Sequential(*layers, nn.Linear(hidden_width, identity_width))
        self.linear: nn.Linear | None = None
        if linear:
            self.centre: Tensor
            self.spread: Tensor
            self.register_buffer("centre", torch.zeros(speaker_width))
            self.register_buffer("spread", torch.ones(speaker_width))
            self.linear = nn.Linear(speaker_width, identity_width)

    @torch.no_grad()
    def start_from(self, line: Line) -> None:
        """Fill the linear map and the standardisation; the MLP gives zero until it is trained."""
        if self.linear is None:
            raise InputError("this aligner has no linear map to start from; make it with linear=True")
        tensors = (self.centre, self.spread, self.linear.weight, self.linear.bias)
        for tensor, value in zip(tensors, line, strict=True):
            tensor.copy_(value)
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, speaker_embedding: Float[Tensor, "*batch speaker"]) -> Float[Tensor, "*batch identity"]:
        """The unit identity ẑ that each speaker embedding v_spk predicts, float32.

        Raises:
            InputError: the embedding has another width than the training's, or is NaN.
        """
        if speaker_embedding.shape[-1] != self.speaker_width:
            theirs = f"speaker embedding of width {speaker_embedding.shape[-1]}"
            trained = f"this aligner was trained on {self.speaker_width}; use the speech encoder it was trained with"
            raise InputError(f"{theirs}: {trained}")
        v = speaker_embedding.to(next(self.parameters()).dtype)
        if self.linear is None:
            return normalise(self.net(v))
        v = (v - self.centre) / self.spread
        return normalise(self.linear(v) + self.net(v))

    def save_pretrained(self, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write ``model.safetensors`` and ``config.json``, each atomically.

        On disk weights are float16, but with a linear map, whose small numbers float16 would lose, float32.
        """
        dtype = torch.float16 if self.linear is None else torch.float32
        tensors = {name: value.to(dtype) for name, value in self.state_dict().items()}
        given = self.provenance if provenance is None else provenance
        self.provenance = save_model(folder, tensors, {"class": "Aligner", **self.settings}, given)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Aligner:
        """Load a folder of :meth:`save_pretrained`, in float32 and evaluation mode. Nothing is unpickled.

        Raises:
            InputError: a file is missing, damaged, not of finite numbers, or does not fit the settings.
        """
        remedy = "train an aligner with 'python -m v2f_core stage1', or download it again"
        folder = checked_folder(folder, (CONFIG_NAME, WEIGHTS_NAME), "an aligner's", remedy)
        config = check_config(folder / CONFIG_NAME)
        weights = read_tensors(folder / WEIGHTS_NAME, remedy)
        with refusing(folder, "an aligner's folder", remedy):
            settings = {name: config[name] for name in ("speaker_width", "hidden_width", "identity_width", "dropout")}
            with torch.device("meta"):  # random initial weights would advance the caller's generator
                aligner = cls(**settings, linear=config.get("linear", False))
            aligner.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
            aligner.provenance = dict(config.get("provenance", {}))
        return aligner.eval()


def save_model(
    folder: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write weights, and settings with a provenance to which versions are added; returns the latter."""
    made = {**provenance, "versions": versions("torch", "v2f-core")}
    with atomic_write(Path(folder) / WEIGHTS_NAME) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
    write_json(Path(folder) / CONFIG_NAME, {**config, "provenance": made})
    return made
