"""LoRA on a prior: small trainable corrections beside the frozen attention weights of UNet and text encoder.

Where W was, W + (α/r)·B·A stands, with A (r × in) and B (out × r). B begins at zero, so that an adapted prior begins as
the prior itself; while B is zero, gradient reaches B but not A. The paper (section on Stage II, Table 3) adapts the
Q, K, V and output projections of both nets with r = 16 and α = 16. Hu et al., "LoRA", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError

TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]}
ADAPTER = "default"


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
        sizes = {name: (p.numel(), p.requires_grad) for name, p in getattr(prior, part).named_parameters()}
        report[part] = {
            "layers": sum("lora_A" in name for name in sizes),
            "trainable": sum(size for size, trainable in sizes.values() if trainable),
            "frozen": sum(size for size, trainable in sizes.values() if not trainable),
        }
    return report


@contextmanager
def without_lora(prior: nn.Module) -> Iterator[None]:
    """Within the block the prior is what it was before its adapters.

    Example:
        >>> with without_lora(prior):  # doctest: +SKIP
        ...     teacher = prior.predict(z_t, t, prior.condition(z_arc))
    """
    layers = adapted_layers(prior)
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextmanager
def merged(prior: nn.Module) -> Iterator[None]:
    """Within the block the corrections are added into the weights, so that sampling costs no more than without them.

    Afterwards the weights are put back from a copy: to subtract the correction again would not give the same bits.
    """
    layers = adapted_layers(prior)
    kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)


def adapted_layers(model: nn.Module) -> list[Any]:
    """peft's layers that hold adapters.

    Example:
        >>> adapted_layers(nn.Linear(2, 2))
        []
    """
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]
