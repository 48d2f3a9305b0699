"""Solutions to notebook 09. Copy a function over the one in its exercise's cell, then run the checker."""

from functools import partial

from v2f_core.diffusion.lora import without_lora
from v2f_core.studies import critics


def hearing(adapted_true, adapted_shuffled, frozen_true, frozen_shuffled):
    """Exercise 1. Norms over the whole batch: one person with a denominator near 0 cannot break it."""
    return (adapted_true - adapted_shuffled).norm() / (frozen_true - frozen_shuffled).norm()


def blind_critic():
    """Exercise 2. Only `cycle` asks for whom was asked for and needs no true face; the anchor is the leash."""
    return partial(critics.generated, critic=partial(critics.anchored, critic=critics.cycle))


def leash(model, z_t, t, identity):
    """Exercise 3. The condition is made anew on the frozen side: the text encoder is adapted, too."""
    adapted = model.predict(z_t, t, model.condition(identity))
    with without_lora(model):
        frozen = model.predict(z_t, t, model.condition(identity))
    return (adapted - frozen).square().flatten(1).mean(1)
