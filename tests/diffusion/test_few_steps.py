"""The pipeline does what users of diffusers expect: other schedulers, adapters such as LCM-LoRA.

On tiny random models: which passes are made and what decides the result, not how it looks.
"""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from fakes import spoken
from peft import LoraConfig, get_peft_model_state_dict

from v2f_core.diffusion.lora import add_lora, lora_parameters, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
# what LCM-LoRA adapts beside attention: convolutions, projections and time embeddings
LCM_TARGETS = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "time_emb_proj"]


@pytest.fixture(scope="module")
def whole(tiny_profile):
    return Vox2FacePipeline.from_profile(tiny_profile)


@pytest.fixture
def pipe(tiny_profile):
    """A fresh one, since these tests change it."""
    return Vox2FacePipeline.from_profile(tiny_profile)


@pytest.fixture(scope="module")
def voice():
    return torch.from_numpy(spoken(3)[:, 0].copy())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(pipe, voice, n=1, seed=0, **settings):
    out = pipe(voice, n, generator=[generator(seed + i) for i in range(n)], **settings)
    return np.stack([np.asarray(image) for image in out.images]).astype(int)


def random_(unet, seed, scale=0.3):
    """Make every adapter do something."""
    for i, (name, parameter) in enumerate(unet.named_parameters()):
        if "lora_" in name:
            parameter.data.normal_(0, scale, generator=generator(100 * seed + i))


@pytest.fixture(scope="module")
def lcm_lora(tiny_profile, tmp_path_factory):
    """Random weights in the file that ``StableDiffusionPipeline.save_lora_weights`` makes of an LCM-LoRA."""
    folder = tmp_path_factory.mktemp("lcm")
    unet = UNet2DConditionModel.from_pretrained(tiny_profile.prior / "unet")
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=LCM_TARGETS))
    random_(unet, 1)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder


@pytest.fixture(scope="module")
def adapted(tiny_profile, tmp_path_factory):
    """The tiny profile with adapters of Stage II."""
    folder = tmp_path_factory.mktemp("adapted")
    Vox2FacePipeline.from_profile(tiny_profile).aligner.save_pretrained(folder / "aligner")
    prior = Prior.from_folder(tiny_profile.prior)
    add_lora(prior, rank=2, alpha=3.0, generator=generator())
    random_(prior, 2)
    save_lora(prior, folder / "lora")
    return replace(tiny_profile, adapted=folder)


# --- schedulers


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDIMScheduler", "LCMScheduler"])
def test_another_scheduler_is_followed(pipe, whole, name):
    """Against a plain loop over that scheduler, with guidance by hand."""
    kind = getattr(diffusers, name)
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    prior = pipe.prior
    c, null = torch.randn(1, 8, 512, generator=generator(1)), prior.null(1)
    noise = torch.randn(1, *prior.latent_shape, generator=generator(2))

    scheduler = kind.from_config(whole.scheduler.config)
    scheduler.set_timesteps(4)
    z, draw = noise * scheduler.init_noise_sigma, generator(3)
    with torch.no_grad():
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(z, t)
            given, without = (prior.unet(scaled, t, tokens).sample for tokens in (c, null))
            noisy = {} if name == "DDIMScheduler" else {"generator": draw}
            z = scheduler.step(without + 2.0 * (given - without), t, z, **noisy).prev_sample
        found = prior.denoise(noise, c, 4, 2.0, generator(3))
        usual = whole.prior.denoise(noise, c, 4, 2.0, generator(3))
    torch.testing.assert_close(found, z, atol=1e-4, rtol=1e-3)
    assert (found - usual).abs().max() > 1e-2


def test_the_pipelines_scheduler_is_saved_and_not_changed_by_drawing(pipe, voice, tmp_path):
    """Solvers keep a history: one image's must not reach the next."""
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    before = pipe.scheduler.timesteps.clone()
    faces = drawn(pipe, voice, num_steps=2)
    assert torch.equal(pipe.scheduler.timesteps, before)
    pipe.save_pretrained(tmp_path)
    back = Vox2FacePipeline.from_pretrained(tmp_path)
    assert isinstance(back.scheduler, LCMScheduler)
    assert np.array_equal(drawn(back, voice, num_steps=2), faces)


# --- LCM-LoRA: few steps without guidance


@pytest.fixture
def few(pipe, lcm_lora):
    pipe.load_lora_weights(lcm_lora, adapter_name="lcm")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def test_the_adapter_decides_and_can_be_taken_off(few, voice, whole):
    plain = Vox2FacePipeline(**{**whole.components, "scheduler": few.scheduler})
    settings = {"num_steps": 4, "guidance": 1.0}
    with_it, without = drawn(few, voice, **settings), drawn(plain, voice, **settings)
    assert not np.array_equal(with_it, without)
    few.set_adapters(["lcm"], [0.0])
    assert np.abs(drawn(few, voice, **settings) - without).max() <= 1
    few.unload_lora_weights()
    assert np.array_equal(drawn(few, voice, **settings), without)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # peft says so at every second adapter
def test_it_stands_beside_stage_two_fused_or_loaded(adapted, lcm_lora, voice):
    """Stage II is part of the weights after `from_profile`; from stage 1 on, it is one adapter beside the other."""
    fused, loaded = Vox2FacePipeline.from_profile(adapted), Vox2FacePipeline.from_profile(adapted, stage=1)
    loaded.load_lora_weights(adapted.adapted / "lora", adapter_name="stage2")
    stage_two = drawn(loaded, voice, num_steps=4)
    for pipe, both in ((fused, ["lcm"]), (loaded, ["stage2", "lcm"])):
        pipe.load_lora_weights(lcm_lora, adapter_name="lcm")
        pipe.set_adapters(both)
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    assert lora_parameters(loaded.prior)
    one, other = (drawn(pipe, voice, num_steps=4, guidance=1.0) for pipe in (fused, loaded))
    assert np.abs(one - other).max() <= 2
    assert np.abs(one - stage_two).max() > 2


def test_loaded_adapters_are_saved_only_as_part_of_the_weights(few, voice, tmp_path):
    with pytest.raises(InputError, match=r"adapters are loaded .*lcm.*fuse_lora"):
        few.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    before = drawn(few, voice, num_steps=4, guidance=1.0)
    few.fuse_lora()
    few.unload_lora_weights()
    few.save_pretrained(tmp_path / "yes")
    back = Vox2FacePipeline.from_pretrained(tmp_path / "yes")
    assert np.abs(drawn(back, voice, num_steps=4, guidance=1.0) - before).max() <= 1
