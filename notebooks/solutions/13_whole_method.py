"""Solutions to notebook 13. Copy a function over the one in its exercise's cell, then run the checker."""

import torch
from torch import nn


def expectation():
    """Exercise 1. A net that hardly moves answers in a random direction."""
    return {"learning_rate": 1e-6}, "lower"


def truncations():
    """Exercise 2. The mean maximises a mean cosine; an honest draw shows what is open."""
    return 0.0, 1.0


def fuse(lora):
    """Exercise 3. A new layer, so that the frozen one stays as it is."""
    fused = nn.Linear(lora.layer.in_features, lora.layer.out_features, bias=lora.layer.bias is not None)
    with torch.no_grad():
        fused.weight.copy_(lora.layer.weight + lora.b @ lora.a)
        if lora.layer.bias is not None:
            fused.bias.copy_(lora.layer.bias)
    return fused
