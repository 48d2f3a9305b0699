"""The losses, recomputed with loops and compared with pytorch-metric-learning, and their behaviour at the edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.identity.losses import AMSoftmax, ArcFaceLoss, IdentityLoss, InfoNCE, cosine_regression
from v2f_core.identity.sphere import normalise

SCALE, MARGIN, TEMPERATURE = 16.0, 0.35, 0.1  # 0.35 has no exact bfloat16


def at_angles(*degrees):
    """Unit vectors in the plane."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def margin_loss_by_loops(loss, identity, label, weight):
    """Eq. 8 for AM-Softmax; for ArcFace the margin is added to the angle, up to π − m."""
    total, m = 0.0, loss.margin
    for z, y in zip(identity, label.tolist(), strict=True):
        cosines = [float(z @ w / (z.norm() * w.norm())) for w in weight]
        target = cosines[y] - m
        if isinstance(loss, ArcFaceLoss):
            theta = math.acos(cosines[y])
            target = math.cos(theta + m) if theta <= math.pi - m else cosines[y] - m * math.sin(m)
        others = sum(math.exp(loss.scale * c) for j, c in enumerate(cosines) if j != y)
        total -= math.log(math.exp(loss.scale * target) / (math.exp(loss.scale * target) + others))
    return total / len(identity)


# --- margin losses: AM-Softmax (Eq. 8) and ArcFace


@pytest.mark.parametrize("kind", [AMSoftmax, ArcFaceLoss])
@pytest.mark.parametrize("integer", [torch.uint8, torch.int16, torch.int64])
def test_a_margin_loss_equals_its_formula_written_with_loops(kind, integer):
    identity, weight = at_angles(0, 20, 100, 190, 181), at_angles(5, 95, 200)
    label = torch.tensor([0, 0, 1, 2, 0])  # the last is at 176°, beyond π − m
    loss = kind(3, 2, SCALE, MARGIN, centroids=weight)
    expected = margin_loss_by_loops(loss, identity, label, weight)
    assert loss(identity, label.to(integer)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "reference", "margin"),
    [(AMSoftmax, "CosFaceLoss", MARGIN), (ArcFaceLoss, "ArcFaceLoss", math.degrees(MARGIN))],
)
def test_value_and_gradients_are_those_of_pytorch_metric_learning(kind, reference, margin):
    from pytorch_metric_learning import losses

    ours = kind(7, 12, SCALE, MARGIN, generator=torch.Generator().manual_seed(0))
    theirs = getattr(losses, reference)(num_classes=7, embedding_size=12, margin=margin, scale=SCALE)
    theirs.W.data = ours.weight.data.T.clone()
    label = torch.tensor([0, 3, 6, 6, 2])
    start = draw(5, 12, seed=1)
    start[3] = 0.05 * start[3] - ours.weight.data[6]  # beyond π − m
    a, b = (start.clone().requires_grad_() for _ in range(2))
    values = [loss(z, label) for loss, z in ((ours, a), (theirs, b))]
    for value in values:
        value.backward()
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-5)
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.weight.grad, theirs.W.grad.T, atol=1e-5, rtol=0)


# --- InfoNCE, Eq. 9


def test_info_nce_equals_eq_9_written_with_loops():
    identity, face = at_angles(0, 30, 80, 100, 185), at_angles(10, 12, 95, 93, 170)
    label, expected = torch.tensor([0, 0, 1, 1, 2]), 0.0
    for i in range(5):
        score = [math.exp(float(identity[i] @ face[j]) / TEMPERATURE) for j in range(5)]
        others = sum(score[j] for j in range(5) if label[j] != label[i])
        expected -= math.log(score[i] / (score[i] + others)) / 5
    assert InfoNCE(TEMPERATURE)(identity, face, label).item() == pytest.approx(expected, abs=1e-12)
    assert InfoNCE()(identity[:1], face[:1], label[:1]) == 0  # one alone has no negative


# --- cosine regression and L_id, Eq. 10


def test_cosine_regression_is_one_minus_the_mean_cosine():
    identity, face = at_angles(0, 0, 0), at_angles(0, 60, 180)
    assert cosine_regression(identity, face).item() == pytest.approx(1 - (1 + 0.5 - 1) / 3)


def test_the_identity_loss_is_the_weighted_sum_of_its_terms():
    identity, face, label = draw(5, 8), draw(5, 8, seed=1), torch.arange(5)
    am, info = AMSoftmax(5, 8, SCALE, MARGIN), InfoNCE(TEMPERATURE)
    loss = IdentityLoss(am, info, weight_am=0.3, weight_info=0.5, weight_cosine=2.0)
    expected = 0.3 * am(identity, label) + 0.5 * info(identity, face, label) + 2 * cosine_regression(identity, face)
    assert loss(identity, face, label).total.item() == pytest.approx(expected.item(), abs=1e-6)


# --- all of them


ALL = {  # of margin losses the faces are the class vectors
    "am_softmax": lambda z, f, y: AMSoftmax(len(f), z.shape[1], SCALE, MARGIN, centroids=f)(z, y),
    "arcface": lambda z, f, y: ArcFaceLoss(len(f), z.shape[1], SCALE, MARGIN, centroids=f)(z, y),
    "info_nce": lambda z, f, y: InfoNCE(TEMPERATURE)(z, f, y),
    "cosine": lambda z, f, y: cosine_regression(z, f),
}
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())


@every_loss
@given(seed=st.integers(0, 10_000))
def test_rotation_order_and_lengths_change_nothing(loss, seed):
    identity, face = draw(4, 6, seed=seed, dtype=torch.float64), draw(4, 6, seed=seed + 1, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3])
    rotation = torch.linalg.qr(draw(6, 6, seed=seed + 2, dtype=torch.float64)).Q
    before = loss(identity, face, label).item()
    assert loss(identity @ rotation, face @ rotation, label).item() == pytest.approx(before, abs=1e-9)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    assert loss(identity[order], face[order], label).item() == pytest.approx(before, abs=1e-9)
    assert loss(3 * identity, 0.1 * face, label).item() == pytest.approx(before, abs=1e-9)


@every_loss
@pytest.mark.parametrize(("batch", "sign"), [(4, 1), (4, -1), (1, 1)])
def test_value_and_gradient_are_finite_at_cosine_1_and_minus_1_and_for_one_row(loss, batch, sign):
    face = normalise(draw(batch, 512))
    identity = (sign * face).requires_grad_()
    value = loss(identity, face, torch.arange(batch))
    value.backward()
    assert bool(value.isfinite())
    assert bool(identity.grad.isfinite().all())


@every_loss
def test_bfloat16_stays_close_to_float32(loss):
    identity, face, label = draw(4, 512), draw(4, 512, seed=1), torch.arange(4)
    exact = loss(identity, face, label)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(identity, face, label).item() == pytest.approx(exact.item(), rel=1e-5)  # autocast is kept out
    half = loss(identity.bfloat16(), face.bfloat16(), label)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.03)
    rounded = loss(identity.bfloat16().float(), face.bfloat16().float(), label)
    assert half.item() == pytest.approx(rounded.item(), rel=1e-5)  # the inputs are rounded, nothing else is


@every_loss
@pytest.mark.parametrize("bad", [math.nan, 0.0])
def test_nan_and_zero_identities_are_refused(loss, bad):
    identity = draw(4, 8)
    identity[2] = bad
    with pytest.raises(InputError, match="no direction"):
        loss(identity, draw(4, 8, seed=1), torch.arange(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AMSoftmax(3, 4, scale=0.0), "positive"),
        (lambda: AMSoftmax(3, 4, scale=math.nan), "positive"),
        (lambda: AMSoftmax(3, 4, margin=35.0), "margin 35"),  # meant as 0.35, or as degrees
        (lambda: AMSoftmax(3, 4, margin=-0.35), "margin -0.35: expected 0 to 2"),
        (lambda: AMSoftmax(3, 4, margin=math.nan), "margin nan"),
        (lambda: AMSoftmax(3, 4, centroids=torch.ones(2, 4)), "shape"),
        (lambda: ArcFaceLoss(3, 4, margin=28.6), "radians"),
        (lambda: InfoNCE(math.inf), "positive"),
        (lambda: AMSoftmax(3, 4)(torch.ones(1, 4), torch.tensor([3])), "label"),
        (lambda: ArcFaceLoss(3, 4)(torch.ones(1, 4), torch.tensor([-1])), "label"),
    ],
)
def test_wrong_settings_say_what_was_expected(make, message):
    with pytest.raises(InputError, match=message):
        make()
