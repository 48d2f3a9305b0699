"""L_self: by hand, by finite differences, where its gradient goes, what it costs, and how its trivial optima show."""

import math
from contextlib import nullcontext

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from v2f_core.diffusion import strategies
from v2f_core.diffusion.consistency import FaceBatch, SelfConsistency
from v2f_core.diffusion.consistency_settings import CHOICES, ConsistencySettings
from v2f_core.diffusion.lora import add_lora, lora_parameters, without_lora
from v2f_core.diffusion.monitors import collapse_monitors
from v2f_core.diffusion.prior import Prior
from v2f_core.diffusion.strategies import draw_negatives, estimate_x0
from v2f_core.diffusion.timesteps import WEIGHTS, bands, draw_timesteps, timestep_weight
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch, differentiable_arcface
from v2f_core.identity.faces import TEMPLATE
from v2f_core.identity.sphere import normalise

BATCH = 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(rows, seed):
    return normalise(torch.randn(rows, 512, generator=seeded(seed)))


@pytest.fixture(scope="module")
def arcface(tmp_path_factory):
    """A net of the real thing's operators: one convolution, one projection."""

    def constant(name, *shape):
        return numpy_helper.from_array(torch.randn(shape, generator=seeded(len(name))).numpy(), name)

    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["a"], strides=[28, 28]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "projection"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [value("x", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [value("y", TensorProto.FLOAT, ["n", 512])],
        [constant("kernel", 8, 3, 28, 28), constant("projection", 128, 512)],
    )
    path = tmp_path_factory.mktemp("arcface") / "toy.onnx"
    onnx.save(helper.make_model(graph), path)
    return differentiable_arcface(path)


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
    return FaceBatch(
        latents=torch.randn(BATCH, 4, 4, 4, generator=seeded(1)),
        landmarks=torch.from_numpy(TEMPLATE * 32 / 112) + torch.arange(BATCH).view(-1, 1, 1),
        z_arc=unit(BATCH, 2),
        women=torch.tensor([True, True, False, True]),
    )


def wake(prior, scale=0.1):
    """Adapters that do something: B is no longer zero."""
    with torch.no_grad():
        for name, parameter in lora_parameters(prior).items():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded(len(name))))


class Spy:
    """Keeps what the prior is asked for."""

    def __init__(self, prior, monkeypatch):
        self.noised, self.calls, self.tokens = [], [], []
        add_noise, predict = prior.add_noise, prior.predict

        def keep_noised(z_0, noise, t):
            self.noised.append((z_0, noise, t))
            return add_noise(z_0, noise, t)

        def keep_call(z_t, t, c):
            noise = predict(z_t, t, c)
            self.calls.append((len(z_t), noise.requires_grad))
            self.tokens.append(c.detach())
            return noise

        monkeypatch.setattr(prior, "add_noise", keep_noised)
        monkeypatch.setattr(prior, "predict", keep_call)


def mean_square(x):
    return torch.stack([row.square().mean() for row in x])


# --- by hand


@pytest.mark.parametrize("lora_in_target", [None, False])
def test_the_papers_loss_by_hand(lora_in_target, prior, arcface, faces, monkeypatch):
    """Without adapters in the target neither net has them there: c_self is what the frozen text encoder makes."""
    wake(prior)
    spy, identity = Spy(prior, monkeypatch), unit(BATCH, 3)
    settings = ConsistencySettings(weight="one_minus_alpha", lora_in_target=lora_in_target)
    terms = SelfConsistency(prior, arcface, settings)(identity, faces, seeded(4))
    z_0, noise, t = spy.noised[0]
    assert torch.equal(z_0, faces.latents)
    assert torch.equal(terms.t, t)
    expected, weights = [], []
    for i in range(BATCH):
        a = prior.alphas_cumprod[t[i]]
        z_t = (a.sqrt() * z_0[i] + (1 - a).sqrt() * noise[i])[None]
        said = prior.unet(z_t, t[i], prior.condition(identity[i : i + 1])).sample
        x0 = (z_t - (1 - a).sqrt() * said) / a.sqrt()
        crop = align_batch(
            prior.vae.decode(x0 / prior.vae.config.scaling_factor).sample.clamp(-1, 1), faces.landmarks[i : i + 1]
        )
        z_self = arcface(crop)
        torch.testing.assert_close(terms.z_self[i : i + 1], z_self, atol=1e-4, rtol=1e-4)
        with nullcontext() if lora_in_target is None else without_lora(prior):
            target = prior.unet(z_t, t[i], prior.condition(z_self)).sample
        expected.append((said - target).square().mean())
        weights.append(1 - a)
    torch.testing.assert_close(terms.each, torch.stack(expected).detach(), atol=1e-6, rtol=1e-3)
    by_hand = sum(w * e for w, e in zip(weights, expected, strict=True)) / BATCH
    torch.testing.assert_close(terms.loss, by_hand, atol=1e-6, rtol=1e-3)


def test_the_plain_residual_and_the_teachers_by_hand(prior, arcface, faces, monkeypatch):
    wake(prior)
    spy, identity = Spy(prior, monkeypatch), unit(BATCH, 3)
    found = {
        mode: SelfConsistency(prior, arcface, ConsistencySettings(mode))(identity, faces, seeded(4))
        for mode in ("denoise", "teacher")
    }
    z_0, noise, t = spy.noised[0]
    with torch.no_grad():
        z_t = prior.add_noise(z_0, noise, t)
        said = prior.predict(z_t, t, prior.condition(identity))
        torch.testing.assert_close(found["denoise"].loss, mean_square(noise - said).mean(), atol=0, rtol=1e-4)
        with without_lora(prior):
            target = prior.predict(z_t, t, prior.condition(faces.z_arc))
    torch.testing.assert_close(found["teacher"].each, mean_square(said - target), atol=1e-7, rtol=1e-3)


def test_contrast_by_hand(prior, arcface, faces, monkeypatch):
    """One man among three women: his only negative is null."""
    wake(prior)
    spy, identity = Spy(prior, monkeypatch), unit(BATCH, 3)
    settings = ConsistencySettings("contrast", negatives=3, temperature=0.05)
    terms = SelfConsistency(prior, arcface, settings)(identity, faces, seeded(4))
    z_0, noise, t = spy.noised[0]
    with torch.no_grad():
        z_t, tokens = prior.add_noise(z_0, noise, t), prior.condition(identity)
        for i, others in enumerate([[1, 3], [0, 3], [], [0, 1]]):
            conditions = [tokens[i], *(tokens[j] for j in others), prior.null(1)[0]]
            said = [prior.predict(z_t[i : i + 1], t[i : i + 1], c[None])[0] for c in conditions]
            r = torch.stack([(s - noise[i]).square().mean() for s in said])
            torch.testing.assert_close(terms.each[i], -torch.log_softmax(-r / 0.05, 0)[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("mode", ["cycle", "likeness"])
def test_how_a_drawn_face_is_recognised_and_its_gradient_by_hand(mode, prior, arcface, faces, monkeypatch):
    """The face of P(ẑ) is compared with ẑ, which as the target is a constant, or with the speaker's own."""
    wake(prior)
    spy, identity = Spy(prior, monkeypatch), unit(BATCH, 3).requires_grad_()
    settings = ConsistencySettings(mode, z_t_from="generated", generated_steps=2, t_max=500)
    terms = SelfConsistency(prior, arcface, settings)(identity, faces, seeded(4))
    terms.loss.backward()
    z_0, noise, t = spy.noised[-1]
    with torch.no_grad():
        start = torch.randn(z_0.shape, generator=seeded(4))
        drawn = prior.denoise(start, prior.condition(identity), 2, guidance=1.0)
    torch.testing.assert_close(z_0, drawn)
    assert int(t.max()) <= 500
    points = faces.landmarks.mean(0).expand(BATCH, 5, 2)

    def by_hand(z):
        z_t = prior.add_noise(z_0, noise, t)
        x0 = prior.one_step_x0(z_t, t, prior.predict(z_t, t, prior.condition(z)))
        seen = arcface(align_batch(prior.decode(x0), points))
        return 1 - F.cosine_similarity(seen, identity.detach() if mode == "cycle" else faces.z_arc)

    z = identity.detach().requires_grad_()
    torch.testing.assert_close(terms.each, by_hand(z).detach(), atol=1e-6, rtol=1e-4)
    parameters = list(lora_parameters(prior).values())
    expected = torch.autograd.grad(by_hand(z).mean(), [z, *parameters])
    for found, gradient in zip([identity.grad, *(p.grad for p in parameters)], expected, strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("mode", ["cycle", "likeness"])
def test_of_a_speakers_copies_the_mean_is_compared(mode, prior, arcface, faces, monkeypatch):
    """Two speakers of the four, two faces each; by hand from what f_arc recognised in each face."""
    wake(prior)
    identity = unit(BATCH, 3)
    settings = ConsistencySettings(mode, z_t_from="generated", generated_steps=1, copies=2)
    terms = SelfConsistency(prior, arcface, settings)(identity, faces, seeded(4))
    target = identity if mode == "cycle" else faces.z_arc
    for speaker in (0, 1):
        two = terms.z_self[2 * speaker : 2 * speaker + 2]
        assert two[0] @ two[1] < 0.999  # other noise
        by_hand = 1 - F.cosine_similarity(two.mean(0), target[speaker], dim=0)
        torch.testing.assert_close(terms.each[2 * speaker : 2 * speaker + 2], by_hand.expand(2))
    with pytest.raises(InputError, match="copies=5 in a batch of 4"):
        SelfConsistency(prior, arcface, ConsistencySettings(mode, copies=5))(identity, faces, seeded(4))


@pytest.mark.parametrize("mode", ["paper", "cycle", "likeness"])
def test_crops_vary_and_nothing_else_does(mode, prior, arcface, faces, monkeypatch):
    """The points move by the share of the eyes' distance that was asked for, to all sides alike; noise and t stay."""
    spy, cut = Spy(prior, monkeypatch), []
    monkeypatch.setattr(
        strategies, "align_batch", lambda images, points: cut.append(points) or align_batch(images, points)
    )
    for jitter in (0.0, 0.1):
        critic = SelfConsistency(prior, arcface, ConsistencySettings(mode, crop_jitter=jitter))
        for seed in range(25):
            critic(unit(BATCH, 3), faces, seeded(seed))
    (still, moved), calls = torch.stack(cut).unflatten(0, (2, 25)), len(spy.noised) // 2
    torch.testing.assert_close(still, faces.landmarks.expand_as(still))
    eyes = (faces.landmarks[:, 0] - faces.landmarks[:, 1]).norm(dim=1)
    off = (moved - still) / eyes[:, None, None]
    assert abs(float(off.mean())) < 0.01  # of 1,000: three standard errors
    assert abs(float(off.std()) - 0.1) < 0.01
    for before, after in zip(spy.noised[:calls], spy.noised[calls:], strict=True):
        torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["cycle", "likeness"])
def test_among_rivals_a_face_is_told_from_what_others_of_the_sex_were_asked_for(mode, prior, arcface, faces):
    """By hand from what f_arc recognised; rows 0 and 2 are women, 1 and 3 men. Only the face has a gradient."""
    wake(prior)
    identity = unit(BATCH, 3).requires_grad_()
    settings = ConsistencySettings(mode, z_t_from="generated", generated_steps=1, rival_temperature=0.1)
    women = torch.tensor([True, False, True, False])
    mixed = FaceBatch(faces.latents, faces.landmarks, faces.z_arc, women)
    terms = SelfConsistency(prior, arcface, settings)(identity, mixed, seeded(4))
    terms.loss.backward()
    target = identity.detach() if mode == "cycle" else faces.z_arc
    for i in range(BATCH):
        own, rival = (float(terms.z_self[i] @ target[j]) / 0.1 for j in (i, (i + 2) % BATCH))
        assert float(terms.each[i]) == pytest.approx(math.log1p(math.exp(rival - own)), rel=1e-3, abs=1e-5)
    by_cosine = ConsistencySettings(mode, z_t_from="generated", generated_steps=1)
    alone = SelfConsistency(prior, arcface, by_cosine)(identity.detach(), mixed, seeded(4))
    torch.testing.assert_close(alone.z_self, terms.z_self)  # the same faces, otherwise judged
    assert identity.grad.norm() > 0


@pytest.mark.parametrize("mode", CHOICES["mode"])
def test_the_anchor_is_what_the_adapters_changed(mode, prior, arcface, faces, monkeypatch):
    identity = unit(BATCH, 3)

    def each(anchor):
        return SelfConsistency(prior, arcface, ConsistencySettings(mode, anchor=anchor))(
            identity, faces, seeded(4)
        ).each

    assert torch.equal(each(0.0), each(3.0))  # B = 0: nothing is changed
    wake(prior)
    spy = Spy(prior, monkeypatch)
    plain = each(0.0)
    z_0, noise, t = spy.noised[0]
    with torch.no_grad():
        z_t = prior.add_noise(z_0, noise, t)
        said = prior.predict(z_t, t, prior.condition(identity))
        with without_lora(prior):
            changed = mean_square(said - prior.predict(z_t, t, prior.condition(identity)))
    assert changed.min() > 1e-6
    torch.testing.assert_close(each(3.0), plain + 3 * changed, atol=1e-6, rtol=1e-4)


def test_the_control_never_hears_a_voice(prior, arcface, faces):
    """LoRA trained with the true c*: whatever ẑ is, the loss is that of z_arc."""
    wake(prior)
    settings = {"mode": "cycle", "z_t_from": "generated", "generated_steps": 1, "trains": "lora"}
    control = SelfConsistency(prior, arcface, ConsistencySettings(**settings, identity_from="true"))
    plain = SelfConsistency(prior, arcface, ConsistencySettings(**settings))
    assert torch.equal(control(unit(BATCH, 3), faces, seeded()).each, plain(faces.z_arc, faces, seeded()).each)
    assert not torch.equal(control(unit(BATCH, 3), faces, seeded()).each, plain(unit(BATCH, 3), faces, seeded()).each)


def test_the_teacher_has_nothing_to_say_where_the_prediction_is_the_truth(prior, arcface, faces):
    critic = SelfConsistency(prior, arcface, ConsistencySettings("teacher"))
    assert critic(faces.z_arc, faces, seeded()).loss == 0
    assert critic(unit(BATCH, 3), faces, seeded()).loss > 0
    wake(prior)
    assert critic(faces.z_arc, faces, seeded()).loss > 0
    same_network = SelfConsistency(prior, arcface, ConsistencySettings("teacher", lora_in_target=True))
    assert same_network(faces.z_arc, faces, seeded()).loss == 0


def test_x0_is_found_in_any_number_of_steps_by_one_who_knows_it(prior, monkeypatch):
    """If all data is one point x, the exact noise is (z_t − √ᾱ x) / √(1 − ᾱ)."""
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([300, 900])

    def exact(z_t, t, c):
        a = prior.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (z_t - a.sqrt() * x) / (1 - a).sqrt()

    monkeypatch.setattr(prior, "predict", exact)
    z_t = prior.add_noise(x, torch.randn(2, 4, 4, 4), t)
    for steps in (1, 2, 5):
        found = estimate_x0(prior, z_t, t, exact(z_t, t, None), prior.null(2), steps)
        torch.testing.assert_close(found, x, atol=1e-2, rtol=1e-3)


def test_x0_in_three_steps_by_hand(prior, faces):
    """DDIM from t over 2t/3 and t/3 to 0: each time noised again with what the UNet has just said."""
    c, t = prior.condition(unit(BATCH, 3)), torch.tensor([30, 300, 600, 900])
    z_t = prior.add_noise(faces.latents, torch.randn(faces.latents.shape, generator=seeded(4)), t)
    with torch.no_grad():
        found = estimate_x0(prior, z_t, t, prior.predict(z_t, t, c), c, 3)
        for i, start in enumerate(t.tolist()):
            z = z_t[i : i + 1]
            for now, later in ((start, 2 * start // 3), (2 * start // 3, start // 3), (start // 3, None)):
                a, said = prior.alphas_cumprod[now], prior.unet(z, now, c[i : i + 1]).sample
                x0 = (z - (1 - a).sqrt() * said) / a.sqrt()
                if later is not None:
                    a = prior.alphas_cumprod[later]
                    z = a.sqrt() * x0 + (1 - a).sqrt() * said
            torch.testing.assert_close(found[i : i + 1], x0, atol=1e-4, rtol=1e-4)


# --- gradients


def gradients(prior, arcface, faces, settings):
    for parameter in prior.parameters():
        parameter.grad = None
    identity = unit(BATCH, 3).requires_grad_()
    loss = SelfConsistency(prior, arcface, settings)(identity, faces, seeded(4)).loss
    if loss.requires_grad:
        loss.backward()
    reached = {
        f"{part} {matrix}"
        for part in ("unet", "text_encoder")
        for matrix in "AB"
        if any(
            p.grad is not None and bool(p.grad.abs().sum() > 0)
            for name, p in lora_parameters(getattr(prior, part)).items()
            if f"lora_{matrix}" in name
        )
    }
    return reached | ({"identity"} if identity.grad is not None and identity.grad.abs().sum() > 0 else set())


PSI = {"unet A", "unet B", "text_encoder A", "text_encoder B"}


@pytest.mark.parametrize(
    ("mode", "detach"),
    [(mode, "branch") for mode in CHOICES["mode"]] + [("paper", "condition"), ("paper", "nothing")],
)
def test_gradient_reaches_what_is_trained_and_nothing_else(mode, detach, prior, arcface, faces):
    expected = {"both": PSI | {"identity"}, "aligner": {"identity"}, "lora": PSI}
    for trains, parts in expected.items():
        settings = ConsistencySettings(mode, detach=detach, trains=trains)
        with torch.no_grad():
            for name, parameter in lora_parameters(prior).items():
                if "lora_B" in name:
                    parameter.zero_()
        at_zero = gradients(prior, arcface, faces, settings)
        assert at_zero == {part for part in parts if not part.endswith("A")}, trains  # B = 0 hides A
        wake(prior)
        assert gradients(prior, arcface, faces, settings) == parts, trains
        assert all(p.grad is None for name, p in prior.named_parameters() if "lora_" not in name)
    assert list(arcface.parameters()) == []
    assert not any(buffer.requires_grad for buffer in arcface.buffers())


def test_negatives_are_constants_for_lora_and_not_for_the_identity(prior, arcface, faces, monkeypatch):
    wake(prior)
    spy, identity = Spy(prior, monkeypatch), unit(BATCH, 3).requires_grad_()
    settings = ConsistencySettings("contrast", negatives=3, temperature=0.05)
    SelfConsistency(prior, arcface, settings)(identity, faces, seeded(4)).loss.backward()
    z_0, noise, t = spy.noised[0]

    def by_hand(constant_negatives, z):
        z_t, rows = prior.add_noise(z_0, noise, t), []
        for i, others in enumerate([[1, 3], [0, 3], [], [0, 1]]):
            residuals = []
            for j in (i, *others, None):
                c = prior.null(1) if j is None else prior.condition(z[j : j + 1])
                r = (prior.predict(z_t[i : i + 1], t[i : i + 1], c) - noise[i]).square().mean()
                residuals.append(r.detach() if constant_negatives and j != i else r)
            rows.append(-torch.log_softmax(-torch.stack(residuals) / 0.05, 0)[0])
        return torch.stack(rows).mean()

    parameters = list(lora_parameters(prior).values())
    expected = torch.autograd.grad(by_hand(True, identity.detach()), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-2)
    z = identity.detach().requires_grad_()
    torch.testing.assert_close(identity.grad, torch.autograd.grad(by_hand(False, z), z)[0], atol=1e-5, rtol=1e-2)


def test_autocast_does_not_lose_the_adapters_gradient_after_a_pass_without(prior, arcface, faces):
    """torch keeps casts of weights; one made without gradient must not be used where there should be one."""
    wake(prior)
    with torch.autocast("cpu", torch.bfloat16):
        for settings in (ConsistencySettings(z_t_from="generated", generated_steps=1), ConsistencySettings("teacher")):
            assert gradients(prior, arcface, faces, settings) == PSI | {"identity"}


def test_under_autocast_predictions_are_subtracted_in_float32(prior, arcface, faces, monkeypatch):
    """Each has three digits; their difference would have hardly one left, and its square none."""
    wake(prior)
    said, predict = [], prior.predict
    monkeypatch.setattr(prior, "predict", lambda *given: said.append(predict(*given)) or said[-1])
    with torch.autocast("cpu", torch.bfloat16):
        terms = SelfConsistency(prior, arcface, ConsistencySettings("teacher"))(unit(BATCH, 3), faces, seeded())
    assert {noise.dtype for noise in said} == {torch.bfloat16}
    expected = mean_square(said[0].double() - said[1].double())
    torch.testing.assert_close(terms.each.double(), expected.detach(), atol=0, rtol=1e-5)


class Toy(Prior):
    """A prior of two layers in float64; what it answers without gradient can be recorded and played back."""

    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("alphas_cumprod", torch.linspace(0.95, 0.2, 20))
        self.words, self.first, self.second = nn.Linear(512, 6), nn.Linear(23, 12), nn.Linear(12, 16)
        self.picture = nn.Linear(16, 192)
        self.tape, self.playing = [], None

    def _constant(self, value):
        if torch.is_grad_enabled():
            return value
        if self.playing is not None:
            return next(self.playing)
        self.tape.append(value)
        return value

    def condition(self, identity):
        return self._constant(4 * self.words(identity)[:, None])

    def null(self, batch):
        return torch.zeros(batch, 1, 6, dtype=torch.float64)

    def predict(self, z_t, t, c):
        seen = torch.cat([z_t.flatten(1), c[:, 0], t[:, None] / 20], dim=1)
        return self._constant(self.second(torch.tanh(self.first(seen))).view(-1, 4, 2, 2))

    def decode(self, latents):
        return torch.tanh(self.picture(latents.flatten(1))).view(-1, 3, 8, 8)


class ToyArcFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(48, 512)

    def forward(self, crops):
        return F.normalize(self.net(F.adaptive_avg_pool2d(crops, 4).flatten(1)), dim=1)


@pytest.fixture(scope="module")
def toys():
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        toy, arcface = Toy(), ToyArcFace().double().requires_grad_(False)
        toy.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=["second"]), toy)
        toy.double()
        for parameter in lora_parameters(toy).values():
            nn.init.normal_(parameter, std=0.5)
    faces = FaceBatch(
        torch.randn(BATCH, 4, 2, 2, generator=seeded(1)).double(),
        torch.from_numpy(TEMPLATE * 8 / 112).repeat(BATCH, 1, 1),
        normalise(torch.randn(BATCH, 512, generator=seeded(2)).double()),
        torch.tensor([True, True, True, False]),
    )
    return toy, arcface, faces


@pytest.mark.parametrize(
    "choice",
    [
        {"mode": "paper"},
        {"mode": "paper", "lora_in_target": False, "x0_steps": 2},
        {"mode": "paper", "detach": "condition"},
        {"mode": "paper", "detach": "nothing", "x0_steps": 2},
        {"mode": "paper", "z_t_from": "other", "weight": "min_snr"},
        {"mode": "denoise", "weight": "quadratic", "condition_dropout": 0.4},
        {"mode": "teacher", "weight": "one_minus_alpha", "condition_dropout": 0.4},
        {"mode": "contrast", "trains": "aligner", "temperature": 0.3, "negatives": 2},
        {"mode": "likeness", "x0_steps": 2},
    ],
    ids=str,
)
def test_gradients_agree_with_finite_differences(choice, toys):
    toy, arcface, faces = toys
    critic = SelfConsistency(toy, arcface, ConsistencySettings(**choice, t_min=0, t_max=19))
    raw = torch.randn(BATCH, 512, generator=seeded(3)).double().requires_grad_()
    parameters = [raw, *(p for p in lora_parameters(toy).values() if p.requires_grad)]
    toy.tape, toy.playing = [], None
    gradient = torch.autograd.grad(critic(normalise(raw), faces, seeded(4)).loss, parameters)
    g = seeded(5)
    directions = [torch.randn(p.shape, generator=g).double() for p in parameters]

    def loss_at(step):
        toy.playing = iter(toy.tape)  # what is detached stays as it was
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(step * d)
        value = critic(normalise(raw), faces, seeded(4)).loss.item()
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(step * d)
        return value

    numeric = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    analytic = sum((a * d).sum().item() for a, d in zip(gradient, directions, strict=True))
    assert abs(analytic) > 1e-6
    assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-9)


# --- what it costs, and where z_t comes from


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"x0_steps": 3},
        {"detach": "condition"},
        {"detach": "condition", "lora_in_target": False},
        {"detach": "condition", "trains": "aligner"},
        {"detach": "nothing", "x0_steps": 2},
        {"z_t_from": "generated", "generated_steps": 4},
        {"mode": "denoise"},
        {"mode": "teacher", "z_t_from": "other"},
        {"mode": "contrast", "negatives": 2},
        {"mode": "contrast", "negatives": 2, "trains": "lora"},
        {"mode": "cycle", "x0_steps": 2},
        {"mode": "cycle", "z_t_from": "generated", "generated_steps": 3},
        {"anchor": 1.0},
        {"mode": "teacher", "anchor": 1.0},
    ],
    ids=str,
)
def test_the_unet_is_passed_as_often_as_the_settings_say(choice, prior, arcface, faces, monkeypatch):
    settings, spy = ConsistencySettings(**choice), Spy(prior, monkeypatch)
    SelfConsistency(prior, arcface, settings)(unit(BATCH, 3).requires_grad_(), faces, seeded())
    graded = sum(rows for rows, gradient in spy.calls if gradient)
    assert (graded / BATCH, sum(rows for rows, _ in spy.calls) / BATCH - graded / BATCH) == settings.unet_passes()


def test_another_persons_face_brings_its_own_landmarks(prior, arcface, faces):
    settings = ConsistencySettings(z_t_from="other", t_min=0, t_max=0)
    terms = SelfConsistency(prior, arcface, settings)(unit(BATCH, 3), faces, seeded())
    own = arcface(align_batch(prior.decode(faces.latents), faces.landmarks))
    # at t = 0 there is hardly any noise: what is recognised is the other's face
    cosines = terms.z_self @ own.T
    assert cosines.argmax(1).tolist() == [3, 0, 1, 2]
    one = FaceBatch(faces.latents[:1], faces.landmarks[:1], faces.z_arc[:1], faces.women[:1])
    with pytest.raises(InputError, match="batch of one"):
        SelfConsistency(prior, arcface, settings)(unit(1, 3), one, seeded())


def test_another_persons_face_is_never_an_own_copy(prior, arcface, faces, monkeypatch):
    spy = Spy(prior, monkeypatch)
    settings = ConsistencySettings("likeness", z_t_from="other", copies=2)
    SelfConsistency(prior, arcface, settings)(unit(BATCH, 3), faces, seeded())
    assert torch.equal(spy.noised[0][0], faces.latents[[1, 1, 0, 0]])
    with pytest.raises(InputError, match="batch of one"):
        SelfConsistency(prior, arcface, settings)(unit(2, 3), faces[:2], seeded())


def test_a_generated_face_never_sees_the_real_one(prior, arcface, faces):
    settings = ConsistencySettings(z_t_from="generated", generated_steps=1)
    critic = SelfConsistency(prior, arcface, settings)
    others = FaceBatch(faces.latents + 1, faces.landmarks, faces.z_arc, faces.women)
    assert critic(unit(BATCH, 3), faces, seeded()).loss == critic(unit(BATCH, 3), others, seeded()).loss


def test_dropped_conditions_are_null_in_both_branches(prior, arcface, faces, monkeypatch):
    spy = Spy(prior, monkeypatch)
    settings = ConsistencySettings("teacher", condition_dropout=0.5)
    critic = SelfConsistency(prior, arcface, settings)
    dropped, rounds = 0, 8
    for seed in range(rounds):
        terms = critic(unit(BATCH, 3), faces, seeded(seed))
        student, target = (tokens.sub(prior.null(1)).abs().amax((1, 2)) < 1e-6 for tokens in spy.tokens[-2:])
        assert torch.equal(student, target)
        assert torch.equal(student, terms.each == 0)  # B = 0: the same network under the same condition
        dropped += int(student.sum())
    assert 0.25 < dropped / (rounds * BATCH) < 0.75


def test_negatives_are_others_of_the_same_sex_none_twice():
    women = torch.rand(20, generator=seeded()) < 0.3
    for seed in range(5):
        who, there = draw_negatives(women, 6, seeded(seed))
        for i in range(20):
            chosen = who[i][there[i]].tolist()
            assert len(set(chosen)) == len(chosen) == min(6, int((women == women[i]).sum()) - 1)
            assert i not in chosen
            assert all(women[j] == women[i] for j in chosen)
    assert not torch.equal(draw_negatives(women, 6, seeded(0))[0], draw_negatives(women, 6, seeded(1))[0])
    assert draw_negatives(women[:2], 6, seeded())[0].shape == (2, 6)


# --- timesteps


def test_weights_by_hand(prior):
    a = prior.alphas_cumprod.double()
    t = torch.tensor([0, 1, 250, 700, 999])
    for i, step in enumerate(t.tolist()):
        snr = a[step] / (1 - a[step])
        expected = {
            "uniform": 1.0,
            "one_minus_alpha": 1 - a[step],
            "min_snr": min(float(snr), 5.0) / snr,
            "quadratic": (1 - step / 1000) ** 2,
        }
        assert expected.keys() == WEIGHTS.keys()
        for name, value in expected.items():
            assert float(timestep_weight(name, t, prior.alphas_cumprod)[i]) == pytest.approx(float(value), rel=2e-3)
    with pytest.raises(InputError, match="'cubic': no such"):
        timestep_weight("cubic", t, prior.alphas_cumprod)


def test_timesteps_fill_their_range_and_bands_cover_it():
    drawn = draw_timesteps(4000, 3, 9, seeded())
    assert sorted(set(drawn.tolist())) == list(range(3, 10))
    assert torch.bincount(drawn)[3:].min() > 4000 / 7 * 0.8
    parts = bands(20, 979, 7)
    assert [t for low, high in parts for t in range(low, high + 1)] == list(range(20, 980))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mode": "magic"}, "mode='magic'"),
        ({"weight": "cubic"}, "weight='cubic'"),
        ({"x0_steps": 0}, "x0_steps=0"),
        ({"t_min": 9, "t_max": 8}, "t_min=9"),
        ({"condition_dropout": 1.0}, "condition_dropout=1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"copies": 0}, "copies=0"),
        ({"mode": "contrast", "z_t_from": "other"}, "give z_t_from='real'"),
        ({"mode": "contrast", "condition_dropout": 0.1}, "null is a negative"),
        ({"mode": "contrast", "copies": 2}, "own would be negatives"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"anchor": float("nan")}, "anchor=nan"),
        ({"mode": "cycle", "condition_dropout": 0.1}, "nobody was asked for"),
        ({"identity_from": "true"}, "z_arc tells φ nothing"),
        ({"anchor": -1.0}, "anchor=-1.0"),
        ({"crop_jitter": -0.1}, "crop_jitter=-0.1"),
        ({"mode": "teacher", "crop_jitter": 0.1}, "f_arc sees no face there"),
        ({"rival_temperature": -1.0}, "rival_temperature=-1.0"),
        ({"mode": "paper", "rival_temperature": 0.1}, "no face is recognised as anybody"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, named):
    with pytest.raises(InputError, match=named.replace("(", r"\(")):
        ConsistencySettings(**wrong)


def test_timesteps_that_the_prior_does_not_have_are_refused(prior, arcface):
    with pytest.raises(InputError, match="end at 999"):
        SelfConsistency(prior, arcface, ConsistencySettings(t_max=1000))


# --- collapse


def monitor(prior, arcface, identity, faces):
    rows = collapse_monitors(prior, arcface, identity, faces, [(0, 499), (500, 999)], seeded(7))
    assert [(row["t_min"], row["t_max"]) for row in rows] == [(0, 499), (500, 999)]
    return rows


def go_deaf(prior):
    """LoRA that takes away all that cross-attention brings: B·A = −W for the value projection."""
    with torch.no_grad():
        for name, layer in prior.unet.named_modules():
            if name.endswith("attn2.to_v"):
                layer.lora_B["default"].weight.copy_(torch.eye(8))
                layer.lora_A["default"].weight.copy_(-layer.base_layer.weight)


def test_at_the_start_the_monitors_read_one_and_nothing_is_lost(prior, arcface, faces):
    for row in monitor(prior, arcface, faces.z_arc, faces):
        assert row["s_net"] == row["s_id"] == 1
        assert row["delta"] == 0
        assert row["residual"] == row["residual_true"]
        assert row["cos_self_true"] == pytest.approx(row["cos_self_predicted"], abs=1e-6)
        assert row["pairwise_predicted"] == row["pairwise_true"]


def test_a_deaf_unet_is_caught_by_s_net_though_the_papers_loss_is_perfect(prior, arcface, faces):
    go_deaf(prior)
    paper = SelfConsistency(prior, arcface, ConsistencySettings())
    assert paper(unit(BATCH, 3), faces, seeded()).loss < 1e-12  # the trivial optimum
    for row in monitor(prior, arcface, faces.z_arc, faces):
        assert row["s_net"] < 1e-3
        assert row["s_id"] == 1
        assert row["residual_null"] == pytest.approx(row["residual"], rel=1e-4)


def test_a_collapsed_identity_is_caught_by_s_id_and_by_the_spread(prior, arcface, faces):
    same = unit(1, 3).expand(BATCH, -1)
    for row in monitor(prior, arcface, same, faces):
        assert row["s_id"] < 1e-3
        assert row["s_net"] == 1
        assert row["pairwise_predicted"] == pytest.approx(1, abs=1e-5)
        assert abs(row["pairwise_true"]) < 0.3


def test_every_monitor_by_hand(prior, arcface, faces, monkeypatch):
    """With adapters awake in both nets, where no two of the quantities are alike."""
    wake(prior)
    spy, identity = Spy(prior, monkeypatch), unit(BATCH, 3)
    row = monitor(prior, arcface, identity, faces)[1]
    assert len(spy.calls) == 2 * 10
    (z_0, noise, t), (other, same_noise, same_t) = spy.noised[2:]
    assert torch.equal(z_0, faces.latents)
    assert torch.equal(noise, same_noise)
    assert torch.equal(t, same_t)
    assert ((t >= 500) & (t <= 999)).all()
    before = [3, 0, 1, 2]
    assert torch.equal(other, faces.latents[before])

    def say(z, latents=z_0, adapters=True):
        with nullcontext() if adapters else without_lora(prior):
            c = prior.null(BATCH) if z is None else prior.condition(z)
            return prior.predict(prior.add_noise(latents, noise, t), t, c)

    def length(x):
        return x.square().mean().sqrt()

    def seen(latents, rows):
        x0 = prior.one_step_x0(prior.add_noise(latents, noise, t), t, say(identity, latents))
        return arcface(align_batch(prior.decode(x0), faces.landmarks[rows]))

    def spread(z):
        pairs = [float(z[i] @ z[j]) for i in range(BATCH) for j in range(i)]
        return sum(pairs) / len(pairs)

    true, mean = faces.z_arc, normalise(faces.z_arc.mean(0)).expand(BATCH, -1)
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
            "cos_self_true": F.cosine_similarity(seen(z_0, slice(None)), true).mean(),
            "cos_self_predicted": F.cosine_similarity(seen(z_0, slice(None)), identity).mean(),
            "cos_self_true_other": F.cosine_similarity(seen(other, before), true).mean(),
            "pairwise_predicted": spread(identity),
            "pairwise_true": spread(true),
        }
    assert row.keys() == expected.keys() | {"t_min", "t_max"}
    for name, value in expected.items():
        assert row[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_identity_leaks_through_z_t_at_low_noise_only(prior, arcface, faces):
    """With the true face in z_t, what is recognised is that face; with another's, it is the other's."""
    own = arcface(align_batch(prior.decode(faces.latents), faces.landmarks))
    known = FaceBatch(faces.latents, faces.landmarks, own, faces.women)
    low = collapse_monitors(prior, arcface, unit(BATCH, 3), known, [(0, 0)], seeded())[0]
    assert low["cos_self_true"] > 0.9
    assert low["cos_self_true_other"] < low["cos_self_true"] - 0.1


def test_monitors_need_two_persons(prior, arcface, faces):
    one = FaceBatch(faces.latents[:1], faces.landmarks[:1], faces.z_arc[:1], faces.women[:1])
    with pytest.raises(InputError, match="at least 2"):
        collapse_monitors(prior, arcface, unit(1, 3), one, [(0, 9)], seeded())
