"""LoRA on a prior: small trainable corrections beside the frozen attention weights of UNet and text encoder.

W becomes W + (α/r)·B·A, with A (r × in) and B (out × r). B begins at zero, so an adapted prior begins as the prior
itself; while B is zero, gradient reaches B but not A. The paper (Stage II, Table 3) adapts the Q, K, V and output
projections of both nets with r = 16 and α = 16. Hu et al., "LoRA", ICLR 2022. The layers are peft's; the file is
diffusers', with α in its header: without it every reader would assume α = r.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError

TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]}
# transformers 4 calls the text encoder's layers so; diffusers takes the word away where it is not needed
PREFIX = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}
ADAPTER, WEIGHTS_NAME, PROVENANCE_NAME = "default", "pytorch_lora_weights.safetensors", "provenance.json"


def add_lora(prior: Prior, rank: int = 16, alpha: float = 16.0, generator: torch.Generator | None = None) -> None:
    """Freeze a prior and put adapters on its attention projections; only they can be trained afterwards.

    Args:
        rank: r, the width of the bottleneck; Table 3 tries 4, 8, 16 and 32.
        alpha: α; the correction is scaled by α/r.
        generator: draws A; without one, torch's global generator does.
    Raises:
        InputError: rank or alpha is not positive, or the prior has adapters already.

    Example:
        >>> prior = Prior.from_folder("my_prior")  # doctest: +SKIP
        >>> add_lora(prior, rank=16, alpha=16)  # doctest: +SKIP
        >>> optimiser = torch.optim.AdamW(lora_parameters(prior).values())  # doctest: +SKIP
    """
    from peft import LoraConfig

    if rank < 1 or not 0 < alpha < float("inf"):
        raise InputError(f"rank={rank}, alpha={alpha}: expected positive numbers, such as 16 and 16")
    if lora_parameters(prior):
        raise InputError("this prior has LoRA adapters already; load it again to begin anew")
    prior.requires_grad_(False)
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha}  # peft's hint for α is int, but any number will do
    with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator, which is the caller's
        for part, targets in TARGETS.items():
            getattr(prior, part).add_adapter(LoraConfig(target_modules=targets, **options), ADAPTER)
    for name, parameter in lora_parameters(prior).items():
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5  # as peft and nn.Linear draw it
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(drawn)


def lora_parameters(prior: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name; none for a prior without adapters.

    Example:
        >>> lora_parameters(nn.Linear(2, 2))
        {}
    """
    return {name: parameter for name, parameter in prior.named_parameters() if "lora_" in name}


def lora_report(prior: Prior) -> dict[str, dict[str, int]]:
    """How much of each part is trained: its adapted layers, their trainable parameters, and all frozen ones.

    Example:
        >>> lora_report(prior)  # doctest: +SKIP
        {'unet': {'layers': 40, 'trainable': 221184, 'frozen': 2151236}, 'text_encoder': …}
    """
    report = {}
    for part in TARGETS:
        parameters = dict(getattr(prior, part).named_parameters())
        trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
        frozen = sum(p.numel() for p in parameters.values()) - trainable
        layers = sum("lora_A" in name for name in parameters)
        report[part] = {"layers": layers, "trainable": trainable, "frozen": frozen}
    return report


@contextmanager
def without_lora(prior: nn.Module) -> Iterator[None]:
    """Within the block the prior is what it was before its adapters.

    Example:
        >>> with without_lora(prior):  # doctest: +SKIP
        ...     target = prior.predict(z_t, t, prior.condition(z_arc))
    """
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
            parameter.requires_grad_(before)  # peft would make all of them trainable


@contextmanager
def merged(prior: nn.Module) -> Iterator[None]:
    """Within the block the corrections are part of the weights, so that sampling costs no more than without them.

    Afterwards the weights are put back from a copy: to subtract the correction again would not give the same bits.
    """
    layers = _adapted_layers(prior)
    kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)


def save_lora(prior: Prior, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write the adapters as ``pipe.load_lora_weights(folder)`` of any diffusers pipeline takes them.

    Args:
        provenance: what they were made from; written beside them as ``provenance.json``.
    Raises:
        InputError: the prior has no adapters, or the folder cannot be written to.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save_file

    folder, header = Path(folder), dict[str, Any]()
    if not lora_parameters(prior):
        raise InputError("this prior has no LoRA adapters to save; add_lora gives it some")
    for part, targets in TARGETS.items():
        config = getattr(prior, part).peft_config[ADAPTER]
        header |= {f"{part}.r": config.r, f"{part}.lora_alpha": config.lora_alpha, f"{part}.target_modules": targets}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(prior).items()}
    with atomic_write(folder / WEIGHTS_NAME) as temporary:
        # one entry: safetensors writes several in an order that changes from call to call
        save_file(tensors, temporary, metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(header, sort_keys=True)})
    if provenance is not None:
        with atomic_write(folder / PROVENANCE_NAME) as temporary:
            temporary.write_text(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_lora(prior: Prior, folder: str | Path) -> None:
    """Give a prior the adapters that `save_lora` wrote, with the file's rank and alpha.

    Raises:
        InputError: the file is missing, damaged or of another model, or the prior has adapters already.

    Example:
        >>> load_lora(Prior.from_folder("my_prior"), "nowhere")  # doctest: +SKIP
        Traceback (most recent call last):
        v2f_core.errors.InputError: nowhere/pytorch_lora_weights.safetensors: missing; give a folder of save_lora
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(f"{path}: missing; give a folder of save_lora")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); save or copy it again") from error
    rank, alpha = header.get("unet.r"), header.get("unet.lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise InputError(f"{path}: its header has no rank and alpha; give a file of save_lora")
    add_lora(prior, rank, alpha)
    tensors = _tensors(prior)
    shapes, given = ({name: t.shape for name, t in some.items()} for some in (tensors, weights))
    if wrong := sorted(name for name in shapes.keys() | given if given.get(name) != shapes.get(name)):
        _remove_lora(prior)
        raise InputError(
            f"{path}: made for another model ({len(wrong)} layers differ, the first is {wrong[0]}); "
            "use the prior it was trained on"
        )
    for name, tensor in tensors.items():
        tensor.copy_(weights[name])


def fuse_lora(prior: Prior, folder: str | Path) -> None:
    """Add the adapters of a file into the weights for good: a plain prior again, for drawing.

    Raises:
        InputError: see `load_lora`.

    Example:
        >>> prior = Prior.from_folder("my_prior")  # doctest: +SKIP
        >>> fuse_lora(prior, "runs/stage2/lora")  # doctest: +SKIP
        >>> lora_parameters(prior)  # doctest: +SKIP
        {}
    """
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
    states = {part: getattr(prior, part).state_dict() for part in TARGETS}
    return {
        PREFIX[part] + name.replace(f".{ADAPTER}.", "."): tensor
        for part, state in states.items()
        for name, tensor in state.items()
        if "lora_" in name
    }
