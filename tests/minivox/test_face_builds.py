"""The stages that train the face nets: margins, measures, targets and files, each recomputed another way."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel

from minivox.build import arcface, detector, grow, prior, vae
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import TEMPLATE

pytestmark = pytest.mark.slow

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


# --- autoencoder ----------------------------------------------------------------------------------------------------


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


@pytest.fixture
def narrow() -> AutoencoderKL:
    """An autoencoder of the miniature's kind with moving statistics of its own, narrower than it."""
    torch.manual_seed(0)
    net = vae.new_vae((4, 8, 16, 16))
    for weight in net.parameters():
        weight.data += 0.1 * torch.randn(weight.shape)
    net.register_to_config(scaling_factor=0.5)
    return net.eval()


def test_a_net_that_grew_computes_the_same(narrow: AutoencoderKL) -> None:
    grown = grow.wider(narrow, vae.new_vae((12, 16, 32, 32)), noise=0.0).eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        before, after = narrow.encode(x).latent_dist, grown.encode(x).latent_dist
        torch.testing.assert_close(after.mean, before.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after.logvar, before.logvar, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            grown.decode(after.mean).sample, narrow.decode(before.mean).sample, atol=1e-3, rtol=0
        )
    assert grown.config.scaling_factor == 0.5


def test_a_unet_that_got_deeper_computes_the_same_and_learns_in_its_new_layers() -> None:
    torch.manual_seed(0)
    target = prior.new_unet()
    shallow = UNet2DConditionModel.from_config({**target.config, "layers_per_block": 1})
    deep = grow.deeper(shallow, target)
    z, c, t = torch.randn(2, 4, 16, 16), torch.randn(2, 8, 512), torch.tensor([3, 700])
    before, after = (net(z, t, encoder_hidden_states=c).sample for net in (shallow, deep))
    torch.testing.assert_close(after, before)
    after.square().mean().backward()
    assert deep.down_blocks[1].resnets[1].conv2.weight.grad.abs().max() > 0
    assert deep.up_blocks[0].attentions[1].proj_out.weight.grad.abs().max() > 0
