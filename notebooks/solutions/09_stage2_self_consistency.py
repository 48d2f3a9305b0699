"""Solutions to notebook 09. Copy a function over the one in its exercise's cell, then run the checker."""

import torch

from v2f_core import without_lora
from v2f_core.studies import critics


def hearing(adapted_true, adapted_other, frozen_true, frozen_other):
    """Exercise 1. Norms over the whole batch: one person with a denominator near 0 cannot break it."""
    return (adapted_true - adapted_other).norm() / (frozen_true - frozen_other).norm()


def one_change():
    """Exercise 2. An adapter moves by about rate times steps; rank and λ change its way little (Adam, and clipping)."""
    return {"rate": 1e-4}


def leashed(view, identity, faces):
    """Exercise 3. The condition is made anew on the frozen side: the text encoder is adapted, too."""
    adapted = view.predict(identity)
    with torch.no_grad(), without_lora(view.prior):
        frozen = view.predict(identity)
    return critics.paper(view, identity, faces) + 10.0 * (adapted - frozen).square().flatten(1).mean(dim=1)
