"""Ridge regression: λ is what leaving each person out would choose, and the ratio's line ranks as the ratio does."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.ridge import PENALTIES, fit_ridge


def world(persons, seed=0, told=1.0):
    """Voices of 12 numbers, unit faces of 8 around a common mean."""
    g = torch.Generator().manual_seed(seed)
    shared = np.random.default_rng(1)
    to_face, mean = (torch.from_numpy(shared.standard_normal(shape)).float() for shape in ((12, 8), (8,)))
    voices = 3 + torch.randn(persons, 12, generator=g) * torch.logspace(-3, 1, 12)
    faces = told * (voices - 3) / torch.logspace(-3, 1, 12) @ to_face / 3 + 2 * mean
    return voices, normalize(faces + torch.randn(persons, 8, generator=g), dim=1)


def test_the_penalty_is_that_of_leaving_each_person_out():
    voices, faces = (part.double() for part in world(14))
    x = (voices - voices.mean(0)) / voices.std(0, correction=0)
    errors, spread = [], 0.0
    for i in range(14):
        others = [j for j in range(14) if j != i]
        spread += float((faces[i] - faces[others].mean(0)).square().sum())
    for penalty in PENALTIES:
        error = 0.0
        for i in range(14):
            others = [j for j in range(14) if j != i]
            about_x, about_y = x[others] - x[others].mean(0), faces[others] - faces[others].mean(0)
            weight = torch.linalg.solve(about_x.T @ about_x + penalty * 14 * torch.eye(12), about_x.T @ about_y)
            error += float((faces[i] - faces[others].mean(0) - (x[i] - x[others].mean(0)) @ weight).square().sum())
        errors.append(error)
    ridge = fit_ridge(voices.float(), faces.float())
    assert ridge.penalty == PENALTIES[int(np.argmin(errors))]
    assert ridge.explained == pytest.approx(1 - min(errors) / spread, abs=1e-5)


def test_the_ratios_line_ranks_faces_as_the_ratio_of_two_gaussians_does():
    ridge, (voices, faces) = fit_ridge(*world(60)), world(40, seed=2)
    prior, s2 = ridge.mean.bias, 1 - ridge.explained  # s² in units of s₀²
    mean = ridge.mean(voices)
    ratio = -(faces - mean[:, None]).square().sum(2) / (2 * s2) + (faces - prior).square().sum(1) / 2
    assert (normalize(ridge.ratio(voices), dim=1) @ faces.T).argsort().equal(ratio.argsort())
    assert not (normalize(mean, dim=1) @ faces.T).argsort().equal(ratio.argsort())


def test_voices_that_tell_nothing_leave_nothing_but_the_mean():
    voices, faces = world(40, told=0.0)
    ridge = fit_ridge(voices, faces)
    assert ridge.explained < 0.05
    assert torch.allclose(ridge.mean(voices), faces.mean(0).expand(40, -1), atol=0.15)


def test_a_constant_axis_of_the_voice_does_no_harm():
    voices, faces = world(40)
    voices[:, 3] = 0.0  # GE2E has units that never fire
    assert fit_ridge(voices, faces).mean(voices).isfinite().all()


def test_an_aligner_starts_from_the_line_and_is_the_same_from_disk(tmp_path):
    voices, faces = world(50)
    ridge = fit_ridge(voices, faces)
    aligner = Aligner(12, 16, 8, linear=True).eval()
    aligner.start_from(ridge.ratio)
    assert torch.allclose(aligner(voices), normalize(ridge.ratio(voices), dim=1), atol=1e-6)
    aligner.save_pretrained(tmp_path)
    assert torch.equal(Aligner.from_pretrained(tmp_path)(voices), aligner(voices))
    with pytest.raises(InputError, match="no linear map to start from; make it with linear=True"):
        Aligner(12, 16, 8).start_from(ridge.ratio)
