"""LoRA on a prior: small trainable corrections beside the frozen attention weights of UNet and text encoder.

W becomes W + (α/r)·B·A, with A (r × in) and B (out × r). B starts at zero, so the adapted prior starts as the prior
itself, and the first gradient reaches B but not A. The paper (Stage II, Table 3) adapts the Q, K, V and output
projections of both nets with r = 16 and α = 16. Hu et al., "LoRA", ICLR 2022. The layers are peft's. The file is
diffusers', with α in its header: readers assume α = r without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write, write_json
from v2f_core.artefacts.loading import read_header, read_tensors
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError

TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]}
# names in the file are those of transformers 4; diffusers shortens them where needed
PREFIX = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}
ADAPTER, WEIGHTS_NAME, PROVENANCE_NAME = "default", "pytorch_lora_weights.safetensors", "provenance.json"


def add_lora(prior: Prior, rank: int = 16, alpha: float = 16.0, generator: torch.Generator | None = None) -> None:
    """Freeze a prior and add trainable adapters of rank r to its attention projections; ``generator`` draws A."""
    from peft import LoraConfig

    if rank < 1 or not 0 < alpha < float("inf"):
        raise InputError(f"rank={rank}, alpha={alpha}: expected positive numbers, such as 16 and 16")
    if lora_parameters(prior):
        raise InputError("this prior has LoRA adapters already; load the prior again")
    prior.requires_grad_(False)
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha}  # peft annotates α as int and takes any number
    with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator; restore it
        for part, targets in TARGETS.items():
            getattr(prior, part).add_adapter(LoraConfig(target_modules=targets, **options), ADAPTER)
    for name, parameter in lora_parameters(prior).items():
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5  # the distribution of peft and nn.Linear
            parameter.data.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def lora_parameters(prior: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name; empty for a prior without adapters."""
    return {name: parameter for name, parameter in prior.named_parameters() if "lora_" in name}


@contextmanager
def without_lora(prior: nn.Module) -> Iterator[None]:
    """Switch the adapters off for the block."""
    layers, adapters = _adapted_layers(prior), lora_parameters(prior).values()
    trained = [parameter.requires_grad for parameter in adapters]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, before in zip(adapters, trained, strict=True):
            parameter.requires_grad_(before)  # peft makes all of them trainable


def save_lora(prior: Prior, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write the adapters as ``pipe.load_lora_weights(folder)`` of any diffusers pipeline reads them, and a
    ``provenance.json``: hashes, settings and seed of the training."""
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save_file

    folder, header = Path(folder), dict[str, Any]()
    if not lora_parameters(prior):
        raise InputError("this prior has no LoRA adapters to save; call add_lora first")
    for part, targets in TARGETS.items():
        config = getattr(prior, part).peft_config[ADAPTER]
        header |= {f"{part}.r": config.r, f"{part}.lora_alpha": config.lora_alpha, f"{part}.target_modules": targets}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(prior).items()}
    with atomic_write(folder / WEIGHTS_NAME) as temporary:
        # a single entry: safetensors writes several in random order
        save_file(tensors, temporary, metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(header, sort_keys=True)})
    write_json(folder / PROVENANCE_NAME, provenance or {})


def load_lora(prior: Prior, folder: str | Path) -> None:
    """Add the adapters of a file of :func:`save_lora` to a prior, with the file's rank and alpha.

    Raises:
        InputError: the file is missing, damaged or of another model, or the prior has adapters already.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

    path, remedy = Path(folder) / WEIGHTS_NAME, "give a folder of save_lora"
    weights = read_tensors(path, remedy)
    header = read_header(path, LORA_ADAPTER_METADATA_KEY, remedy)
    ranks = {len(tensor) for name, tensor in weights.items() if "lora_A" in name}
    rank, alpha = header.get("unet.r"), header.get("unet.lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or ranks != {rank}:
        raise InputError(f"{path}: its header has no rank and alpha that fit; {remedy}")
    add_lora(prior, rank, alpha)
    tensors = _tensors(prior)
    expected, given = ({name: t.shape for name, t in group.items()} for group in (tensors, weights))
    if wrong := sorted(name for name in expected.keys() | given if given.get(name) != expected.get(name)):
        _remove_lora(prior)
        differ = f"{len(wrong)} layers differ, the first is {wrong[0]}"
        raise InputError(f"{path}: made for another model ({differ}); use the prior it was trained on")
    for name, tensor in tensors.items():
        tensor.copy_(weights[name])


def fuse_lora(prior: Prior, folder: str | Path) -> None:
    """Add the adapters of a file to the weights for good; the prior has no adapters afterwards."""
    load_lora(prior, folder)
    for layer in _adapted_layers(prior):
        layer.merge(safe_merge=True)
    _remove_lora(prior)


def _remove_lora(prior: Prior) -> None:
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    for part in TARGETS:
        net: Any = getattr(prior, part)
        recurse_remove_peft_layers(net)
        del net.peft_config
        net._hf_peft_config_loaded = False


def _adapted_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _tensors(prior: Prior) -> dict[str, Tensor]:
    """The adapters' tensors by their names in the file; they share memory with the parameters."""
    return {
        PREFIX[part] + name.replace(f".{ADAPTER}.", "."): parameter.detach()
        for part in TARGETS
        for name, parameter in lora_parameters(getattr(prior, part)).items()
    }
