"""A tiny prior with adapters, a recogniser and four faces, for the tests of L_self and its monitors."""

import pytest
from fakes import Recogniser, four_faces, seeded

from v2f_core.diffusion.lora import add_lora, lora_parameters
from v2f_core.diffusion.prior import Prior


@pytest.fixture(scope="module")
def loaded(tiny_profile):
    """Rank 8 is the full rank of this UNet's projections, so that LoRA could do anything to them."""
    prior = Prior.from_folder(tiny_profile.prior)
    add_lora(prior, rank=8, alpha=8.0, generator=seeded())
    return prior, {name: parameter.detach().clone() for name, parameter in lora_parameters(prior).items()}


@pytest.fixture
def prior(loaded):
    """As it was loaded: A random, B zero, no gradient anywhere."""
    prior, begun = loaded
    prior.zero_grad(set_to_none=True)
    for name, parameter in lora_parameters(prior).items():
        parameter.data.copy_(begun[name])
    return prior


@pytest.fixture
def faces():
    return four_faces()


@pytest.fixture(scope="session")
def arcface():
    return Recogniser()
