"""The stages that train the face nets: margins, measures, targets and files, each recomputed another way."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from minivox.build import arcface, detector, encoded, faces_pool, grow, judge, prior_report, vae
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.errors import InputError
from v2f_core.evaluation.judge import Judge
from v2f_core.evaluation.metrics import kernel_distance
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import TEMPLATE, FacePack, align

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
    with pytest.raises(InputError, match=r"cannot be read as a judge .*from the same judge"):
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


def test_fine_detail_is_the_spectrum_between_two_rings() -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grey = picture[0].mean(0).double().numpy()
    grey = grey - grey.mean()
    expected = 0.0
    for u in range(-8, 8):
        for v in range(-8, 8):
            if 3 <= math.hypot(u, v) < 6:
                y, x = np.mgrid[:16, :16]
                expected += abs((grey * np.exp(-2j * np.pi * (u * y + v * x) / 16)).sum()) ** 2
    assert float(vae.energy(picture, 3.0, 6.0, windowed=False)) == pytest.approx(expected, rel=1e-4)


def test_a_picture_that_differs_at_opposite_borders_has_no_detail_under_a_window() -> None:
    ramp = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    assert float(vae.energy(ramp)) < 1e-4 * float(vae.energy(ramp, windowed=False))


def test_unlikeness_is_0_for_the_original_alone() -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(vae.unlikeness(x, x)) == 0
    assert float(vae.unlikeness(x + 0.1, x)) == pytest.approx(0.3, abs=1e-5)  # at three scales, and no edge differs


def test_texture_is_how_strong_detail_is_nearby_whatever_it_is() -> None:
    g = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(1, 3, 64, 64, generator=g) for _ in range(2))
    left = torch.where(torch.arange(64) < 32, noise, 0.0)
    strength = vae.texture(left)[:, :3]  # the finer band: noise minus its mean over 9 pixels has √(8/9) of its size
    assert float(strength[..., 1:-1, 1:5].mean()) == pytest.approx(math.sqrt(8 / 9), abs=0.05)
    assert float(strength[..., 9:].mean()) == pytest.approx(vae.GRAIN / 2, abs=1e-3)
    assert float((vae.texture(noise) - vae.texture(other)).abs().mean()) < 0.15
    assert float((vae.texture(noise) - vae.texture(2 * noise)).abs().mean()) > 0.6


def test_a_part_of_portraits_is_the_same_square_in_pixels_and_latents() -> None:
    row, column = np.mgrid[:32, :32]
    images = np.stack([row, column, row])[None].astype(np.uint8)
    latents = torch.from_numpy(np.stack([row, column, row, column])[None, :, ::8, ::8].astype(np.float32))
    portraits = vae.Portraits(images, np.zeros((1, 5, 2), np.float32), latents, latents, torch.zeros(1, 512))
    part = portraits.part(top=1, left=2, side=2)
    assert part.images.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(part.images[0, :2, ::8, ::8], part.mean[0, :2].numpy())
    assert part.mean[0, :2, 0, 0].tolist() == [8, 16]


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


def test_only_the_decoder_is_stirred_when_a_net_grows(narrow: AutoencoderKL) -> None:
    still, stirred = (grow.wider(narrow, vae.new_vae((8, 16, 32, 32)), noise).state_dict() for noise in (0.0, 0.1))
    changed = {name.split(".")[0] for name in still if not torch.equal(still[name], stirred[name])}
    assert changed == {"decoder"}


def test_a_net_cannot_grow_by_a_fraction() -> None:
    with pytest.raises(InputError, match="width 4 cannot grow to 6"):
        grow.widen(torch.zeros(4, 2), torch.Size([6, 2]))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pools of a tiny build, to be copied."""
    folder = tmp_path_factory.mktemp("rendered")
    faces_pool.run(folder, tiny=True)
    return folder


@pytest.fixture
def portraits(rendered: Path, tmp_path: Path) -> Path:
    """A scratch folder with the pools of a tiny build."""
    return shutil.copytree(rendered, tmp_path / "work")


def test_a_damaged_shard_of_portraits_is_made_anew_and_a_whole_one_is_left(portraits: Path) -> None:
    whole, damaged = (portraits / "faces_pool" / name for name in ("000.npz", "001.npz"))
    before, written = damaged.read_bytes(), whole.stat().st_mtime_ns
    damaged.write_bytes(before[: len(before) // 2])
    assert not faces_pool.is_whole(damaged)
    faces_pool.run(portraits, tiny=True)
    assert faces_pool.is_whole(damaged)
    with np.load(damaged) as again:
        (portraits / "before.npz").write_bytes(before)
        with np.load(portraits / "before.npz") as old:
            assert all(np.array_equal(again[name], old[name]) for name in old.files)
    assert whole.stat().st_mtime_ns == written


def test_a_flipped_byte_in_a_shard_is_noticed(portraits: Path) -> None:
    shard = portraits / "faces_pool" / "000.npz"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert not faces_pool.is_whole(shard)


def test_latents_and_identities_are_those_of_the_portraits(portraits: Path, narrow: AutoencoderKL) -> None:
    pool, out = portraits / "faces_pool", portraits / "latents"
    scorer = differentiable_arcface(MINI_ASSETS / "faces" / "arcface_mini.onnx")
    encoded.encode_pool(narrow, scorer, pool, out)
    everything = encoded.load_pool(out)
    assert everything.person.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    with np.load(pool / "001.npz") as shard:
        images, landmarks = shard["images"], shard["landmarks"]
    pack = FacePack.from_folder(MINI_ASSETS / "faces")
    crops = [align(image.transpose(1, 2, 0), points) for image, points in zip(images, landmarks, strict=True)]
    np.testing.assert_allclose(everything.identity[8:].numpy(), pack.embed_aligned(crops), atol=2e-3)
    with torch.no_grad():
        mean = narrow.encode(encoded.to_float(images)).latent_dist.mean
    apart = (everything.mean[8:].float() - mean).square().mean().sqrt()
    assert float(apart) < 0.05 * float(mean.std())  # bfloat16


def test_a_damaged_shard_of_latents_is_refused_and_then_made_anew(portraits: Path, narrow: AutoencoderKL) -> None:
    pool, out = portraits / "faces_pool", portraits / "latents"
    scorer = differentiable_arcface(MINI_ASSETS / "faces" / "arcface_mini.onnx")
    encoded.encode_pool(narrow, scorer, pool, out)
    damaged, whole = out / "000.safetensors", out / "001.safetensors"
    (out / ".part-of-a-killed-run.safetensors").write_bytes(b"")
    before, written = damaged.read_bytes(), whole.stat().st_mtime_ns
    damaged.write_bytes(before[:100])
    with pytest.raises(InputError, match=r"000\.safetensors: a damaged shard"):
        encoded.load_pool(out)
    encoded.encode_pool(narrow, scorer, pool, out)
    assert damaged.read_bytes() == before
    assert whole.stat().st_mtime_ns == written


def test_no_latents_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no latents in it; run the stage vae first"):
        encoded.load_pool(tmp_path)


def test_sharpening_goes_on_after_a_kill_and_leaves_the_latents_alone(portraits: Path, narrow: AutoencoderKL) -> None:
    scorer = differentiable_arcface(MINI_ASSETS / "faces" / "arcface_mini.onnx")
    encoded.encode_pool(narrow, scorer, portraits / "faces_pool", portraits / "latents")
    before = {name: weight.clone() for name, weight in narrow.state_dict().items()}

    def sharpened(steps: int) -> AutoencoderKL:
        net = vae.new_vae((4, 8, 16, 16))
        net.load_state_dict(before)
        return vae.sharpen(net, portraits / "faces_pool", scorer, 8, portraits, steps, batch=4)

    sharpened(2)
    state = torch.load(portraits / "sharp.pt", weights_only=True)
    assert state["step"] == 2
    again = sharpened(3)
    assert torch.load(portraits / "sharp.pt", weights_only=True)["step"] == 3
    changed = {name.split(".")[0] for name, old in before.items() if not torch.equal(old, again.state_dict()[name])}
    assert changed == {"decoder", "post_quant_conv"}


# --- report ---------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_kernel_distance_is_the_jackknife() -> None:
    g = np.random.default_rng(0)
    x, y = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in (g.normal(size=(9, 4)), g.normal(size=(7, 4)) + 0.4))
    value, low, high = prior_report.kernel_interval(x, y)
    assert value == pytest.approx(kernel_distance(x, y))
    variance = 0.0
    for cloud in (0, 1):
        n = len((x, y)[cloud])
        without = []
        for i in range(n):
            left = [np.delete(side, i, axis=0) if k == cloud else side for k, side in enumerate((x, y))]
            without.append(kernel_distance(*left))
        variance += (n - 1) / n * np.square(np.array(without) - np.mean(without)).sum()
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance))
    assert (low + high) / 2 == pytest.approx(value)


def test_a_blurred_picture_has_a_lower_laplacian() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    soft = ((picture.astype(int) + np.roll(picture, 1, 1) + np.roll(picture, 1, 2)) // 3).astype(np.uint8)
    assert prior_report.laplacian(soft) < 0.7 * prior_report.laplacian(picture)
