"""One step of Stage II with nets as large as the published ones: Stable Diffusion 1.5's, CLIP-L's, an iResNet-100.

The weights are random, so nothing is learnt; what is shown is that the step runs at that size within a machine's
memory, that gradient reaches what is trained and nothing else, and that the file fits a plain pipeline of that size.
Faces have 128 px here instead of 512, for the sake of a CPU: as many weights, a sixteenth of the work
(``benchmarks/gpu.py`` does it at 512).
"""

import resource
import sys
from pathlib import Path

import pytest
import torch

from v2f_core.diffusion.lora import lora_parameters
from v2f_core.identity.aligner import Aligner
from v2f_core.training.stage2 import Stage2Settings, train_stage2

pytestmark = pytest.mark.slow

LATENTS = (4, 16, 16)
GIB = 24  # of memory that a machine of the test suite has


@pytest.fixture
def nets():
    """The program of random nets; it lies with the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        import random_nets

        yield random_nets
    sys.modules.pop("random_nets")


def test_a_step_reaches_what_is_trained_and_its_file_fits_a_plain_pipeline(nets, tmp_path, capsys):
    """One test, so that nowhere two of such trainings stand side by side."""
    settings = Stage2Settings(steps=1, batch=2, warmup=0, learning_rate_lora=1e-3, monitored=2, monitor_bands=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior, arcface = nets.random_prior(nets.FULL, "cpu"), nets.IResNet(nets.FULL.arcface)
        pairs, aligner = nets.random_pairs(nets.FULL, LATENTS), Aligner()
        train_stage2(aligner, prior, arcface, pairs, pairs, settings, tmp_path, {})
    # rank 16 at each of an attention's four projections: 32 attentions in the UNet, 12 in CLIP-L
    names = [name for name in lora_parameters(prior) if "lora_A" in name]
    assert sum(name.startswith("unet") for name in names) == 4 * 32
    assert sum(name.startswith("text_encoder") for name in names) == 4 * 12
    assert all(16 in parameter.shape for parameter in lora_parameters(prior).values())
    aligner_and_adapters_moved_and_nothing_else(aligner, prior, arcface)
    step = peak()
    a_plain_pipeline_takes_the_file(prior, nets, tmp_path / "lora")
    with capsys.disabled():
        print(
            f"\nStage II at full size, 2 faces of {8 * LATENTS[1]} px: {step:.1f} GiB; and a pipeline: {peak():.1f} GiB"
        )
    assert peak() < GIB


def peak():
    """The most memory that this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def aligner_and_adapters_moved_and_nothing_else(aligner, prior, arcface):
    adapters = lora_parameters(prior)
    for name, parameter in adapters.items():
        assert parameter.grad is not None, name
        if "lora_B" in name:  # A gets no gradient while B is zero
            assert parameter.grad.abs().max() > 0, name
            assert parameter.abs().max() > 0, name
    assert all(parameter.grad.abs().max() > 0 for parameter in aligner.parameters())
    frozen = [
        parameter
        for net in (prior.unet, prior.text_encoder, prior.vae, arcface)
        for name, parameter in net.named_parameters()
        if "lora_" not in name
    ]
    assert sum(parameter.numel() for parameter in frozen) > 1e9
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


def a_plain_pipeline_takes_the_file(prior, nets, folder):
    from diffusers import StableDiffusionPipeline

    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nets.random_prior(nets.FULL, "cpu")  # the same weights again, without adapters
    pipe = StableDiffusionPipeline(
        plain.vae, plain.text_encoder, plain.tokenizer, plain.unet, plain.scheduler, None, None, None, False
    )
    z_t, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    words = prior._prompt
    with torch.no_grad():
        tokens = prior.text_encoder(words).last_hidden_state
        expected = prior.predict(z_t, t, tokens)
        before = pipe.unet(z_t, t, tokens).sample
        pipe.load_lora_weights(folder)
        torch.testing.assert_close(pipe.text_encoder(words).last_hidden_state, tokens, atol=1e-4, rtol=1e-4)
        after = pipe.unet(z_t, t, tokens).sample
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
    assert (before - expected).abs().max() > 1e-3  # the adapters do something
