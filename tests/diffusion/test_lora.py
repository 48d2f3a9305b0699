"""Adapters begin as nothing, train alone, and come out of the file as they went in, in plain diffusers too."""

import json

import pytest
import torch
from fakes import seeded, unit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from v2f_core.diffusion.lora import add_lora, fuse_lora, load_lora, lora_parameters, save_lora, without_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError

RANK, ALPHA = 3, 7.5  # α ≠ r: where the scale of the file is lost, every output is wrong


@pytest.fixture
def prior(tiny_profile):
    return Prior.from_folder(tiny_profile.prior)


def adapted(prior, seed=0):
    """An adapter that does something: B is no longer zero."""
    add_lora(prior, RANK, ALPHA, seeded(seed))
    with torch.no_grad():
        for parameter in lora_parameters(prior).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=seeded(seed + 1)))
    return prior


def outputs(prior):
    z_t, tokens = torch.randn(2, *prior.latent_shape, generator=seeded(6)), prior.condition(unit(2, 5))
    return {"tokens": tokens, "noise": prior.predict(z_t, torch.tensor([10, 800]), tokens)}


def differ(a, b):
    assert all((a[name] - b[name]).abs().max() > 1e-3 for name in a)


PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")


def test_fresh_adapters_change_nothing_and_only_they_train(prior):
    before, base = outputs(prior), {name: value.clone() for name, value in prior.state_dict().items()}
    add_lora(prior, RANK, ALPHA, seeded())
    assert_close(before, outputs(prior), atol=0, rtol=0)
    optimiser = torch.optim.AdamW([p for p in prior.parameters() if p.requires_grad], lr=1e-2)
    for step in range(2):
        optimiser.zero_grad()
        outputs(prior)["noise"].square().mean().backward()
        for name, parameter in lora_parameters(prior).items():  # at B = 0, A has no gradient yet
            assert bool(parameter.grad.abs().sum() > 0) == (step == 1 or "lora_B" in name), name
        optimiser.step()
    for name, value in prior.state_dict().items():
        assert "lora_" in name or torch.equal(value, base[name.replace("base_layer.", "")]), name


def test_a_correction_is_alpha_over_r_times_b_a_on_every_attention_projection(prior):
    weights = {
        name.removesuffix(".weight"): weight.clone()
        for name, weight in prior.named_parameters()
        if name.removesuffix(".weight").endswith(PROJECTIONS) and name.endswith("weight")
    }
    adapted(prior)
    lora = lora_parameters(prior)
    assert {name.split(".lora_")[0] for name in lora} == set(weights)
    trainable = sum(parameter.numel() for parameter in prior.parameters() if parameter.requires_grad)
    assert trainable == RANK * sum(sum(weight.shape) for weight in weights.values())
    with_adapters = outputs(prior)
    by_hand = Prior(prior.unet, prior.vae, prior.text_encoder, prior.tokenizer, prior.scheduler)
    with torch.no_grad(), without_lora(by_hand):
        for name in weights:
            a, b = lora[f"{name}.lora_A.default.weight"], lora[f"{name}.lora_B.default.weight"]
            prior.get_submodule(name).base_layer.weight += ALPHA / RANK * b @ a
        assert_close(with_adapters, outputs(by_hand), atol=1e-4, rtol=1e-4)


def test_switched_off_it_is_the_base_and_afterwards_on_again(prior):
    base = outputs(prior)
    adapted(prior)
    on = outputs(prior)
    differ(base, on)
    with without_lora(prior):
        assert_close(base, outputs(prior), atol=0, rtol=0)
    with pytest.raises(ZeroDivisionError), without_lora(prior):
        raise ZeroDivisionError
    assert_close(on, outputs(prior), atol=0, rtol=0)
    for trained in (True, False):  # frozen adapters stay frozen
        for parameter in lora_parameters(prior).values():
            parameter.requires_grad_(trained)
        with without_lora(prior):
            pass
        assert all(parameter.requires_grad == trained for parameter in lora_parameters(prior).values())


def test_the_same_generator_draws_the_same_a_and_the_callers_is_left_alone(tiny_profile):
    drawn, priors = [], [Prior.from_folder(tiny_profile.prior) for _ in range(3)]
    for seed, prior in zip((0, 0, 1), priors, strict=True):
        torch.manual_seed(9)
        add_lora(prior, RANK, ALPHA, seeded(seed))
        assert torch.equal(torch.rand(2), torch.rand(2, generator=seeded(9)))
        drawn.append(torch.cat([p.flatten() for p in lora_parameters(prior).values()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# --- files


def test_a_file_goes_back_where_it_came_from_or_into_the_weights(prior, tiny_profile, tmp_path):
    save_lora(adapted(prior), tmp_path, {"seed": 3})
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"seed": 3}
    fresh, fused = Prior.from_folder(tiny_profile.prior), Prior.from_folder(tiny_profile.prior)
    load_lora(fresh, tmp_path)
    assert_close(outputs(prior), outputs(fresh), atol=0, rtol=0)
    assert all(p.requires_grad == ("lora_" in name) for name, p in fresh.named_parameters())
    with pytest.raises(InputError, match="has LoRA adapters already"):
        load_lora(fresh, tmp_path)
    fuse_lora(fused, tmp_path)
    assert lora_parameters(fused) == {}
    assert_close(outputs(prior), outputs(fused), atol=1e-4, rtol=1e-4)
    add_lora(fused)  # it may be adapted again


def test_plain_diffusers_gives_the_same_numbers(prior, tiny_profile, tmp_path):
    from diffusers import StableDiffusionPipeline

    save_lora(adapted(prior), tmp_path)
    plain = StableDiffusionPipeline.from_pretrained(tiny_profile.prior, local_files_only=True)
    plain.load_lora_weights(tmp_path)
    z_t, tokens = torch.randn(2, *prior.latent_shape, generator=seeded(1)), torch.randn(2, 8, 512, generator=seeded(2))
    t, prompt = torch.tensor([3, 700]), torch.arange(8)[None]

    @torch.no_grad()
    def answers(pipe):
        words = pipe.text_encoder(prompt).last_hidden_state
        return {"tokens": words, "noise": pipe.unet(z_t, t, encoder_hidden_states=tokens).sample}

    assert_close(answers(prior), answers(plain), atol=1e-5, rtol=1e-5)
    with without_lora(prior):  # the adapters are large enough for a wrong scale to show
        differ(answers(prior), answers(plain))


def test_a_file_of_another_model_a_broken_and_a_missing_one_are_refused(prior, tiny_profile, tmp_path):
    save_lora(adapted(prior), tmp_path)
    path, fresh = next(tmp_path.glob("*.safetensors")), Prior.from_folder(tiny_profile.prior)
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    key = next(key for key in weights if key.endswith("to_k.lora_A.weight"))
    narrow = weights | {key: weights[key][:, :-1].contiguous()}
    unet = {name: value for name, value in weights.items() if name.startswith("unet")}
    for tensors, metadata, message in (
        (narrow, header, rf"another model \(1 layers differ, the first is {key}"),
        (unet, header, "another model"),
        (weights, None, "cannot be read as a file with the header"),
    ):
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(InputError, match=message):
            load_lora(fresh, tmp_path)
    path.write_bytes(b"no weights")
    for folder, message in ((tmp_path, "cannot be read as"), (tmp_path / "nowhere", "nowhere.*No such file")):
        with pytest.raises(InputError, match=message):
            load_lora(fresh, folder)
    assert lora_parameters(fresh) == {}  # no adapter is left behind


def test_impossible_settings_are_refused(prior, tmp_path):
    for rank, alpha in ((0, 1.0), (4, 0.0), (4, float("nan"))):
        with pytest.raises(InputError, match=f"rank={rank}"):
            add_lora(prior, rank, alpha)
    with pytest.raises(InputError, match="no LoRA adapters"):
        save_lora(prior, tmp_path)
