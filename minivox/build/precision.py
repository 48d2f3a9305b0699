"""Half precision where the processor computes in it, single precision elsewhere."""

from __future__ import annotations

import torch


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; without them it is emulated, many times slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast() -> torch.autocast:
    """A context in which products and convolutions are computed in bfloat16, if `has_bfloat16`.

    Example:
        >>> with autocast():
        ...     product = torch.ones(2, 2) @ torch.ones(2, 2)
        >>> product.dtype == (torch.bfloat16 if has_bfloat16() else torch.float32)
        True
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16())
