"""Nets of the published shapes with random weights, which cost what published ones cost, and tiny ones of their kind.

For :mod:`gpu`, which measures that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minivox.build.tokenizer import save_tokenizer
from v2f_core.diffusion.prior import Prior
from v2f_core.identity.faces import TEMPLATE
from v2f_core.identity.sphere import normalise
from v2f_core.training.latents import FacePairs
from v2f_core.training.pairs import Pairs

BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


@dataclass(frozen=True)
class Size:
    """How large everything is: configurations of the nets, and how often each thing is measured."""

    ast: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    arcface: tuple[int, ...]  # units of the iResNet's four stages
    persons: int
    batches: tuple[int, ...]
    stage1_steps: int
    monitored: int
    repeats: int


FULL = Size(
    ast={},
    unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae={**BLOCKS, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    text={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    arcface=(3, 13, 30, 3),
    persons=2890,
    batches=(16, 4, 32),
    stage1_steps=1000,
    monitored=32,
    repeats=10,
)
TINY = Size(
    ast={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    unet={
        "sample_size": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "cross_attention_dim": 512,
    },
    vae={**BLOCKS, "block_out_channels": (4,) * 4, "norm_num_groups": 2, "mid_block_add_attention": False},
    text={
        "vocab_size": 128,
        "hidden_size": 512,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    arcface=(1, 1, 1, 1),
    persons=8,
    batches=(2,),
    stage1_steps=2,
    monitored=2,
    repeats=1,
)


class Unit(nn.Module):
    """One residual unit of an iResNet."""

    def __init__(self, wide_in: int, wide: int, stride: int) -> None:
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1, "bias": False}
        self.body = nn.Sequential(
            nn.BatchNorm2d(wide_in),
            nn.Conv2d(wide_in, wide, **conv),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, stride=stride, **conv),
            nn.BatchNorm2d(wide),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(wide_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class IResNet(nn.Sequential):
    """ArcFace's backbone with random weights: 112 px crops to identities; (3, 13, 30, 3) units are the 100 layers."""

    def __init__(self, units: Sequence[int]) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
        wide_in = 64
        for wide, count in zip((64, 128, 256, 512), units, strict=True):
            layers += [Unit(wide_in if i == 0 else wide, wide, 2 if i == 0 else 1) for i in range(count)]
            wide_in = wide
        super().__init__(*layers, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 49, 512), nn.BatchNorm1d(512))
        self.eval().requires_grad_(False)

    def forward(self, crops: Tensor) -> Tensor:
        return normalise(super().forward(crops))


def random_prior(size: Size, device: str) -> Prior:
    """A prior of the size with random weights."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        words = save_tokenizer(Path(folder))
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    ends = {"bos_token_id": words["<|startoftext|>"], "eos_token_id": words["<|endoftext|>"]}
    text = CLIPTextConfig(**size.text, **ends, pad_token_id=words["<|endoftext|>"])
    noise: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    with torch.device(device):
        nets = UNet2DConditionModel(**size.unet), AutoencoderKL(**size.vae), CLIPTextModel(text)
    return Prior(*nets, tokenizer, DPMSolverMultistepScheduler(**noise, steps_offset=1)).eval().to(device)


def random_pairs(size: Size, latent_shape: tuple[int, int, int], speaker: int = 768) -> FacePairs:
    """Persons of one voice and one face each, of noise; the landmarks are where ArcFace wants them."""
    count, generator = size.persons, torch.Generator().manual_seed(0)
    side = latent_shape[1] * 8
    z = normalise(torch.randn(count, 512, generator=generator))
    latents = torch.randn(count, latent_shape[0] * latent_shape[1] ** 2, generator=generator)
    landmarks = torch.from_numpy(TEMPLATE * side / 112).flatten().expand(count, -1)
    names, sexes = [f"P{i}" for i in range(count)], ["fm"[i % 2] for i in range(count)]
    voice, bounds = torch.randn(count, speaker, generator=generator), torch.arange(count + 1)
    return FacePairs(Pairs(names, sexes, voice, bounds, torch.cat([z, latents, landmarks], 1), bounds), latent_shape)
