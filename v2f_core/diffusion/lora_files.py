"""Adapters as files that any diffusers pipeline takes by ``load_lora_weights``; rank and alpha are told in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write
from v2f_core.diffusion.lora import ADAPTER, TARGETS, adapted_layers, add_lora, lora_parameters
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError

WEIGHTS_NAME, PROVENANCE_NAME = "pytorch_lora_weights.safetensors", "provenance.json"
# transformers 4 calls the text encoder's layers so; diffusers takes the word away where it is not needed
PREFIX = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}


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
    for layer in adapted_layers(prior):
        layer.merge(safe_merge=True)
    for part in TARGETS:
        net: Any = getattr(prior, part)
        recurse_remove_peft_layers(net)
        del net.peft_config
        net._hf_peft_config_loaded = False


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
