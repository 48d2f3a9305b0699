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

from v2f_core.diffusion.lora import add_lora, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline

# some of what LCM-LoRA adapts: attention, convolutions, time embeddings
LCM_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "conv1", "conv2", "time_emb_proj"]


@pytest.fixture
def fresh(tiny_profile):
    """A pipeline of its own, since these tests change it."""
    return Vox2FacePipeline.from_profile(tiny_profile)


def drawn(pipe, voice):
    return pixels(pipe(voice, 1, num_steps=4, guidance=1.0, generator=seeded()))[0].astype(int)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDIMScheduler", "LCMScheduler"])
def test_another_scheduler_is_followed(fresh, pipe, name):
    """Against a plain loop over that scheduler, with guidance by hand."""
    kind = getattr(diffusers, name)
    fresh.scheduler = kind.from_config(fresh.scheduler.config)
    before, prior = fresh.scheduler.timesteps.clone(), fresh.prior
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
    assert torch.equal(fresh.scheduler.timesteps, before)  # solvers keep a history: none reaches the next image


# --- LCM-LoRA: few steps without guidance


@pytest.fixture(scope="module")
def lcm_lora(tiny_profile, tmp_path_factory):
    """Random weights in the file that ``StableDiffusionPipeline.save_lora_weights`` makes of an LCM-LoRA."""
    folder = tmp_path_factory.mktemp("lcm")
    unet = UNet2DConditionModel.from_pretrained(tiny_profile.prior / "unet")
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=LCM_TARGETS))
    wake(unet, 0.3)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder


def test_the_adapter_decides_can_be_taken_off_and_is_saved_only_as_part_of_the_weights(
    fresh, lcm_lora, voice, tmp_path
):
    fresh.scheduler = LCMScheduler.from_config(fresh.scheduler.config)
    without = drawn(fresh, voice)
    fresh.load_lora_weights(lcm_lora, adapter_name="lcm")
    face = drawn(fresh, voice)
    assert not np.array_equal(face, without)
    fresh.set_adapters(["lcm"], [0.0])
    assert np.abs(drawn(fresh, voice) - without).max() <= 1
    fresh.set_adapters(["lcm"], [1.0])
    with pytest.raises(InputError, match=r"adapters are loaded .*lcm.*fuse_lora"):
        fresh.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    fresh.fuse_lora()
    fresh.unload_lora_weights()
    fresh.save_pretrained(tmp_path / "yes")
    back = Vox2FacePipeline.from_pretrained(tmp_path / "yes")
    assert isinstance(back.scheduler, LCMScheduler)
    assert np.abs(drawn(back, voice) - face).max() <= 1


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # peft says so at every second adapter
def test_it_stands_beside_stage_two_fused_or_loaded(tiny_profile, pipe, lcm_lora, voice, tmp_path):
    """Stage II is part of the weights after `from_profile`; from stage 1 on, it is one adapter beside the other."""
    pipe.aligner.save_pretrained(tmp_path / "aligner")
    prior = Prior.from_folder(tiny_profile.prior)
    add_lora(prior, rank=2, alpha=3.0, generator=seeded())
    wake(prior, 0.3)
    save_lora(prior, tmp_path / "lora")
    adapted = replace(tiny_profile, adapted=tmp_path)
    fused, loaded = Vox2FacePipeline.from_profile(adapted), Vox2FacePipeline.from_profile(adapted, stage=1)
    loaded.load_lora_weights(tmp_path / "lora", adapter_name="stage2")
    faces = [drawn(loaded, voice)]
    for pipe, both in ((fused, ["lcm"]), (loaded, ["stage2", "lcm"])):
        pipe.load_lora_weights(lcm_lora, adapter_name="lcm")
        pipe.set_adapters(both)
        faces.append(drawn(pipe, voice))
    stage_two, one, other = faces
    assert np.abs(one - other).max() <= 2
    assert np.abs(one - stage_two).max() > 2
