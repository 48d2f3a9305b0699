"""The collapse monitors: each by hand, and both trivial optima of L_self are caught."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded, unit, wake

from v2f_core.diffusion.consistency import SelfConsistency
from v2f_core.diffusion.lora import without_lora
from v2f_core.diffusion.monitors import collapse_monitors
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch
from v2f_core.identity.sphere import normalise

BANDS = [(0, 499), (500, 999)]


def test_a_deaf_unet_is_caught_by_s_net_though_the_papers_loss_is_perfect(prior, arcface, faces):
    """LoRA takes away all that cross-attention brings: B·A = −W for the value projection."""
    with torch.no_grad():
        for name, layer in prior.unet.named_modules():
            if name.endswith("attn2.to_v"):
                layer.lora_B["default"].weight.copy_(torch.eye(8))
                layer.lora_A["default"].weight.copy_(-layer.base_layer.weight)
    assert SelfConsistency(prior, arcface)(unit(4, 3), faces, seeded()).loss < 1e-12  # the trivial optimum
    for row in collapse_monitors(prior, arcface, faces.z_arc, faces, BANDS, seeded(7)):
        assert row["s_net"] < 1e-3
        assert row["s_id"] == 1
        assert row["residual_null"] == pytest.approx(row["residual"], rel=1e-4)


def test_a_collapsed_identity_is_caught_by_s_id_and_by_the_spread(prior, arcface, faces):
    rows = collapse_monitors(prior, arcface, unit(1, 3).expand(4, -1), faces, BANDS, seeded(7))
    assert [(row["t_min"], row["t_max"]) for row in rows] == BANDS
    for row in rows:
        assert row["s_id"] < 1e-3
        assert row["s_net"] == 1
        assert row["pairwise_predicted"] == pytest.approx(1, abs=1e-5)
        assert abs(row["pairwise_true"]) < 0.3


def test_every_monitor_by_hand(prior, arcface, faces):
    """With adapters awake in both nets, where no two of the quantities are alike."""
    wake(prior)
    identity, before = unit(4, 3), [3, 0, 1, 2]
    row = collapse_monitors(prior, arcface, identity, faces, [(500, 999)], seeded(7))[0]
    view = SelfConsistency(prior, arcface, t_min=500, t_max=999).look(faces, seeded(7))
    t, noise, other = view.t, view.noise, faces.latents[before]

    def say(z, latents=faces.latents, adapters=True):
        with nullcontext() if adapters else without_lora(prior):
            c = prior.null(4) if z is None else prior.condition(z)
            return prior.predict(prior.add_noise(latents, noise, t), t, c)

    def length(x):
        return x.square().mean().sqrt()

    def seen(latents, rows):
        x_0 = prior.one_step_x0(prior.add_noise(latents, noise, t), t, say(identity, latents))
        return arcface(align_batch(prior.decode(x_0), faces.landmarks[rows]))

    def spread(z):
        pairs = [float(z[i] @ z[j]) for i in range(4) for j in range(i)]
        return sum(pairs) / len(pairs)

    true, mean = faces.z_arc, normalise(faces.z_arc.mean(0)).expand(4, -1)
    with torch.no_grad():
        could = length(say(true, adapters=False) - say(true[before], adapters=False))
        residuals = {
            f"residual{name}": length(noise - say(z)) ** 2
            for name, z in {"": identity, "_true": true, "_mean": mean, "_null": None}.items()
        }
        expected = residuals | {
            "s_net": length(say(true) - say(true[before])) / could,
            "s_id": length(say(identity, adapters=False) - say(identity[before], adapters=False)) / could,
            "delta": residuals["residual"] - residuals["residual_true"],
            "cos_self_true": F.cosine_similarity(seen(faces.latents, slice(None)), true).mean(),
            "cos_self_predicted": F.cosine_similarity(seen(faces.latents, slice(None)), identity).mean(),
            "cos_self_true_other": F.cosine_similarity(seen(other, before), true).mean(),
            "pairwise_predicted": spread(identity),
            "pairwise_true": spread(true),
        }
    assert row.keys() == expected.keys() | {"t_min", "t_max"}
    for name, value in expected.items():
        assert row[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_monitors_need_two_persons(prior, arcface, faces):
    with pytest.raises(InputError, match="at least 2"):
        collapse_monitors(prior, arcface, unit(1, 3), faces[:1], [(0, 9)], seeded())
