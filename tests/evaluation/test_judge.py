"""The judge: distributions over persons, whatever the batch and the order of the channels."""

import json

import numpy as np
import torch

from minivox.build import judge
from v2f_core.evaluation.judge import Judge


def test_posteriors_are_distributions_whatever_the_batch_and_a_bgr_judge_sees_the_same_of_swapped_images(tmp_path):
    torch.manual_seed(0)
    settings = judge.config(7) | {"widths": [8, 12, 12], "size": 32}
    judge.save(Judge(settings).eval(), tmp_path)
    images = list(np.random.default_rng(0).integers(0, 256, (40, 64, 48, 3), dtype=np.uint8))  # more than one batch
    rgb = Judge.from_folder(tmp_path)
    together = rgb.posteriors(images)
    assert together.shape == (40, 7)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(rgb.posteriors(images[-3:]), together[-3:], atol=1e-6)
    assert rgb.posteriors([]).shape == (0, 7)
    assert len(rgb.features([])) == 0
    (tmp_path / "config.json").write_text(json.dumps(settings | {"channels": "BGR"}))
    bgr = Judge.from_folder(tmp_path)
    np.testing.assert_allclose(bgr.posteriors([image[..., ::-1] for image in images]), together, atol=1e-6)
    assert np.abs(bgr.posteriors(images) - together).max() > 1e-6
