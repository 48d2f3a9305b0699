"""The ceilings against worlds in which they can be written down, and the likelihood against brute force."""

import numpy as np
import pytest
from scipy.stats import norm

from minivox import ceilings, world
from minivox.gate import world_checks

RHO = 0.7


@pytest.fixture(scope="module")
def gaussian():
    """s ~ N(0, 1), u = ρ s + √(1-ρ²) e; the identity is the unit vector (cos 2s, sin 2s)."""
    g = np.random.default_rng(0)
    heard, pool = g.standard_normal(1500), g.standard_normal(6000)
    u = RHO * heard + np.sqrt(1 - RHO**2) * g.standard_normal(1500)
    return u, heard, pool


def log_p(u, s):
    return norm.logpdf(u[:, None], RHO * s[None], np.sqrt(1 - RHO**2))


def test_mean_and_sample_ceilings_in_a_gaussian_world(gaussian):
    """E[exp(2is) | u] = exp(2iρu) exp(-2(1-ρ²)), so both ceilings are known exactly."""
    u, _, pool = gaussian
    identity = np.stack([np.cos(2 * pool), np.sin(2 * pool)], 1)
    mean, sample = ceilings.mean_and_sample(log_p(u, pool), identity)
    exact = np.exp(-2 * (1 - RHO**2))
    assert mean.value == pytest.approx(exact, abs=0.03)
    assert sample.value == pytest.approx(exact**2, abs=0.03)


def test_unbiased_where_a_plain_squared_mean_is_not():
    """Voices that tell nothing: E[z | u] = 0, though any finite mean has a positive square."""
    g = np.random.default_rng(1)
    z = g.standard_normal((60, 16))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    silent = g.normal(scale=3.0, size=(4000, 60))
    plain = (ceilings.expected_identity(silent, z) ** 2).sum(1).mean()
    _, sample = ceilings.mean_and_sample(silent, z)
    assert plain > 0.1
    assert abs(sample.value) < 0.4 * plain


def test_matching_in_a_gaussian_world(gaussian):
    """P(|u - ρs₁| < |u - ρs₂|) = 1/2 + asin(ρ / √(2-ρ²)) / π, from the sign of a product of two Gaussians."""
    u, heard, _ = gaussian
    found = ceilings.matching(log_p(u, heard))
    assert found.value == pytest.approx(0.5 + np.arcsin(RHO / np.sqrt(2 - RHO**2)) / np.pi, abs=3 * found.error + 0.005)


def test_matching_and_recall_are_at_chance_for_noise_and_perfect_for_truth():
    g = np.random.default_rng(2)
    noise, groups = g.standard_normal((400, 400)), np.zeros(400, int)
    assert ceilings.matching(noise).value == pytest.approx(0.5, abs=0.03)
    assert ceilings.recall(noise, groups, 10, 100).value == pytest.approx(0.1, abs=0.05)
    assert ceilings.recall(np.eye(400), groups, 1, 100).value == 1.0
    assert ceilings.matching(np.zeros((5, 5))).value == 0.5  # all tied


def test_recall_stays_inside_the_group():
    """Everybody of the other group scores higher; within the group the truth wins."""
    groups = np.repeat([0, 1], 20)
    scores = np.where(groups[:, None] == groups, 0.0, 9.0) + np.eye(40)
    assert ceilings.recall(scores, groups, 1, 15).value == 1.0


def test_likelihood_against_a_brute_force_population():
    """Among simulated persons whose face shows nearly the same, voices are distributed as the likelihood says."""
    women = [world.person("brute", i, world.FEMALE) for i in range(0, 12_000, 2)]
    face = np.array([p.face for p in women])
    target = women[0]
    near = np.exp(-0.5 * (((face - np.array(target.face)) / [0.7, 0.7, 0.7, 0.7, 0.7, 6]) ** 2).sum(1))
    near[0] = 0
    voices = world.voice_z(np.array([p.voice for p in women]), np.full(len(women), world.FEMALE))
    kernel_mean = near @ voices / near.sum()
    grid = np.linspace(-4, 4, 33)
    for i in (1, 2):  # the tract and the roughness, the two that tell most
        shifted = []
        for z in grid:
            voice = kernel_mean.copy()
            voice[i] = z
            units = [world.VOICE_UNITS[world.FEMALE][t] for t in ("f0", "vtl")]
            raw = [m + s * v for (m, s), v in zip(units, voice, strict=False)] + voice[2:].tolist()
            shifted.append(target.__class__(**{**vars(target), "voice": world.VoiceTraits(*raw)}))
        p = np.exp(ceilings.log_likelihood(shifted, [target])[:, 0])
        assert (p / p.sum()) @ grid == pytest.approx(kernel_mean[i], abs=0.35)


def test_likelihood_integrates_to_one():
    """Importance sampling over all five voice traits: p(u | face) is a density."""
    target = world.person("mass", 0, world.FEMALE)
    g = np.random.default_rng(0)
    spread = np.array([3.0, 0.9, 2.0, 2.0, 2.0])
    centre = np.array([12.4, 14.6, 0, 0, 0])
    draws = centre + spread * g.standard_normal((6000, 5))
    proposal = norm.logpdf(draws, centre, spread).sum(1)
    people = [target.__class__(**{**vars(target), "voice": world.VoiceTraits(*d.tolist())}) for d in draws]
    mass = np.exp(ceilings.log_likelihood(people, [target])[:, 0] - proposal)
    assert mass.mean() == pytest.approx(1.0, abs=5 * mass.std() / np.sqrt(len(mass)))


@pytest.mark.slow
def test_the_gate_is_passed():
    checks = list(world_checks(persons=1000, pool="gate-test"))
    assert all(check.passed for check in checks), "\n".join(map(str, checks))
