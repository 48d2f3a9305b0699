"""The prior: P(·) by hand, gradients, schedules in closed form, and a folder that plain diffusers opens."""

import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded, tiny_prior, unit

from minivox.build.tokenizer import LENGTH
from v2f_core.diffusion.prior import PROMPT, Prior
from v2f_core.errors import InputError

SCALE = 0.18215  # of the latents, as Stable Diffusion's


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    torch.manual_seed(0)
    return tiny_prior(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def identity() -> torch.Tensor:
    return unit(3, 1)


@pytest.mark.parametrize("width", [512, 768])
def test_condition_replaces_exactly_one_embedding(tmp_path: Path, identity: torch.Tensor, width: int) -> None:
    """By hand: write each identity, padded with zeros, into the table as a new word, and use that word's number."""
    torch.manual_seed(0)
    prior = tiny_prior(tmp_path, width)
    ids = prior.tokenizer(PROMPT, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids.repeat(3, 1)
    assert prior.tokenizer.tokenize(PROMPT) == [word + "</w>" for word in PROMPT.split()]
    assert int((ids[0] == prior.placeholder).sum()) == 1
    at = int((ids[0] == prior.placeholder).nonzero())
    tokens, table = prior.condition(identity), prior.text_encoder.get_input_embeddings()
    ids[:, at] = len(table.weight) + torch.arange(3)
    table.weight = torch.nn.Parameter(torch.cat([table.weight, F.pad(identity, (0, width - 512))]))
    torch.testing.assert_close(tokens, prior.text_encoder(ids).last_hidden_state)
    torch.testing.assert_close(tokens[0, :at], tokens[1, :at])  # causal: earlier tokens do not depend on it
    assert (tokens[0, at:] - tokens[1, at:]).abs().amax(1).min() > 1e-3
    empty = prior.tokenizer("", padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    torch.testing.assert_close(prior.null(2), prior.text_encoder(empty).last_hidden_state.repeat(2, 1, 1))


def test_the_hook_is_removed_and_bad_identities_are_refused(prior: Prior, identity: torch.Tensor) -> None:
    with pytest.raises(InputError, match="norm 2"):
        prior.condition(identity * 2)

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    handle = prior.text_encoder.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        prior.condition(identity)
    handle.remove()
    assert not prior.text_encoder.get_input_embeddings()._forward_hooks


def test_gradient_reaches_the_identity(prior: Prior, identity: torch.Tensor) -> None:
    z = identity[:1].clone().requires_grad_()
    weight = torch.randn(1, LENGTH, 512, generator=seeded(2))
    (prior.condition(z) * weight).sum().backward()
    along = torch.randn(1, 512, generator=seeded(3))
    along -= (along * z).sum() * z  # along the sphere, so that both ends are identities
    along = (along / along.norm()).detach()

    def value(angle: float) -> float:
        turned = z.detach() * torch.cos(torch.tensor(angle)) + along * torch.sin(torch.tensor(angle))
        return float((prior.condition(turned).detach().double() * weight).sum())

    assert float((z.grad * along).sum()) == pytest.approx((value(0.02) - value(-0.02)) / 0.04, rel=0.02)


def test_encode_and_decode(prior: Prior) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = prior.encode(images)
    assert latents.shape == (2, *prior.latent_shape)
    torch.testing.assert_close(latents, prior.vae.encode(images).latent_dist.mean * SCALE)
    torch.testing.assert_close(prior.decode(latents), prior.vae.decode(latents / SCALE).sample.clamp(-1, 1))


def test_noising_in_closed_form_and_back(prior: Prior) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    t, z, noise = torch.tensor([0, 400, 999]), torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    z_t = prior.add_noise(z, noise, t)
    for i in range(3):
        kept = float((1 - betas[: int(t[i]) + 1]).prod())
        torch.testing.assert_close(z_t[i], kept**0.5 * z[i] + (1 - kept) ** 0.5 * noise[i], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prior.one_step_x0(z_t, t, noise), z, atol=1e-3, rtol=1e-3)


def test_the_solver_finds_the_only_point_there_is(prior: Prior) -> None:
    """If all data is one point x, the exact noise is (z_t − √ᾱ x) / √(1 − ᾱ), and the sampler must end at x."""
    x = torch.randn(1, 4, 4, 4)

    class Exact(Prior):
        def predict(self, z_t: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            a = self.alphas_cumprod[t.long()]
            return (z_t - a.sqrt() * x) / (1 - a).sqrt()

    exact = Exact(prior.unet, prior.vae, prior.text_encoder, prior.tokenizer, prior.scheduler)
    for steps in (2, 25):
        end = exact.denoise(torch.randn(2, 4, 4, 4), exact.null(2), steps, guidance=3.0)
        torch.testing.assert_close(end, x.expand(2, -1, -1, -1), atol=1e-3, rtol=1e-3)


def test_guidance_goes_from_null_through_the_condition(prior: Prior, identity: torch.Tensor) -> None:
    """One solver step is linear in the noise, so guided latents lie on the line through both unguided ones."""
    noise, c = torch.randn(3, 4, 4, 4), prior.condition(identity)
    with torch.no_grad():
        ends = {s: prior.denoise(noise, c, 1, s) for s in (0.0, 1.0, 3.0)}
        torch.testing.assert_close(ends[3.0], ends[0.0] + 3 * (ends[1.0] - ends[0.0]), atol=1e-3, rtol=1e-3)
    passes: list[int] = []
    watch = prior.unet.register_forward_pre_hook(lambda net, given: passes.append(len(given[0])))
    prior.denoise(noise, c, 2, 1.0)
    watch.remove()
    assert passes == [3, 3]  # without guidance the null condition is not computed


def test_no_picture_is_drawn_from_latents_that_are_not_finite(prior: Prior) -> None:
    for numbers, message in (
        ({"num_steps": 0}, "num_steps 0: expected 1 to 999"),
        ({"num_steps": 1000}, "num_steps 1000: expected 1 to 999"),  # DPM-Solver would divide by zero
        ({"guidance": math.nan}, "guidance nan: expected a finite number"),
        ({"num_steps": 3, "guidance": 1e38}, r"guidance 1e\+38: not finite; lower the guidance"),
    ):
        with pytest.raises(InputError, match=message):
            prior.sample(torch.eye(1, 512), **numbers)


def test_the_generator_draws_the_noise_which_may_be_given_instead(prior: Prior, identity: torch.Tensor) -> None:
    faces = prior.sample(identity, 3, generator=seeded())
    noise = torch.randn(3, *prior.latent_shape, generator=seeded())
    torch.testing.assert_close(prior.sample(identity[1:2], 3, noise=noise[1:2]), faces[1:2], atol=1e-4, rtol=1e-4)


def test_the_folder_opens_in_plain_diffusers(prior: Prior, identity: torch.Tensor, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from minivox.build.prior import save_prior

    save_prior(prior, tmp_path / "prior")
    ours = Prior.from_folder(tmp_path / "prior")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "prior", local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(3, *ours.latent_shape)
    images = theirs(
        prompt_embeds=ours.condition(identity).detach(),
        negative_prompt_embeds=ours.null(3).detach(),
        latents=noise.clone(), num_inference_steps=4, guidance_scale=2.0, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(images * 2 - 1, ours.sample(identity, 4, 2.0, noise=noise), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.condition(identity), prior.condition(identity), atol=0.02, rtol=0.02)  # halves

    save_prior(ours, tmp_path / "again")  # of parts that were loaded: no path of this machine goes along
    assert not [path for path in (tmp_path / "again").rglob("*.json") if str(tmp_path) in path.read_text()]

    shutil.rmtree(tmp_path / "prior" / "vae")
    with pytest.raises(InputError, match="vae: missing; a Stable Diffusion folder holds"):
        Prior.from_folder(tmp_path / "prior")


def test_a_narrow_text_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="64 wide, expected at least 512"):
        tiny_prior(tmp_path, width=64)
