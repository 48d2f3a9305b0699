"""Seeing identity: the pack is checked, the crop is insightface's, the torch twin is the ONNX net, with gradients."""

import shutil
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch, differentiable_arcface
from v2f_core.identity.faces import TEMPLATE, FacePack, align, find_nets, similarity

LANDMARKS = (TEMPLATE * 0.9 + [12, 6]).astype(np.float32)
DETECTOR, ARCFACE = (MINI_ASSETS / "faces" / name for name in ("det_mini.onnx", "arcface_mini.onnx"))


def some_crops(count):
    return np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8)


# --- the pack


def test_nets_are_recognised_by_shape_not_by_name(tmp_path):
    shutil.copy(DETECTOR, tmp_path / "zz.onnx")
    shutil.copy(ARCFACE, tmp_path / "aa.onnx")
    assert [path.name for path in find_nets(tmp_path)] == ["zz.onnx", "aa.onnx"]


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        ((), "no face detector.*copy"),
        ((DETECTOR,), "no ArcFace net.*copy"),
        ((ARCFACE,), "no face detector.*copy"),
        ((DETECTOR, ARCFACE), "device 'abacus'"),
        (None, "nowhere: no such folder"),
    ],
)
def test_a_bad_pack_or_device_is_named(tmp_path, nets, message):
    for net in nets or ():
        shutil.copy(net, tmp_path)
    with pytest.raises(InputError, match=message) as error:
        FacePack.from_folder(tmp_path / "nowhere" if nets is None else tmp_path, device="abacus")
    assert "\n" not in str(error.value)


def test_onnx_runtime_without_cuda_takes_the_cpu_and_says_so(mini_pack):
    """What `make setup` installs has no CUDA: torch may compute on a GPU all the same."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.warns(UserWarning, match="faces are detected and embedded on the CPU.*onnxruntime-gpu"):
        there = FacePack.from_folder(DETECTOR.parent, device="cuda:1")
    np.testing.assert_array_equal(there.embed_aligned(some_crops(2)), mini_pack.embed_aligned(some_crops(2)))


# --- detection, alignment, embedding


def test_landmarks_are_in_pixels_of_the_image_whatever_its_size(mini_pack, portraits):
    (face,) = mini_pack.detect(portraits[0])
    (large,) = mini_pack.detect(np.kron(portraits[0], np.ones((4, 4, 1), np.uint8)))
    np.testing.assert_allclose(large.landmarks, 4 * face.landmarks, atol=6)
    assert large.area == pytest.approx(16 * face.area, rel=0.05)


def test_alignment_is_insightfaces(portraits):
    from insightface.utils import face_align

    g = np.random.default_rng(0)
    for _ in range(5):
        points = (LANDMARKS + g.normal(0, 4, (5, 2))).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, about scikit-image
            theirs, matrix = face_align.norm_crop2(portraits[0], points)
        np.testing.assert_allclose(similarity(points), matrix, atol=1e-3)
        assert np.abs(align(portraits[0], points).astype(int) - theirs).max() <= 1
    with pytest.raises(InputError, match="landmarks"):
        similarity(np.full((5, 2), 30.0))


def test_embedding_is_insightfaces_and_without_a_face_the_zero_vector(mini_pack, portraits):
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(DETECTOR.parent), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(640, 640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (face,) = app.get(portraits[0][..., ::-1])  # it reads BGR
    dark = np.zeros_like(portraits[0])
    identities, found = mini_pack.embed([dark, portraits[0], dark])
    assert found.tolist() == [False, True, False]
    assert not identities[~found].any()
    assert float(identities[1] @ face.normed_embedding) > 0.9999


def test_identities_are_unit_and_do_not_depend_on_the_batch(mini_pack):
    together = mini_pack.embed_aligned(some_crops(66))  # two batches
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for i in (0, 63, 64):
        np.testing.assert_allclose(mini_pack.embed_aligned(some_crops(66)[i : i + 1]), together[i : i + 1], atol=1e-5)
    assert mini_pack.embed_aligned([]).shape == (0, 512)


# --- the torch twin


def save(path, nodes, inputs, outputs, weights):
    tensors = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


@pytest.fixture(scope="module")
def iresnet(tmp_path_factory):
    """Every kind of layer that a real iResNet has, with random weights."""
    path, g = tmp_path_factory.mktemp("pack") / "net.onnx", np.random.default_rng(0)

    def draw(*shape):
        return g.normal(0, 0.3, shape).astype(np.float32)

    weights = {
        "w1": draw(8, 3, 3, 3), "b1": draw(8), "slope": np.abs(draw(8, 1, 1)),
        "scale": 1 + draw(8), "bias": draw(8), "mean": draw(8), "var": np.exp(draw(8)),
        "w2": draw(8, 1, 3, 3), "fc": draw(512, 8 * 49) / 4, "fcb": draw(512) / 9,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["data", "w1", "b1"], ["a"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "scale", "bias", "mean", "var"], ["c"], epsilon=1e-3),
        helper.make_node("Conv", ["c", "w2"], ["d"], group=8, strides=[1, 1], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Conv", ["e", "w2"], ["f"], group=8, strides=[4, 4], pads=[0, 0, 1, 1]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "fc", "fcb"], ["embedding"], transB=1),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 112, 112])
    save(path, nodes, [data], [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])], weights)
    return path


def test_the_torch_twin_is_the_onnx_net(iresnet):
    import onnxruntime

    crops = torch.from_numpy(some_crops(5)).permute(0, 3, 1, 2).float() / 127.5 - 1
    (theirs,) = onnxruntime.InferenceSession(iresnet).run(None, {"data": crops.numpy()})
    ours = differentiable_arcface(iresnet)(crops)
    np.testing.assert_allclose(ours.numpy(), theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-4)


def test_of_the_packs_net_the_twin_takes_the_same_pixels(mini_pack):
    ours = differentiable_arcface(mini_pack.arcface_path)(
        torch.from_numpy(some_crops(5)).permute(0, 3, 1, 2).float() / 127.5 - 1
    )
    np.testing.assert_allclose(ours.numpy(), mini_pack.embed_aligned(some_crops(5)), atol=1e-4)


def test_the_twins_gradient_is_that_of_finite_differences(iresnet):
    twin = differentiable_arcface(iresnet).double()
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(1, 3, 112, 112, generator=g, dtype=torch.float64) * 2 - 1).requires_grad_()
    target = F.normalize(torch.randn(512, generator=g, dtype=torch.float64), dim=0)
    (gradient,) = torch.autograd.grad((twin(x)[0] * target).sum(), x)
    direction = torch.randn(x.shape, generator=g, dtype=torch.float64)
    step = 1e-3
    with torch.no_grad():
        change = ((twin(x + step * direction) - twin(x - step * direction))[0] * target).sum() / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(change), rel=1e-2)
    assert not list(twin.parameters())  # an optimiser has nothing to change


def test_an_unsupported_operator_is_named(tmp_path):
    node = helper.make_node("Erf", ["data"], ["embedding"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in ("data", "embedding")]
    save(tmp_path / "odd.onnx", [node], info[:1], info[1:], {})
    with pytest.raises(InputError, match="operator Erf"):
        differentiable_arcface(tmp_path / "odd.onnx")


@pytest.mark.parametrize("side", [128, 200])
def test_batch_alignment_is_the_crop_and_carries_gradient(portraits, side):
    import cv2

    g = np.random.default_rng(0)
    picture = cv2.resize(portraits[0], (side, side))
    points = np.stack([LANDMARKS * side / 128 + g.normal(0, 3, (5, 2)) for _ in range(3)])
    x = (torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1).expand(3, -1, -1, -1).clone().requires_grad_()
    crops = align_batch(x, torch.from_numpy(points))
    for ours, at in zip(crops.detach(), points, strict=True):
        theirs = align(picture, at).astype(np.float32)
        grey_levels = np.abs((ours.permute(1, 2, 0).numpy() + 1) * 127.5 - theirs)
        assert grey_levels.mean() < 1.0  # OpenCV rounds positions to 1/32 pixel and colours to whole levels
        assert np.quantile(grey_levels, 0.99) < 6
    (gradient,) = torch.autograd.grad(crops.sum(), x)
    assert float(gradient[0, 0, side // 2, side // 2]) > 0  # each pixel's total weight in the crop


def test_batch_alignment_finds_its_pixels_in_bf16_too():
    """bf16 has 8 bits: between 256 and 512 it counts every other pixel, and Stage II decodes its faces in it."""
    stripes = torch.tensor([-1.0, 1.0]).repeat_interleave(4).repeat(64)  # exact in bf16
    x, points = stripes.expand(1, 3, 512, 512), torch.from_numpy(LANDMARKS[None] * 3 + 100)
    exact = align_batch(x, points)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((align_batch(x.bfloat16(), points) - exact).abs().max()) < 0.01
