"""The stages that train the face nets: margins, measures, targets and files, each recomputed another way."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minivox.build import arcface, detector, judge, vae
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.errors import InputError
from v2f_core.evaluation.judge import Judge
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import TEMPLATE

# --- arcface --------------------------------------------------------------------------------------------------------


def test_the_margin_turns_the_true_angle_only() -> None:
    torch.manual_seed(0)
    head, z, person = arcface.ArcMargin(6), torch.randn(4, 512), torch.tensor([0, 5, 2, 2])
    expected = 0.0
    for row, true in zip(z, person.tolist(), strict=True):
        logits = []
        for k, w in enumerate(head.weight.detach()):
            angle = math.acos(float(F.cosine_similarity(row, w, dim=0)))
            logits.append(arcface.SCALE * math.cos(angle + 0.35 * (k == true)))
        expected += math.log(sum(math.exp(x) for x in logits)) - logits[true]
    # the stage multiplies in bfloat16, whose eighth bit is worth 0.004 in a cosine and 32 times that in a logit
    assert float(head(z, person, margin=0.35).detach()) == pytest.approx(expected / 4, abs=0.15)


def test_verification_knows_perfect_and_useless_identities() -> None:
    z = np.eye(20, 512)
    person = np.arange(20)
    perfect = arcface.verification(np.concatenate([z, z]), np.concatenate([person, person]))
    assert (perfect["rank1"], perfect["eer"], perfect["same_mean"], perfect["different_mean"]) == (1.0, 0.0, 1.0, 0.0)
    noise = np.random.default_rng(0).normal(size=(400, 512))
    useless = arcface.verification(noise / np.linalg.norm(noise, axis=1, keepdims=True), np.repeat(np.arange(200), 2))
    assert useless["rank1"] < 0.05
    assert useless["eer"] == pytest.approx(0.5, abs=0.1)


def test_augmentation_keeps_size_and_most_of_the_face() -> None:
    x, y = np.meshgrid(np.arange(112), np.arange(112))
    crop = np.stack([128 + 100 * np.sin(x / 20), 128 + 100 * np.cos(y / 25), (x + y) / 2], -1).astype(np.uint8)
    g = np.random.default_rng(0)
    for _ in range(20):
        other = arcface.augment(crop, g)
        assert (other.shape, other.dtype) == (crop.shape, np.uint8)
        across = max(np.corrcoef(other[..., 0].ravel(), c[..., 0].ravel())[0, 1] for c in (crop, crop[:, ::-1]))
        assert across > 0.9


def test_the_exported_net_is_the_trained_net_and_has_a_gradient_twin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = arcface.SmallIResNet((8, 16, 24), (1, 1, 1), stem=8)
    net(torch.randn(8, 3, 112, 112))  # moves the running statistics away from 0 and 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        arcface.export(net, tmp_path / "net.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    twin = differentiable_arcface(tmp_path / "net.onnx")(arcface.to_batch(crops))
    np.testing.assert_allclose(twin.numpy(), arcface.features(net, crops), atol=1e-4)


def test_the_miniature_fits_its_budget() -> None:
    assert sum(p.numel() for p in arcface.SmallIResNet().parameters()) <= 620_000
    assert sum(p.numel() for p in detector.TinyDetector().parameters()) <= 160_000


# --- detector -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [0.35, 0.9, 1.1])
def test_insightface_decodes_the_targets_to_the_face_they_came_from(zoom: float, tmp_path: Path) -> None:
    from insightface.model_zoo.scrfd import SCRFD

    landmarks = (TEMPLATE - 56) * zoom + [61, 66]
    wanted = detector.targets(landmarks)
    scores = [(says == 1).astype(np.float32)[:, None] for says, _ in wanted]
    boxes, points = [d[:, :4] for _, d in wanted], [d[:, 4:] for _, d in wanted]
    session = SimpleNamespace(run=lambda *_: scores + boxes + points)
    scrfd = SCRFD.__new__(SCRFD)  # its decoder alone, without a net
    vars(scrfd).update(
        use_kps=True,
        fmc=3,
        batched=False,
        _num_anchors=2,
        _feat_stride_fpn=[8, 16, 32],
        center_cache={},
        nms_thresh=0.4,
        input_mean=127.5,
        input_std=128.0,
        output_names=[],
        input_name="input",
        static_input_size=(128, 128),
        det_thresh=0.5,
        _session_for_input_size=lambda _: session,
    )
    found, kps = scrfd.detect(np.zeros((128, 128, 3), np.uint8))
    assert len(found) == 1
    np.testing.assert_allclose(found[0, :4], detector.face_box(landmarks), atol=1e-3)
    np.testing.assert_allclose(kps[0], landmarks, atol=1e-3)


def test_a_mirrored_example_keeps_the_left_eye_on_the_left() -> None:
    g = np.random.default_rng(0)
    picture = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    seen = [detector.example(picture, TEMPLATE.astype(np.float64) + 8, g).landmarks for _ in range(40)]
    faces = [points for points in seen if points is not None]
    assert 25 < len(faces) < 40
    assert all(p[0, 0] < p[1, 0] and p[3, 0] < p[4, 0] for p in faces)


def test_a_perfect_detector_has_almost_no_loss() -> None:
    landmarks = TEMPLATE.astype(np.float64) + 8
    wanted = detector.targets(landmarks)
    logits = [torch.from_numpy(np.where(says == 1, 20.0, -20.0)).float()[None, :, None] for says, _ in wanted]
    boxes = [torch.from_numpy(d[None, :, :4]) for _, d in wanted]
    points = [torch.from_numpy(d[None, :, 4:]) for _, d in wanted]
    assert float(detector.loss_of(logits + boxes + points, [wanted])) < 1e-4
    # every landmark one pixel off
    shifted = [p + 1 / stride for p, stride in zip(points, detector.STRIDES, strict=True)]
    assert float(detector.loss_of(logits + boxes + shifted, [wanted])) == pytest.approx(1.0, abs=1e-3)


# --- judge ----------------------------------------------------------------------------------------------------------


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


def test_a_judge_of_other_weights_is_an_input_error(small_judge: Path) -> None:
    settings = json.loads((small_judge / "config.json").read_text()) | {"n_classes": 9}
    (small_judge / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="do not fit"):
        Judge.from_folder(small_judge)


# --- autoencoder ----------------------------------------------------------------------------------------------------


def test_landmarks_stay_on_their_pixels_when_a_batch_is_mirrored(tmp_path: Path) -> None:
    landmarks = np.array([[40, 50], [90, 52], [60, 70], [45, 90], [85, 93]], np.float32)
    image = np.zeros((3, 128, 128), np.uint8)
    for k, (x, y) in enumerate(landmarks.astype(int)):
        image[:, y, x] = 100 + k
    np.savez(tmp_path / "000.npz", images=image[None], landmarks=landmarks[None], person=np.array([0], np.int32))
    drawn = vae.batches(tmp_path, below=1, batch=1, g=np.random.default_rng(0))
    sides = set()
    for _ in range(12):
        x, at = next(drawn)
        columns, rows = at[0].astype(int).T
        brightness = ((x[0, 0, rows, columns] + 1) * 127.5).round()
        left_first = bool(at[0, 0, 0] < at[0, 1, 0])
        sides.add(round(float(at[0, 0, 0])))
        assert left_first  # the first landmark is the left eye of the picture, whichever way it is turned
        assert sorted(brightness.tolist()) == [100, 101, 102, 103, 104]
    assert sides == {40, 37}


def test_the_identity_term_is_0_for_the_original_and_pulls_at_the_copy_alone() -> None:
    arcface = differentiable_arcface(MINI_ASSETS / "faces" / "arcface_mini.onnx")
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 128, 128, generator=g).mul(2).sub(1).requires_grad_()
    y = torch.rand(2, 3, 128, 128, generator=g).mul(2).sub(1).requires_grad_()
    landmarks = np.stack([TEMPLATE.astype(np.float32) + 8] * 2)
    assert float(vae.identity_loss(arcface, x, x, landmarks).detach()) == pytest.approx(0, abs=1e-5)
    loss = vae.identity_loss(arcface, y, x, landmarks)
    loss.backward()
    assert loss.detach() > 0.05
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert x.grad is None
