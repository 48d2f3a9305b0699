"""Tiny random models in the real layouts: everything runs, nothing means anything."""

import gc
import sys

import pytest
from hypothesis import settings

# jsonschema, which nbformat imports, would compile 39 grammars to check addresses: 3 s in each process
sys.modules["rfc3987_syntax"] = None

gc.disable()  # until all is imported: the libraries leave millions of objects, none of them garbage

settings.register_profile("any machine", deadline=None, max_examples=30)  # a busy machine is slow, not wrong
settings.load_profile("any machine")


def pytest_collection_finish():
    """Garbage is looked for among what tests make alone, not in the libraries: a tenth of the time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def figures_closed():
    """No test's figures stay open beside the next one's; pyplot warns of too many."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def tiny_profile(tmp_path_factory):
    """A profile of random models a few kilobytes large, 32-pixel faces."""
    import torch
    from diffusers import StableDiffusionPipeline
    from fakes import tiny_prior
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    from v2f_core.artefacts.profiles import Profile
    from v2f_core.identity.aligner import Aligner

    root = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ast = ASTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=128
        )
        ASTModel(ast).save_pretrained(root / "ast")
        ASTFeatureExtractor(max_length=128).save_pretrained(root / "ast")
        prior = tiny_prior(root / "words")
        nets = (prior.vae, prior.text_encoder, prior.tokenizer, prior.unet, prior.scheduler)
        StableDiffusionPipeline(*nets, None, None, None, False).save_pretrained(root / "prior")
        Aligner(speaker_width=16, hidden_width=8).save_pretrained(root / "aligner", {"seed": 0})
    parts = {part: root / part for part in ("ast", "ecapa", "ge2e", "faces", "prior", "judge", "aligner")}
    return Profile(name="tiny", image_size=32, dataset=root / "dataset", steps=2, **parts)


@pytest.fixture(scope="session")
def pipe(tiny_profile):
    """The pipeline of the tiny profile; whoever changes one makes another."""
    from v2f_core.pipeline import Vox2FacePipeline

    return Vox2FacePipeline.from_profile(tiny_profile)


@pytest.fixture(scope="session")
def voice(tmp_path_factory):
    """Three seconds of a voice in a file."""
    import soundfile
    from fakes import spoken

    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, spoken(3), 16_000)
    return path


@pytest.fixture(scope="session")
def parts(tiny_profile, tmp_path_factory):
    """A folder of each kind that users download; a test damages a copy."""
    from parts import write_parts

    return write_parts(tmp_path_factory.mktemp("parts"), tiny_profile)


@pytest.fixture(scope="session")
def minivox():
    """MiniVox, unpacked."""
    from v2f_core.artefacts.profiles import load_profile
    from v2f_core.data.voxceleb import open_dataset

    return open_dataset(load_profile("mini"))


@pytest.fixture(scope="session")
def portraits(minivox):
    """Photographs of four of MiniVox's training persons."""
    from v2f_core.identity.photos import read_image

    return [read_image(path) for path in minivox.absolute(minivox.faces("train"))[:1200:300]]


@pytest.fixture(scope="session")
def mini_pack():
    """The miniature's detector and ArcFace net."""
    from v2f_core.artefacts.profiles import MINI_ASSETS
    from v2f_core.identity.faces import FacePack

    return FacePack.from_folder(MINI_ASSETS / "faces")


# --- for the tests of L_self, its monitors and the other critics


@pytest.fixture(scope="session")
def adapted_prior(tiny_profile):
    """A tiny prior and its adapters' first values. Rank 8 is the full rank of this UNet's projections."""
    from fakes import seeded

    from v2f_core.diffusion.lora import add_lora, lora_parameters
    from v2f_core.diffusion.prior import Prior

    prior = Prior.from_folder(tiny_profile.prior)
    add_lora(prior, rank=8, alpha=8.0, generator=seeded())
    return prior, {name: parameter.detach().clone() for name, parameter in lora_parameters(prior).items()}


@pytest.fixture
def prior(adapted_prior):
    """The tiny prior with fresh adapters: A random, B zero, no gradient anywhere."""
    from v2f_core.diffusion.lora import lora_parameters

    prior, begun = adapted_prior
    prior.zero_grad(set_to_none=True)
    for name, parameter in lora_parameters(prior).items():
        parameter.data.copy_(begun[name])
    return prior


@pytest.fixture
def faces():
    """Three women and a man, each with landmarks of their own."""
    from fakes import four_faces

    return four_faces()


@pytest.fixture(scope="session")
def arcface():
    """A stand-in for f_arc."""
    from fakes import Recogniser

    return Recogniser()
