"""What is asked of faces that are recognised: by a loop, for whatever all faces share, and in parts of a batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.diffusion.recognition import confusion, unlikeness


def unit(rows, seed):
    return F.normalize(torch.randn(rows, 512, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_faces_that_become_alike_gain_nothing_by_the_mean():
    """Drawn towards their mean, two faces come nearer to the target one by one; their mean is where it was."""
    spread, target = unit(2, 0), unit(1, 1).expand(2, 512)
    target = F.normalize(target + spread.mean(0), dim=1)
    alike = torch.stack([F.normalize(spread.mean(0) + 0.1 * (z - spread.mean(0)), dim=0) for z in spread])
    assert (unlikeness(alike, target, 1) < unlikeness(spread, target, 1)).all()
    torch.testing.assert_close(unlikeness(alike, target, 2), unlikeness(spread, target, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("copies", [1, 2])
def test_confusion_by_a_loop(copies):
    """Own target against those of the other speakers of the same sex, each counted once."""
    targets = unit(6 // copies, 0).repeat_interleave(copies, 0)
    women = torch.tensor([True, False, True, True, False, True])[: 6 // copies].repeat_interleave(copies)
    z_self = unit(6, 1)
    found = confusion(z_self, targets, women, slice(0, 6), copies, 0.2)
    for i in range(6):
        speaker = i // copies
        mean = F.normalize(z_self[speaker * copies : (speaker + 1) * copies].mean(0), dim=0)
        rivals = [j for j in range(0, 6, copies) if women[j] == women[i] and j // copies != speaker]
        scores = torch.stack([mean @ targets[j] for j in [i, *rivals]]) / 0.2
        torch.testing.assert_close(found[i], scores.logsumexp(0) - scores[0])


def test_who_has_no_rival_is_not_confused():
    women = torch.tensor([True, False, False])
    assert confusion(unit(3, 0), unit(3, 1), women, slice(0, 3), 1, 0.1)[0] == 0


@given(seed=st.integers(0, 1000), count=st.integers(2, 8), temperature=st.floats(0.02, 2.0))
def test_one_face_for_everybody_is_never_better_than_chance(seed, count, temperature):
    """Whatever f_arc likes to see in anybody: a face that all share gains nothing."""
    women = torch.ones(count, dtype=torch.bool)
    same = unit(1, seed).expand(count, 512)
    loss = confusion(same, unit(count, seed + 1), women, slice(0, count), 1, temperature).mean()
    assert loss >= math.log(count) - 1e-4


def test_a_share_of_the_batch_knows_all_rivals():
    targets, women, z_self = unit(8, 0), torch.arange(8) % 3 == 0, unit(8, 1)
    whole = confusion(z_self, targets, women, slice(0, 8), 2, 0.1)
    parts = [confusion(z_self[rows], targets, women, rows, 2, 0.1) for rows in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(parts), whole)
