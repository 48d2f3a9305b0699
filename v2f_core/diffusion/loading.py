"""Reading the parts of a folder in Stable Diffusion's layout, and refusing what is not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from v2f_core.errors import InputError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def load_parts(folder: str | Path, dtype: torch.dtype) -> dict[str, Any]:
    """The parts by name, offline; nets in ``dtype``.

    Raises:
        InputError: the folder or a part of it is missing, lacks weights, or cannot be read.

    Example:
        >>> load_parts("nowhere", torch.float32)
        Traceback (most recent call last):
        v2f_core.errors.InputError: nowhere: no Stable Diffusion folder (model_index.json is missing); …
    """
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder}: no Stable Diffusion folder (model_index.json is missing); "
            f"give one that holds {', '.join(PARTS)}"
        )
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise InputError(f"{folder / missing[0]}: missing; a Stable Diffusion folder holds {', '.join(PARTS)}")
    options: dict[str, Any] = {"local_files_only": True}
    told: dict[str, Any] = {**options, "output_loading_info": True, "use_safetensors": True}
    try:
        nets = {
            "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype, **told),
            "vae": AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, **told),
            "text_encoder": CLIPTextModel.from_pretrained(
                folder / "text_encoder", dtype=dtype, attn_implementation="sdpa", **told
            ),
        }
        # what a file lacks the libraries fill with random numbers, and say so in a log only
        for name, (_, loading) in nets.items():
            if lacking := sorted(loading["missing_keys"]):
                raise InputError(f"{folder / name}: its weights lack {lacking[0]} and {len(lacking) - 1} more")
        return {name: net for name, (net, _) in nets.items()} | {
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", **options),
            "scheduler": DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler", **options),
        }
    except (OSError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: a part cannot be read ({reason}); copy the folder again") from error
