"""p(z | v): its density, its draws and its ratio against closed forms, in few dimensions."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import multivariate_normal

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import TENSORS, IdentityPosterior, projected_normal_log_prob, weights_hash
from v2f_core.identity.sphere import angle, normalise

PARTS = 2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def aligner():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Aligner(speaker_width=4, hidden_width=8, identity_width=3).eval()


def build(aligner, kappa=2.0, gate=(3.0, -1.0, 0.5, 0.2), basis=None, seed=0, spread=0.4):
    """A posterior of three dimensions whose numbers mean nothing."""
    g = seeded(seed)
    return IdentityPosterior(
        aligner,
        torch.eye(3) if basis is None else basis,
        face_mean=0.5 * torch.randn(2, PARTS, 3, generator=g),
        part=torch.log_softmax(torch.randn(2, PARTS, generator=g), dim=1),
        heard_mean=0.3 * torch.randn(2, 3, generator=g),
        between=spread * torch.randn(2, 3, 3, generator=g),
        within=spread * torch.randn(3, 2, generator=g),
        gate=torch.tensor(gate),
        floor=1e-3,
        kappa=kappa,
        share=(0.4, 0.6),
    )


def voices(n, seed=1):
    return torch.randn(n, 4, generator=seeded(seed))


def on_the_sphere(n):
    """Points and the surface that each stands for: a product rule over latitude and longitude."""
    height, weight = np.polynomial.legendre.leggauss(n)
    turn = (np.arange(2 * n) + 0.5) * np.pi / n
    ring = np.sqrt(1 - height**2)[:, None]
    points = np.stack([ring * np.cos(turn), ring * np.sin(turn), np.broadcast_to(height[:, None], (n, 2 * n))], axis=-1)
    return torch.from_numpy(points.reshape(-1, 3)).float(), np.repeat(weight * np.pi / n, 2 * n)


# the projected normal


def test_the_radial_integral_is_the_numerical_one():
    rng = np.random.default_rng(0)
    for dim in (2, 3, 10, 100):
        root = np.linalg.cholesky(np.cov(rng.standard_normal((dim, 3 * dim))) + 0.05 * np.eye(dim))
        mean, u = rng.standard_normal(dim), rng.standard_normal(dim)
        u /= np.linalg.norm(u)
        covariance = root @ root.T
        radius = np.linspace(1e-6, 60, 400_001)
        precision, along = u @ np.linalg.solve(covariance, u), mean @ np.linalg.solve(covariance, u)
        exponent = (dim - 1) * np.log(radius) - 0.5 * precision * radius**2 + along * radius
        top = exponent.max()
        integral = np.log(np.trapezoid(np.exp(exponent - top), radius)) + top
        expected = multivariate_normal(mean, covariance).logpdf(np.zeros(dim)) + integral
        found = projected_normal_log_prob(*(torch.from_numpy(x) for x in (u[None], mean[None], root))).item()
        assert found == pytest.approx(expected, abs=1e-4), dim


def test_densities_sum_to_one_and_the_ratio_is_theirs(aligner):
    points, surface = on_the_sphere(40)
    posterior, v = build(aligner), voices(2)
    given_voice, before = posterior.log_prob(points, v), posterior.log_prior(points)
    for density in (given_voice, before):
        np.testing.assert_allclose(density.double().exp().numpy() @ surface, 1, atol=2e-4)
    torch.testing.assert_close(posterior.log_ratio(points, v), given_voice - before)


def test_what_is_heard_tilts_the_faces_of_a_sex(aligner):
    """Before projection, log p(x | s, v) − log p(x | s) is κ·aᵀx and a number of the voice's alone, at any x."""
    posterior, v = build(aligner, kappa=1.5), voices(1)
    means, log_share = posterior.heard(posterior.mean(v))
    estimate, x = posterior.mean(v)[0].double().numpy(), np.random.default_rng(0).standard_normal((6, 3))
    for s in (0, 1):
        b, w = posterior.between[s].numpy(), posterior.within.numpy()
        covariance = b @ b.T + w @ w.T + 1e-3 * np.eye(3)

        def log_mixture(shares, centres, spread=covariance):
            return np.log(sum(p * multivariate_normal(m, spread).pdf(x) for p, m in zip(shares, centres, strict=True)))

        before = log_mixture(posterior.part[s].exp().numpy(), posterior.face_mean[s].numpy())
        after = log_mixture(torch.softmax(log_share[0, s], dim=0).numpy(), means[0, s].numpy())
        a = 1.5 * (estimate - posterior.heard_mean[s].numpy())
        np.testing.assert_allclose(np.ptp(after - before - x @ a), 0, atol=1e-5)


def test_nothing_depends_on_how_the_space_is_turned(aligner):
    """The same posterior in turned coordinates, with an aligner turned alike: same densities, turned draws."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded(5)))[0]
    turned = Aligner(speaker_width=4, hidden_width=8, identity_width=3).eval()
    state = {name: value.clone() for name, value in aligner.state_dict().items()}
    state["net.8.weight"], state["net.8.bias"] = turn @ state["net.8.weight"], turn @ state["net.8.bias"]
    turned.load_state_dict(state)
    plain, other = build(aligner), build(turned, basis=turn)
    points, _ = on_the_sphere(6)
    torch.testing.assert_close(
        plain.log_ratio(points, voices(3)), other.log_ratio(normalise(points @ turn.T), voices(3)), atol=1e-4, rtol=0
    )
    drawn = plain.sample(voices(3), 4, generator=seeded())
    torch.testing.assert_close(other.sample(voices(3), 4, generator=seeded()), drawn @ turn.T, atol=1e-5, rtol=0)


# draws


def test_draws_have_the_density_that_is_stated(aligner):
    """Shares of 40,000 draws in eight octants against the integral of the density over them."""
    posterior, v = build(aligner), voices(1)
    drawn = posterior.sample(v[0], 40_000, generator=seeded())
    points, surface = on_the_sphere(50)

    def octant(z):
        return ((z > 0).long() @ torch.tensor([4, 2, 1])).numpy()

    mass = posterior.log_prob(points, v)[0].double().exp().numpy() * surface
    expected = np.bincount(octant(points), mass, minlength=8)
    found = np.bincount(octant(drawn), minlength=8) / 40_000
    assert np.abs(found - expected).max() < 5 * 0.5 / np.sqrt(40_000)  # five standard errors of a share


def test_far_from_the_origin_the_sphere_is_flat_and_draws_have_the_covariance(aligner):
    """The tangent part of x/‖x‖ is that of x over its length."""
    posterior = build(aligner, kappa=0.0, gate=(0.0, 0.0, 0.0, -30.0), spread=0.02)  # a woman, surely heard
    posterior.face_mean[:] = torch.tensor([2.0, 0.0, 0.0])
    drawn = posterior.sample(voices(1)[0], 50_000, generator=seeded()).double()
    torch.testing.assert_close(torch.cov(drawn[:, 1:].T), posterior.covariance[0, 1:, 1:] / 4, atol=0, rtol=0.05)


def test_the_sex_that_is_heard_is_drawn(aligner):
    sure = build(aligner, gate=(0.0, 0.0, 0.0, 1.2), spread=0.01)
    drawn = sure.sample(voices(1)[0], 20_000, generator=seeded())
    means, log_share = sure.heard(sure.mean(voices(1)))
    nearest = (drawn @ normalise(means[0].flatten(0, 1)).T.float()).argmax(dim=1)
    man = 1 / (1 + math.exp(-1.2))
    assert float((nearest >= PARTS).float().mean()) == pytest.approx(man, abs=0.02)
    shares = torch.bincount(nearest, minlength=2 * PARTS) / len(drawn)
    torch.testing.assert_close(shares.double(), log_share[0].exp().flatten(), atol=0.02, rtol=0)


def test_truncation_zero_is_the_point_estimate_and_takes_no_noise(aligner):
    posterior, g = build(aligner), seeded(3)
    drawn = posterior.sample(voices(2), 3, truncation=0, generator=g)
    assert torch.equal(drawn, posterior.mean(voices(2))[:, None].expand(-1, 3, -1))
    assert torch.equal(g.get_state(), seeded(3).get_state())


def test_truncation_is_the_share_of_the_way_to_the_draw(aligner):
    posterior, v = build(aligner), voices(1)[0]
    start = posterior.mean(v).expand(50, -1)
    whole, part = (angle(start, posterior.sample(v, 50, share, seeded())) for share in (1.0, 0.25))
    torch.testing.assert_close(part, 0.25 * whole, atol=1e-4, rtol=0)


def test_the_same_generator_gives_the_same_identities_and_each_can_be_drawn_alone(aligner):
    posterior, v = build(aligner), voices(2)
    assert torch.equal(posterior.sample(v, 3, generator=seeded()), posterior.sample(v, 3, generator=seeded()))
    assert not torch.equal(posterior.sample(v, 3, generator=seeded()), posterior.sample(v, 3, generator=seeded(1)))
    together = posterior.sample(v, 3, generator=[seeded(i) for i in range(3)])
    torch.testing.assert_close(posterior.sample(v, 1, generator=[seeded(2)])[:, 0], together[:, 2])


# files and bad input


def test_saved_and_loaded_it_is_the_same_and_of_other_parts_it_is_refused(aligner, tmp_path):
    posterior, made = build(aligner), {"ast_sha256": "a", "faces_sha256": "f"}
    posterior.save_pretrained(tmp_path, made)
    again = IdentityPosterior.from_pretrained(tmp_path, aligner, made)
    drawn = [each.sample(voices(2), 3, generator=seeded()) for each in (again, posterior)]
    assert torch.equal(*drawn)
    assert again.provenance["aligner_weights_sha256"] == weights_hash(aligner)
    with pytest.raises(InputError, match=r"other parts .*ast_sha256, faces_sha256 differ"):
        IdentityPosterior.from_pretrained(tmp_path, aligner, dict.fromkeys(made, "x"))
    with pytest.raises(InputError, match="aligner_weights_sha256 differ"):
        IdentityPosterior.from_pretrained(tmp_path, Aligner(4, 8, 3).eval(), made)
    tensors = load_file(tmp_path / "model.safetensors")
    none = {name: tensors[name][:, :0].contiguous() for name in ("face_mean", "part")}  # shows in a draw alone
    for damaged in (none, {"face_mean": tensors["face_mean"].flatten()}):
        save_file(tensors | damaged, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match="cannot be read as a posterior's folder"):
            IdentityPosterior.from_pretrained(tmp_path, aligner, made)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p: p.sample(voices(1)[0], 2, -0.1), r"expected 0 \(the point estimate\) to 1"),
        (lambda p: p.sample(voices(1)[0], 2, math.nan), r"expected 0 \(the point estimate\) to 1"),
        (lambda p: p.sample(torch.ones(5), 2), "speaker embedding of width 5"),
        (lambda p: p.sample(torch.full((4,), math.nan), 2), "NaN"),
        (lambda p: p.log_ratio(torch.eye(4), voices(1)), "identities of width 4: this posterior is of 3"),
        (lambda p: p.log_prob(2 * torch.eye(3), voices(1)), "norm 2"),
        (lambda p: p.log_ratio_of(torch.eye(3), 2 * torch.eye(3)), "norm 2"),
        (lambda p: IdentityPosterior(Aligner(4, 8, 5), *(getattr(p, name) for name in TENSORS)), "expected one net"),
        (lambda p: IdentityPosterior(p.aligner, *(getattr(p, name) for name in TENSORS), 0.0), "floor is not positive"),
    ],
)
def test_what_does_not_fit_is_refused(aligner, wrong, message):
    with pytest.raises(InputError, match=message):
        wrong(build(aligner, spread=0.0))
