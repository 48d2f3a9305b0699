"""The miniature AST and ECAPA: their sizes, and the folders in which their libraries keep them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write

AST_FRAMES = 128  # 1.25 s are 123 frames
WIDTH = 128  # of AST, as published 768
ECAPA_MELS = 80
ECAPA_DIM = 192  # as published
CHANNELS, WIDE, ATTENTION = 112, 336, 64  # published: 1024, 3072, 128

# speechbrain builds the model from this file; pretrained_path is overridden when the folder is loaded
HYPERPARAMS = f"""\
pretrained_path: .
n_mels: {ECAPA_MELS}

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [{CHANNELS}, {CHANNELS}, {CHANNELS}, {CHANNELS}, {WIDE}]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: {ATTENTION}
    se_channels: {ATTENTION}
    lin_neurons: {ECAPA_DIM}
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: {ECAPA_DIM}
    out_neurons: OUT_NEURONS
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def new_ast() -> Any:
    """An untrained ``ASTModel``: 128 wide, 4 layers, 16 × 16 patches that do not overlap; 0.6 M parameters.

    transformers starts the positions at zero, since the published weights replace them; from there a small model long
    takes every frequency for the same. These start as sines of frequency and of time (Vaswani et al., 2017).
    """
    from transformers import ASTConfig, ASTModel

    config = ASTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        frequency_stride=16,
        time_stride=16,
        max_length=AST_FRAMES,
    )
    model = ASTModel(config)
    frequencies, times = config.num_mel_bins // 16, AST_FRAMES // 16
    grid = torch.cat(  # patches in ASTModel's order: all times of the lowest frequency first
        [sines(frequencies).repeat_interleave(times, 0), sines(times).repeat(frequencies, 1)], dim=1
    )
    with torch.no_grad():
        model.embeddings.position_embeddings[0, 2:] = 0.5 * grid  # after [CLS] and the distillation token
        model.embeddings.cls_token.normal_(0, 0.5)
    return model


def sines(places: int, width: int = WIDTH // 2) -> Float[Tensor, "places width"]:
    """Each place as sines and cosines of falling frequency.

    Example:
        >>> sines(2, 4).round(decimals=2).tolist()
        [[0.0, 0.0, 1.0, 1.0], [0.84, 0.1, 0.54, 1.0]]
    """
    waves = torch.exp(-math.log(100) * torch.arange(0, width, 2) / width)
    phase = torch.arange(places)[:, None] * waves
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def save_ast(model: Any, folder: Path) -> None:
    """Write the folder that ``ASTEncoder.from_folder`` reads, weights as float16."""
    from transformers import ASTFeatureExtractor

    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).half()
    half.config.save_pretrained(folder)
    ASTFeatureExtractor(max_length=AST_FRAMES).save_pretrained(folder)
    from safetensors.torch import save_file

    with atomic_write(folder / "model.safetensors") as path:
        save_file(half.state_dict(), path, {"format": "pt"})


def new_ecapa() -> nn.Module:
    """An untrained ``ECAPA_TDNN``: 112 channels; 0.5 M parameters."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    return ECAPA_TDNN(
        ECAPA_MELS,
        channels=[CHANNELS] * 4 + [WIDE],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=ATTENTION,
        se_channels=ATTENTION,
        lin_neurons=ECAPA_DIM,
    )


def save_ecapa(
    model: nn.Module, classes: Float[Tensor, "speakers dim"], embeddings: Float[Tensor, "items dim"], folder: Path
) -> None:
    """Write the folder that speechbrain's ``EncoderClassifier`` reads, weights as float16.

    Args:
        model: an ``ECAPA_TDNN``.
        classes: the speakers' class vectors; speaker ``i`` is labelled ``voices/i``.
        embeddings: of the training speakers; their mean and spread are what speechbrain may normalise by.
        folder: is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # a running variance may be below float16's smallest number, and there are few of them
    weights = {
        name: value.half() if value.is_floating_point() and "running" not in name else value
        for name, value in model.state_dict().items()
    }
    statistics = {"count": len(embeddings), "glob_mean": embeddings.mean(0), "glob_std": embeddings.std(0)}
    for name, content in (
        ("embedding_model.ckpt", weights),
        ("classifier.ckpt", {"weight": classes.detach().half()}),
        ("mean_var_norm_emb.ckpt", statistics),
    ):
        with atomic_write(folder / name) as path, path.open("wb") as file:
            torch.save(content, file)  # into a file object: the bytes then do not depend on the file's name
    labels = [f"'voices/{i:04d}' => {i}" for i in range(len(classes))]
    with atomic_write(folder / "label_encoder.txt") as path:
        path.write_text("\n".join(labels) + "\n================\n'starting_index' => 0\n")
    with atomic_write(folder / "hyperparams.yaml") as path:
        path.write_text(HYPERPARAMS.replace("OUT_NEURONS", str(len(classes))))
