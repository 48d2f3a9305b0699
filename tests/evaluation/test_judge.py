"""The judge: distributions over persons, whatever the batch and the order of the channels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minivox.build import judge
from v2f_core.evaluation.judge import Judge


@pytest.fixture
def small_judge(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = judge.config(7) | {"widths": [8, 12, 12], "size": 32}
    judge.save(Judge(settings).eval(), tmp_path)
    return tmp_path


def test_posteriors_are_distributions_whatever_the_batch(small_judge: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (5, 64, 48, 3), dtype=np.uint8))
    loaded = Judge.from_folder(small_judge)
    together = loaded.posteriors(images)
    assert together.shape == (5, 7)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(loaded.posteriors(images, batch=2), together, atol=1e-6)


def test_a_bgr_judge_sees_the_same_of_swapped_images(small_judge: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    rgb = Judge.from_folder(small_judge).posteriors(images)
    settings = json.loads((small_judge / "config.json").read_text()) | {"channels": "BGR"}
    (small_judge / "config.json").write_text(json.dumps(settings))
    bgr = Judge.from_folder(small_judge)
    np.testing.assert_allclose(bgr.posteriors([image[..., ::-1] for image in images]), rgb, atol=1e-6)
    assert np.abs(bgr.posteriors(images) - rgb).max() > 1e-6
