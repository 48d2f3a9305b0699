"""The layers of a speech encoder from the bottom up: some at the top can be trained, and the whole be saved again."""

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
    """What counts as a layer, from the bottom up.

    - AST: each transformer block; the last layer norm belongs to the uppermost. The patch embedding and the positions
      are no layer and stay as they are.
    - ECAPA: the first convolution, the SE-Res2 blocks, their aggregation, the pooling by attention, the projection.

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
    """Let the uppermost ``count`` layers be trained, and no other parameter; the layers.

    Nothing is switched to training mode: only the layers returned should be, so that dropout and batch statistics of
    the frozen part stay as they are at inference.

    Raises:
        InputError: the encoder has not so many layers.
    """
    stack = layers(encoder)
    if not 0 <= count <= len(stack):
        raise InputError(f"unfreeze={count}: this encoder has {len(stack)} layers; expected 0 to {len(stack)}")
    encoder.eval().requires_grad_(False)
    return nn.ModuleList(stack[len(stack) - count :]).requires_grad_(True)


def save_encoder(encoder: ASTEncoder | ECAPAEncoder, source: str | Path, folder: str | Path) -> None:
    """Write the folder that an encoder is loaded from, with its weights of now, as float32.

    All else is copied from the folder that it came from. An AST's positions too, whole, however short it was loaded:
    they are never trained. An ECAPA's speaker classes and mean embedding are then those of the weights before.

    Args:
        encoder: as it was loaded from ``source``, some layers trained.
        source: its library's folder.
        folder: made if missing.
    Raises:
        InputError: the folder cannot be written to.
    """
    source, folder = Path(source), Path(folder)
    name = "model.safetensors" if isinstance(encoder, ASTEncoder) else "embedding_model.ckpt"
    whole = AST_FILES if isinstance(encoder, ASTEncoder) else ECAPA_FILES
    for file in (file for file in whole if file != name):
        with atomic_write(folder / file) as temporary:
            shutil.copyfile(source / file, temporary)
    with atomic_write(folder / name) as temporary:
        if isinstance(encoder, ASTEncoder):
            from safetensors.torch import save_file

            positions = ASTEncoder.from_folder(source).model.embeddings.position_embeddings
            state = {**encoder.model.state_dict(), "embeddings.position_embeddings": positions.detach()}
            save_file({key: value.contiguous().cpu() for key, value in state.items()}, temporary, {"format": "pt"})
        else:
            state = encoder.parts["embedding_model"].state_dict()
            with temporary.open("wb") as opened:  # else the bytes would depend on the file's name
                torch.save({key: value.cpu() for key, value in state.items()}, opened)
