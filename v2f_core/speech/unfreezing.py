"""The top layers of a speech encoder: let them be trained, and save the encoder again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.speech.encoders import AST_FILES, ECAPA_FILES, ASTEncoder, ECAPAEncoder


def layers(encoder: ASTEncoder | ECAPAEncoder) -> list[nn.ModuleList]:
    """The layers of an encoder, from the bottom up.

    - AST: the transformer blocks, the last layer norm with the top one; patch embedding and positions are no layer.
    - ECAPA: the first convolution, the SE-Res2 blocks, their aggregation, the attentive pooling, the projection.

    Example:
        >>> from transformers import ASTConfig, ASTFeatureExtractor, ASTModel
        >>> config = ASTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, max_length=128)
        >>> len(layers(ASTEncoder(ASTModel(config), ASTFeatureExtractor(max_length=128))))
        3
    """
    if isinstance(encoder, ASTEncoder):
        *lower, top = encoder.model.layers
        return [*(nn.ModuleList([block]) for block in lower), nn.ModuleList([top, encoder.model.layernorm])]
    net: Any = encoder.parts["embedding_model"]
    above = ([net.mfa], [net.asp, net.asp_bn], [net.fc])
    return [nn.ModuleList(parts) for parts in (*([block] for block in net.blocks), *above)]


def unfreeze(encoder: ASTEncoder | ECAPAEncoder, count: int) -> nn.ModuleList:
    """Let the top ``count`` layers be trained, and no other parameter; returns these layers.

    The whole encoder stays in evaluation mode. Call ``.train()`` on the returned layers alone: dropout and batch
    statistics of the frozen part then stay as they are.

    Raises:
        InputError: the encoder has fewer layers.
    """
    stack = layers(encoder)
    if not 0 <= count <= len(stack):
        raise InputError(f"unfreeze={count}: this encoder has {len(stack)} layers; expected 0 to {len(stack)}")
    encoder.eval().requires_grad_(False)
    return nn.ModuleList(stack[len(stack) - count :]).requires_grad_(True)


def save_encoder(encoder: ASTEncoder | ECAPAEncoder, source: str | Path, folder: str | Path) -> None:
    """Write an encoder's folder with its present weights, as float32; all other files are copied from ``source``.

    An AST's positions are copied too, at full length, however short it was loaded: they are never trained. An ECAPA's
    speaker classes and mean embedding stay those of ``source``.

    Args:
        encoder: as it was loaded from ``source``, some layers trained.
        source: its folder.
        folder: made if missing.
    Raises:
        InputError: the folder cannot be written to.
    """
    source, folder, ast = Path(source), Path(folder), isinstance(encoder, ASTEncoder)
    weights = "model.safetensors" if ast else "embedding_model.ckpt"
    for file in AST_FILES if ast else ECAPA_FILES:
        if file != weights:
            with atomic_write(folder / file) as temporary:
                shutil.copyfile(source / file, temporary)
    with atomic_write(folder / weights) as temporary:
        if isinstance(encoder, ASTEncoder):
            from safetensors.torch import save_file

            positions = ASTEncoder.from_folder(source).model.embeddings.position_embeddings
            state = {**encoder.model.state_dict(), "embeddings.position_embeddings": positions.detach()}
            save_file({key: value.contiguous().cpu() for key, value in state.items()}, temporary, {"format": "pt"})
        else:
            state = encoder.parts["embedding_model"].state_dict()
            with temporary.open("wb") as opened:  # given a path, torch writes the file's name into the file
                torch.save({key: value.cpu() for key, value in state.items()}, opened)
