"""Starts the prior's stages from a trained prior instead of from nothing, with larger nets where they are wanted.

    python -m minivox.build.grow --work build             from the prior that ships
    python -m minivox.build.grow --work build --prior F   from another in Stable Diffusion's layout

Writes ``vae/draft.pt`` and ``prior/start.pt``, from which the stages `vae` and `prior` go on, and puts the face pack
and the judge that ship in the place of the stages `arcface`, `detector` and `judge`. A net that grows computes at first
what it computed before (Net2Net, Chen et al., 2016). The autoencoder is made wider: its channels are repeated, and what
reads them is divided, so the latents that a UNet has learnt stay valid. The UNet is made deeper: each new layer adds
zero to what it is given.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from minivox.build.__main__ import DONE
from minivox.build.prior import new_unet
from minivox.build.vae import new_vae, save_draft
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

# part of the assets -> where the stages that come later look for its files, and these files
PLACES = {
    "faces": ("detector/pack", ("det_mini.onnx", "arcface_mini.onnx")),
    "judge": ("judge", ("config.json", "model.safetensors")),
}
NOISE = 0.02  # of a weight's root mean square: copies that were equal would stay equal for ever


def widen(weight: Tensor, shape: torch.Size) -> Tensor:
    """Repeat a weight's output channels, and its input channels divided by their number of copies.

    Raises:
        InputError: a width is no multiple of the old one.

    Example:
        >>> widen(torch.tensor([[1.0, 2.0]]), torch.Size([2, 4]))
        tensor([[0.5000, 0.5000, 1.0000, 1.0000],
                [0.5000, 0.5000, 1.0000, 1.0000]])
    """
    for axis, (old, new) in enumerate(zip(weight.shape, shape, strict=True)):
        if new % old:
            raise InputError(f"a net of width {old} cannot grow to {new}; choose a multiple")
        weight = weight.repeat_interleave(new // old, axis)
        if axis == 1:
            weight = weight * (old / new)
    return weight


def wider(vae: AutoencoderKL, target: AutoencoderKL, noise: float = NOISE, seed: int = 0) -> AutoencoderKL:
    """``target`` with the weights of a narrower net of the same kind: the same latents, nearly the same pictures.

    Args:
        vae: a trained autoencoder.
        target: the same architecture with the same or larger widths, and as many groups of normalisation.
        noise: added to the decoder's widened weights, as a share of their root mean square; the encoder's get none.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = target.state_dict()
    for name, old in vae.state_dict().items():
        new = widen(old, weights[name].shape)
        if name.startswith("decoder") and new.shape != old.shape and new.ndim > 1:
            new = new + noise * new.square().mean().sqrt() * torch.randn(new.shape, generator=generator)
        weights[name] = new
    target.load_state_dict(weights)
    target.register_to_config(scaling_factor=vae.config.scaling_factor)
    return target


def deeper(unet: UNet2DConditionModel, target: UNet2DConditionModel) -> UNet2DConditionModel:
    """``target``, which has two layers a block, with the weights of a UNet that has one: the same output.

    On the way up each layer also reads what a layer on the way down wrote. The new layers read the new ones.

    Raises:
        InputError: the nets differ in more than their layers.
    """
    weights = target.state_dict()
    taken = set()
    for name, old in unet.state_dict().items():
        name = re.sub(r"^(up_blocks\.\d+\.(?:resnets|attentions)\.)1\.", r"\g<1>2.", name)
        if name not in weights or weights[name].shape != old.shape:
            raise InputError(f"{name}: this UNet is no shallower copy of the new one; train it from nothing instead")
        weights[name] = old
        taken.add(name)
    for name in weights.keys() - taken:
        if re.search(r"\.(conv2|proj_out)\.", name):
            weights[name] = torch.zeros_like(weights[name])
        elif name.endswith("conv_shortcut.weight"):
            weights[name] = _first_channels(weights[name])
        elif name.endswith("conv_shortcut.bias"):
            weights[name] = torch.zeros_like(weights[name])
    target.load_state_dict(weights)
    return target


def _first_channels(weight: Float[Tensor, "out in 1 1"]) -> Float[Tensor, "out in 1 1"]:
    # of what is concatenated, the way up comes first and the way down second
    return torch.eye(len(weight), weight.shape[1])[:, :, None, None]


def main(arguments: list[str] | None = None) -> int:
    """Write what the stages start from; the exit code."""
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m minivox.build.grow", description=description)
    parser.add_argument("--work", type=Path, default=Path("build"), help="scratch folder (default: build)")
    parser.add_argument("--prior", type=Path, default=MINI_ASSETS / "prior", help="default: the one that ships")
    chosen = parser.parse_args(arguments)
    try:
        prior = Prior.from_folder(chosen.prior)
        vae = wider(prior.vae, new_vae())
        unet = prior.unet if prior.unet.config.layers_per_block == 2 else deeper(prior.unet, new_unet())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    save_draft(vae, chosen.work / "vae" / "draft.pt")
    with atomic_write(chosen.work / "prior" / "start.pt") as temporary:
        torch.save({"unet": unet.state_dict(), "text_encoder": prior.text_encoder.state_dict()}, temporary)
    for part, (target, names) in PLACES.items():
        for name in names:
            with atomic_write(chosen.work / target / name) as temporary:
                shutil.copyfile(MINI_ASSETS / part / name, temporary)
    with atomic_write(chosen.work / "arcface" / "arcface_mini.onnx") as temporary:
        shutil.copyfile(MINI_ASSETS / "faces" / "arcface_mini.onnx", temporary)
    for stage in ("arcface", "detector", "judge"):
        with atomic_write(chosen.work / stage / DONE):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
