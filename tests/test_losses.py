"""The losses, recomputed with loops and compared with pytorch-metric-learning, and their behaviour at the edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.identity.losses import AMSoftmax, IdentityLoss, InfoNCE, cosine_regression
from v2f_core.identity.sphere import normalise

SCALE, MARGIN, TEMPERATURE = 16.0, 0.25, 0.1


def at_angles(*degrees):
    """Unit vectors in the plane."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def am_softmax_by_loops(identity, label, weight, scale, margin):
    total = 0.0
    for z, y in zip(identity, label.tolist(), strict=True):
        cosines = [float(z @ w / (z.norm() * w.norm())) for w in weight]
        target = math.exp(scale * (cosines[y] - margin))
        others = sum(math.exp(scale * c) for j, c in enumerate(cosines) if j != y)
        total -= math.log(target / (target + others))
    return total / len(identity)


def info_nce_by_loops(identity, face, label, temperature):
    total = 0.0
    for i in range(len(identity)):
        negatives = [j for j in range(len(face)) if label[j] != label[i]]
        score = {j: math.exp(float(identity[i] @ face[j]) / temperature) for j in [i, *negatives]}
        total -= math.log(score[i] / sum(score.values()))
    return total / len(identity)


# --- AM-Softmax, Eq. 8


def test_am_softmax_equals_eq_8_written_with_loops():
    identity, weight = at_angles(0, 20, 100, 190), at_angles(5, 95, 200)
    label = torch.tensor([0, 0, 1, 2])
    loss = AMSoftmax(3, 2, SCALE, MARGIN, centroids=weight)(identity, label)
    assert loss.item() == pytest.approx(am_softmax_by_loops(identity, label, weight, SCALE, MARGIN), abs=1e-12)


def test_am_softmax_is_cosface_of_pytorch_metric_learning():
    from pytorch_metric_learning.losses import CosFaceLoss

    ours = AMSoftmax(7, 12, SCALE, MARGIN, generator=torch.Generator().manual_seed(0))
    theirs = CosFaceLoss(num_classes=7, embedding_size=12, margin=MARGIN, scale=SCALE)
    theirs.W.data = ours.weight.data.T.clone()
    label = torch.tensor([0, 3, 6, 6, 2])
    a, b = (draw(5, 12).requires_grad_() for _ in range(2))
    ours(a, label).backward()
    theirs(b, label).backward()
    assert ours(a, label).item() == pytest.approx(theirs(b, label).item(), abs=1e-5)
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.weight.grad, theirs.W.grad.T, atol=1e-5, rtol=0)


def test_am_softmax_gradient_is_the_finite_difference():
    loss = AMSoftmax(3, 4, SCALE, MARGIN, centroids=draw(3, 4, dtype=torch.float64))
    identity = draw(5, 4, seed=1, dtype=torch.float64).requires_grad_()
    label = torch.tensor([0, 1, 2, 0, 1])
    assert torch.autograd.gradcheck(lambda z: loss(z, label), identity)


def test_without_margin_and_all_classes_equal_am_softmax_is_ln_of_their_number():
    loss = AMSoftmax(10, 2, SCALE, margin=0.0, centroids=torch.ones(10, 2))
    assert loss(torch.eye(2), torch.tensor([0, 9])).item() == pytest.approx(math.log(10), abs=1e-6)


def test_the_margin_costs_exactly_s_times_m_in_the_target_logit():
    identity, label = torch.eye(2), torch.tensor([0, 1])
    loss = AMSoftmax(2, 2, SCALE, MARGIN, centroids=torch.eye(2))(identity, label)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-SCALE * (1 - MARGIN))), abs=1e-6)


def test_fixed_centroids_take_no_gradient_and_free_vectors_do():
    assert not list(AMSoftmax(3, 4, centroids=draw(3, 4)).parameters())
    free = AMSoftmax(3, 4)
    free(draw(2, 4), torch.tensor([0, 1])).backward()
    assert free.weight.grad.abs().sum() > 0


# --- InfoNCE, Eq. 9


def test_info_nce_equals_eq_9_written_with_loops():
    identity, face = at_angles(0, 30, 80, 100, 185), at_angles(10, 12, 95, 93, 170)
    label = torch.tensor([0, 0, 1, 1, 2])
    loss = InfoNCE(TEMPERATURE)(identity, face, label)
    assert loss.item() == pytest.approx(info_nce_by_loops(identity, face, label, TEMPERATURE), abs=1e-12)


def test_info_nce_of_distinct_persons_is_ntxent_of_pytorch_metric_learning():
    from pytorch_metric_learning.losses import NTXentLoss

    label = torch.arange(6)
    face = draw(6, 12, seed=1)
    a, b = (draw(6, 12).requires_grad_() for _ in range(2))
    ours = InfoNCE(TEMPERATURE)(a, face, label)
    theirs = NTXentLoss(TEMPERATURE)(
        b, label, ref_emb=face, ref_labels=label.clone()
    )  # the very same tensor would mean "no reference"
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=0)


def test_another_face_of_the_same_person_is_no_negative():
    identity, face = draw(4, 8), draw(4, 8, seed=1)
    label = torch.tensor([0, 0, 1, 2])
    moved = face.clone()
    moved[1] = -face[1]
    loss = InfoNCE(TEMPERATURE)
    whole = [loss(identity, f, label) * 4 for f in (face, moved)]
    # rows 1, 2, 3 see face 1; row 0 must not: removing the other rows' difference leaves nothing
    rest = [info_nce_by_loops(normalise(identity), normalise(f), label, TEMPERATURE) * 4 for f in (face, moved)]
    assert (whole[0] - whole[1]).item() == pytest.approx(rest[0] - rest[1], abs=1e-4)
    only_row_0 = torch.tensor([0, 0])
    assert loss(identity[:2], face[:2], only_row_0).item() == 0


def test_info_nce_at_the_start_is_ln_of_the_batch():
    face = normalise(torch.ones(128, 512))
    assert InfoNCE()(draw(128, 512), face, torch.arange(128)).item() == pytest.approx(math.log(128), abs=1e-4)


def test_a_batch_of_one_has_no_negative_and_no_loss():
    identity = draw(1, 8).requires_grad_()
    loss = InfoNCE()(identity, draw(1, 8, seed=1), torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0
    assert identity.grad.abs().sum() == 0


# --- cosine regression and L_id, Eq. 10


def test_cosine_regression_is_one_minus_the_mean_cosine():
    identity, face = at_angles(0, 0, 0), at_angles(0, 60, 180)
    assert cosine_regression(identity, face).item() == pytest.approx(1 - (1 + 0.5 - 1) / 3)


def test_the_best_constant_under_cosine_regression_is_the_mean_direction():
    from v2f_core.identity.sphere import mean_direction

    face = normalise(draw(50, 6, dtype=torch.float64) + 0.5)
    best = mean_direction(face)
    here = best.clone().requires_grad_()
    cosine_regression(here.expand(50, 6), face).backward()
    torch.testing.assert_close(here.grad, torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_identity_loss_is_the_weighted_sum_of_its_terms():
    identity, face, label = draw(5, 8), draw(5, 8, seed=1), torch.arange(5)
    am, info = AMSoftmax(5, 8, SCALE, MARGIN), InfoNCE(TEMPERATURE)
    terms = IdentityLoss(am, info, weight_am=0.3, weight_info=0.5, weight_cosine=2.0)(identity, face, label)
    assert terms.total.item() == pytest.approx(
        (0.3 * am(identity, label) + 0.5 * info(identity, face, label) + 2 * cosine_regression(identity, face)).item(),
        abs=1e-6,
    )


# --- all of them

ALL = {
    "am_softmax": lambda z, f, y: AMSoftmax(len(f), z.shape[1], SCALE, MARGIN, centroids=f)(z, y),
    "info_nce": lambda z, f, y: InfoNCE(TEMPERATURE)(z, f, y),
    "cosine": lambda z, f, y: cosine_regression(z, f),
}
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())


@every_loss
@given(seed=st.integers(0, 10_000))
def test_rotating_everything_or_reordering_the_batch_changes_nothing(loss, seed):
    identity, face = draw(4, 6, seed=seed, dtype=torch.float64), draw(4, 6, seed=seed + 1, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3])
    rotation = torch.linalg.qr(draw(6, 6, seed=seed + 2, dtype=torch.float64)).Q
    before = loss(identity, face, label).item()
    assert loss(identity @ rotation, face @ rotation, label).item() == pytest.approx(before, abs=1e-9)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    # class vectors (the faces, for AM-Softmax) move with the batch, and so do their labels
    shuffled = loss(identity[order], face[order], label)
    assert shuffled.item() == pytest.approx(before, abs=1e-9)


@every_loss
def test_lengths_do_not_matter(loss):
    identity, face, label = draw(4, 6), draw(4, 6, seed=1), torch.tensor([0, 1, 2, 3])
    assert loss(identity, face, label).item() == pytest.approx(loss(3 * identity, 0.1 * face, label).item(), abs=1e-5)


@every_loss
@pytest.mark.parametrize("sign", [1, -1])
def test_value_and_gradient_are_finite_at_cosine_plus_and_minus_one(loss, sign):
    face = normalise(draw(4, 512))
    identity = (sign * face).requires_grad_()
    value = loss(identity, face, torch.arange(4))
    value.backward()
    assert bool(value.isfinite())
    assert bool(identity.grad.isfinite().all())


@every_loss
def test_a_batch_of_one_gives_a_finite_number(loss):
    identity = draw(1, 512)
    assert bool(loss(identity, draw(1, 512, seed=1), torch.tensor([0])).isfinite())


@every_loss
def test_bfloat16_stays_close_to_float32(loss):
    identity, face, label = draw(4, 512), draw(4, 512, seed=1), torch.arange(4)
    exact = loss(identity, face, label)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(identity, face, label).item() == pytest.approx(exact.item(), rel=1e-5)  # autocast is kept out
    half = loss(identity.bfloat16(), face.bfloat16(), label)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.03)


@every_loss
@pytest.mark.parametrize("bad", [math.nan, 0.0])
def test_nan_and_zero_identities_are_refused(loss, bad):
    identity = draw(4, 8)
    identity[2] = bad
    with pytest.raises(InputError, match="no direction"):
        loss(identity, draw(4, 8, seed=1), torch.arange(4))


@every_loss
def test_memory_is_batch_by_classes_not_more(loss):
    """No tensor that autograd keeps is larger than batch × classes or batch × width."""
    largest = 0

    def keep(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    batch, width = 64, 96
    identity, face = draw(batch, width).requires_grad_(), draw(batch, width, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(identity, face, torch.arange(batch) % 4)
    assert largest <= batch * width


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AMSoftmax(3, 4, scale=0.0), "positive"),
        (lambda: AMSoftmax(3, 4, centroids=torch.ones(2, 4)), "shape"),
        (lambda: InfoNCE(0.0), "positive"),
        (lambda: AMSoftmax(3, 4)(torch.ones(1, 4), torch.tensor([3])), "label"),
    ],
)
def test_wrong_settings_say_what_was_expected(make, message):
    with pytest.raises(InputError, match=message):
        make()
