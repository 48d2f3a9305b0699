"""LoRA on a prior: small trainable corrections beside the frozen attention weights of UNet and text encoder.

Where W was, W + (α/r)·B·A stands, with A (r × in) and B (out × r). B begins at zero, so that an adapted prior begins as
the prior itself; while B is zero, gradient reaches B but not A. The paper (section on Stage II, Table 3) adapts the
Q, K, V and output projections of both nets with r = 16 and α = 16. Hu et al., "LoRA", ICLR 2022.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.files import atomic_write

WEIGHTS_NAME, PROVENANCE_NAME = "pytorch_lora_weights.safetensors", "provenance.json"
TARGETS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]}
# transformers 4 calls the text encoder's layers so; diffusers takes the word away where it is not needed
PREFIX = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}
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
    layers = _adapted_layers(prior)
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

    α travels in the file's metadata: without it diffusers assumes α = r.

    Args:
        provenance: what they were made from; written beside them as ``provenance.json``.
    Raises:
        InputError: the prior has no adapters, or the folder cannot be written to.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save_file

    layers, folder = _layers(prior), Path(folder)
    if not layers:
        raise InputError("this prior has no LoRA adapters to save; add_lora gives it some")
    metadata = {f"{part}.{name}": value for part in TARGETS for name, value in _metadata(prior, part).items()}
    with atomic_write(folder / WEIGHTS_NAME) as temporary:
        # as StableDiffusionPipeline.save_lora_weights does; but that adds a second entry to the metadata, and
        # safetensors writes entries in an order that changes from call to call
        told = {LORA_ADAPTER_METADATA_KEY: json.dumps(metadata, sort_keys=True)}
        save_file({key: layer.cpu().contiguous() for key, layer in layers.items()}, temporary, metadata=told)
    if provenance is not None:
        with atomic_write(folder / PROVENANCE_NAME) as temporary:
            temporary.write_text(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_lora(prior: Prior, folder: str | Path) -> None:
    """Read what `save_lora` wrote into a prior; one without adapters gets adapters of the file's rank and alpha.

    Nothing is changed unless everything fits.

    Raises:
        InputError: the file is missing or damaged, or of another rank, alpha or model.

    Example:
        >>> load_lora(Prior.from_folder("my_prior"), "nowhere")  # doctest: +SKIP
        Traceback (most recent call last):
        v2f_core.errors.InputError: nowhere/pytorch_lora_weights.safetensors: missing; give a folder of save_lora
    """
    path = Path(folder) / WEIGHTS_NAME
    weights, metadata = _read(path)
    ranks = {(metadata.get(f"{part}.r"), metadata.get(f"{part}.lora_alpha")) for part in TARGETS}
    rank, alpha = next(iter(ranks))
    if len(ranks) > 1 or not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise InputError(
            f"{path}: its metadata tells no rank and alpha of UNet and text encoder; give one of save_lora"
        )
    expected = {key: shape for part in TARGETS for key, shape in _shapes(prior, part, rank).items()}
    if wrong := sorted(key for key in expected.keys() | weights if _shape(weights, key) != expected.get(key)):
        raise InputError(
            f"{path}: made for another model ({len(wrong)} layers differ, the first is {wrong[0]}); "
            "use the prior it was trained on"
        )
    if lora_parameters(prior):
        ours = _metadata(prior, "unet")
        if (ours["r"], ours["lora_alpha"]) != (rank, alpha):
            raise InputError(
                f"{path}: rank {rank} and alpha {alpha}, but this prior's adapters have {ours['r']} and "
                f"{ours['lora_alpha']}; load it into a prior without adapters"
            )
    else:
        add_lora(prior, rank, alpha)
    for key, layer in _layers(prior).items():
        layer.copy_(weights[key])


def fuse_lora(prior: Prior, folder: str | Path) -> None:
    """Add what `save_lora` wrote into the weights for good: a plain prior again, for drawing.

    Raises:
        InputError: see `load_lora`.

    Example:
        >>> prior = Prior.from_folder("my_prior")  # doctest: +SKIP
        >>> fuse_lora(prior, "runs/stage2/lora")  # doctest: +SKIP
        >>> lora_parameters(prior)  # doctest: +SKIP
        {}
    """
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    load_lora(prior, folder)
    for layer in _adapted_layers(prior):
        layer.merge(safe_merge=True)
    for part in TARGETS:
        net: Any = getattr(prior, part)
        recurse_remove_peft_layers(net)
        del net.peft_config
        net._hf_peft_config_loaded = False


def _adapted_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _metadata(prior: Prior, part: str) -> dict[str, Any]:
    # peft's own dictionary holds sets, whose order changes from run to run, and the path of the base model
    config = getattr(prior, part).peft_config[ADAPTER]
    return {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": TARGETS[part]}


def _layers(prior: Prior) -> dict[str, Tensor]:
    """The adapters' tensors by their names in the file; they share memory with the parameters."""
    found = {}
    for part in TARGETS:
        for name, value in getattr(prior, part).state_dict().items():
            if "lora_" in name:
                found[PREFIX[part] + name.replace(f".{ADAPTER}.", ".")] = value
    return found


def _shapes(prior: Prior, part: str, rank: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in getattr(prior, part).named_modules():
        name = name.removesuffix(".base_layer")  # where peft keeps what it adapts
        if isinstance(module, nn.Linear) and any(f".{name}".endswith(f".{target}") for target in TARGETS[part]):
            shapes[f"{PREFIX[part]}{name}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"{PREFIX[part]}{name}.lora_B.weight"] = (module.out_features, rank)
    return shapes


def _shape(weights: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: missing; give a folder of save_lora")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); save or copy it again") from error
