"""The pipeline does what users of diffusers expect: other schedulers, adapters such as LCM-LoRA.

On tiny random models: which passes are made and what decides the result, not how it looks.
"""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from fakes import pixels, seeded, wake
from peft import LoraConfig, get_peft_model_state_dict

from v2f_core.diffusion.lora import add_lora, lora_parameters, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline

# what LCM-LoRA adapts: attention, convolutions, projections and time embeddings
LCM_TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "time_emb_proj",
]  # fmt: skip
FEW = {"num_steps": 4, "guidance": 1.0}


@pytest.fixture
def fresh(tiny_profile):
    """A pipeline of its own, since these tests change it."""
    return Vox2FacePipeline.from_profile(tiny_profile)


def drawn(pipe, voice, **settings):
    return pixels(pipe(voice, 1, generator=seeded(), **settings))[0].astype(int)


@pytest.fixture(scope="module")
def lcm_lora(tiny_profile, tmp_path_factory):
    """Random weights in the file that ``StableDiffusionPipeline.save_lora_weights`` makes of an LCM-LoRA."""
    folder = tmp_path_factory.mktemp("lcm")
    unet = UNet2DConditionModel.from_pretrained(tiny_profile.prior / "unet")
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=LCM_TARGETS))
    wake(unet, 0.3)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder


# --- schedulers


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDIMScheduler", "LCMScheduler"])
def test_another_scheduler_is_followed(fresh, pipe, name):
    """Against a plain loop over that scheduler, with guidance by hand."""
    kind = getattr(diffusers, name)
    fresh.scheduler = kind.from_config(fresh.scheduler.config)
    prior = fresh.prior
    c, null = torch.randn(1, 8, 512, generator=seeded(1)), prior.null(1)
    noise = torch.randn(1, *prior.latent_shape, generator=seeded(2))

    scheduler = kind.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(4)
    z, draw = noise * scheduler.init_noise_sigma, seeded(3)
    with torch.no_grad():
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(z, t)
            given, without = (prior.unet(scaled, t, tokens).sample for tokens in (c, null))
            noisy = {} if name == "DDIMScheduler" else {"generator": draw}
            z = scheduler.step(without + 2.0 * (given - without), t, z, **noisy).prev_sample
        found, usual = (p.denoise(noise, c, 4, 2.0, seeded(3)) for p in (prior, pipe.prior))
    torch.testing.assert_close(found, z, atol=1e-4, rtol=1e-3)
    assert (found - usual).abs().max() > 1e-2


def test_the_pipelines_scheduler_is_saved_and_not_changed_by_drawing(fresh, voice, tmp_path):
    """Solvers keep a history: one image's must not reach the next."""
    fresh.scheduler = LCMScheduler.from_config(fresh.scheduler.config)
    before = fresh.scheduler.timesteps.clone()
    face = drawn(fresh, voice, num_steps=2)
    assert torch.equal(fresh.scheduler.timesteps, before)
    fresh.save_pretrained(tmp_path)
    back = Vox2FacePipeline.from_pretrained(tmp_path)
    assert isinstance(back.scheduler, LCMScheduler)
    assert np.array_equal(drawn(back, voice, num_steps=2), face)


# --- LCM-LoRA: few steps without guidance


@pytest.fixture
def few(fresh, lcm_lora):
    fresh.load_lora_weights(lcm_lora, adapter_name="lcm")
    fresh.scheduler = LCMScheduler.from_config(fresh.scheduler.config)
    return fresh


def test_the_adapter_decides_and_can_be_taken_off(few, voice, pipe):
    without = drawn(Vox2FacePipeline(**{**pipe.components, "scheduler": few.scheduler}), voice, **FEW)
    assert not np.array_equal(drawn(few, voice, **FEW), without)
    few.set_adapters(["lcm"], [0.0])
    assert np.abs(drawn(few, voice, **FEW) - without).max() <= 1
    few.unload_lora_weights()
    assert np.array_equal(drawn(few, voice, **FEW), without)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # peft says so at every second adapter
def test_it_stands_beside_stage_two_fused_or_loaded(tiny_profile, lcm_lora, voice, tmp_path):
    """Stage II is part of the weights after `from_profile`; from stage 1 on, it is one adapter beside the other."""
    Vox2FacePipeline.from_profile(tiny_profile).aligner.save_pretrained(tmp_path / "aligner")
    prior = Prior.from_folder(tiny_profile.prior)
    add_lora(prior, rank=2, alpha=3.0, generator=seeded())
    wake(prior, 0.3)
    save_lora(prior, tmp_path / "lora")
    adapted = replace(tiny_profile, adapted=tmp_path)
    fused, loaded = Vox2FacePipeline.from_profile(adapted), Vox2FacePipeline.from_profile(adapted, stage=1)
    loaded.load_lora_weights(tmp_path / "lora", adapter_name="stage2")
    stage_two = drawn(loaded, voice, num_steps=4)
    for pipe, both in ((fused, ["lcm"]), (loaded, ["stage2", "lcm"])):
        pipe.load_lora_weights(lcm_lora, adapter_name="lcm")
        pipe.set_adapters(both)
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    assert lora_parameters(loaded.prior)
    one, other = (drawn(pipe, voice, **FEW) for pipe in (fused, loaded))
    assert np.abs(one - other).max() <= 2
    assert np.abs(one - stage_two).max() > 2


def test_loaded_adapters_are_saved_only_as_part_of_the_weights(few, voice, tmp_path):
    with pytest.raises(InputError, match=r"adapters are loaded .*lcm.*fuse_lora"):
        few.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    before = drawn(few, voice, **FEW)
    few.fuse_lora()
    few.unload_lora_weights()
    few.save_pretrained(tmp_path / "yes")
    assert np.abs(drawn(Vox2FacePipeline.from_pretrained(tmp_path / "yes"), voice, **FEW) - before).max() <= 1
