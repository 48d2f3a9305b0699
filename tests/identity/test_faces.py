"""Seeing identity: the pack is checked, the crop is insightface's, the torch twin is the ONNX net, with gradients."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch, differentiable_arcface
from v2f_core.identity.faces import TEMPLATE, FacePack, align, find_nets, similarity

LANDMARKS = (TEMPLATE * 0.9 + [12, 6]).astype(np.float32)  # where the toy detector sees its face, in 128 pixels


def save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> None:
    tensors = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def toy_arcface(path: Path, seed: int = 0) -> None:
    """Every kind of layer that a real iResNet has, with random weights."""
    g = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
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


def toy_detector(path: Path) -> None:
    """Sees one face, always in the same place, in images whose red is brighter than the middle; else none."""
    sizes = {8: 512, 16: 128, 32: 32}
    nodes, outputs = [], []
    weights: dict[str, np.ndarray] = {"red": np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)}
    nodes += [
        helper.make_node("Mul", ["input", "red"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["sum"], keepdims=0),
        helper.make_node("Sign", ["sum"], ["lit"]),
        helper.make_node("Relu", ["lit"], ["face"]),
    ]
    for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride, cells in sizes.items():
            value = np.zeros((cells, width), np.float32)
            if stride == 32:  # the first anchor sits at pixel (0, 0); distances are in strides
                box, points = np.array([-10, -6, 110, 116]) / 32, LANDMARKS.ravel() / 32
                value[0] = {"score": [0.9], "bbox": box, "kps": points}[kind]
            weights[f"{kind}{stride}"] = value
            nodes.append(helper.make_node("Mul", [f"{kind}{stride}", "face"], [f"{kind}_{stride}"]))
            outputs.append(helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, [cells, width]))
    save(path, nodes, [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 128, 128])], outputs, weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    toy_detector(folder / "zz.onnx")  # names say nothing: shapes do
    toy_arcface(folder / "aa.onnx")
    return folder


@pytest.fixture(scope="module")
def pack(folder: Path) -> FacePack:
    return FacePack.from_folder(folder)


@pytest.fixture
def image() -> np.ndarray:
    """A smooth picture with red above the middle (so the toy detector sees a face)."""
    x, y = np.meshgrid(np.arange(128), np.arange(128))
    rgb = np.stack([170 + 60 * np.sin(x / 9), 110 + 80 * np.cos(y / 13), 60 + x * 0.8], -1)
    return rgb.astype(np.uint8)


# --- the pack -------------------------------------------------------------------------------------------------------


def test_nets_are_recognised_by_shape_not_by_name(folder: Path) -> None:
    assert [path.name for path in find_nets(folder)] == ["zz.onnx", "aa.onnx"]


@pytest.mark.parametrize(
    ("files", "content", "message"),
    [
        ((), None, "no face detector.*copy"),
        (("zz.onnx",), None, "no ArcFace net.*copy"),
        (("aa.onnx",), None, "no face detector.*copy"),
        (("aa.onnx",), b"<html>not found</html>", r"aa\.onnx: cannot be read as an ONNX net"),
        (None, None, "nowhere: no such folder"),
        (("zz.onnx", "aa.onnx"), None, "device 'abacus'"),
    ],
)
def test_a_bad_pack_or_device_is_named(folder, tmp_path, files, content, message) -> None:
    for name in files or ():
        (tmp_path / name).write_bytes(content or (folder / name).read_bytes())
    with pytest.raises(InputError, match=message) as error:
        FacePack.from_folder(tmp_path if files is not None else tmp_path / "nowhere", device="abacus")
    assert "\n" not in str(error.value)


def test_onnx_runtime_without_cuda_takes_the_cpu_and_says_so(folder: Path, pack: FacePack) -> None:
    """What `make setup` installs has no CUDA: torch may compute on a GPU all the same."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    with pytest.warns(UserWarning, match="faces are detected and embedded on the CPU.*onnxruntime-gpu"):
        there = FacePack.from_folder(folder, device="cuda:1")
    np.testing.assert_array_equal(there.embed_aligned(crops), pack.embed_aligned(crops))


# --- detection and alignment ----------------------------------------------------------------------------------------


def test_detection_gives_landmarks_in_pixels_of_the_image_whatever_its_size(pack: FacePack, image: np.ndarray) -> None:
    (face,) = pack.detect(image)
    np.testing.assert_allclose(face.landmarks, LANDMARKS, atol=1e-3)
    (large,) = pack.detect(np.kron(image, np.ones((4, 4, 1), np.uint8)))
    np.testing.assert_allclose(large.landmarks, 4 * LANDMARKS, atol=1e-2)
    assert large.area == pytest.approx(16 * face.area, rel=1e-4)


def test_alignment_is_insightfaces(image: np.ndarray) -> None:
    from insightface.utils import face_align

    g = np.random.default_rng(0)
    for _ in range(5):
        points = (LANDMARKS + g.normal(0, 4, (5, 2))).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, about scikit-image
            theirs, matrix = face_align.norm_crop2(image, points)
        np.testing.assert_allclose(similarity(points), matrix, atol=1e-3)
        assert np.abs(align(image, points).astype(int) - theirs).max() <= 1
    with pytest.raises(InputError, match="landmarks"):
        align(image, np.full((5, 2), 30.0))


# --- embedding ------------------------------------------------------------------------------------------------------


def test_embedding_is_insightfaces(pack: FacePack, folder: Path, image: np.ndarray) -> None:
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(640, 640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (face,) = app.get(image[..., ::-1])  # it reads BGR
    ours, found = pack.embed([image])
    assert found.tolist() == [True]
    assert float(ours[0] @ face.normed_embedding) > 0.9999


def test_identities_are_unit_and_do_not_depend_on_the_batch(pack: FacePack) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (7, 112, 112, 3), dtype=np.uint8)
    together = pack.embed_aligned(crops)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for batch in (1, 3):
        np.testing.assert_allclose(pack.embed_aligned(crops, batch=batch), together, atol=1e-5)
    assert pack.embed_aligned(crops[:0]).shape == (0, 512)


def test_an_image_without_a_face_is_the_zero_vector_and_counted(pack: FacePack, image: np.ndarray) -> None:
    dark = np.zeros_like(image)
    identities, found = pack.embed([dark, image, dark])
    assert found.tolist() == [False, True, False]
    assert not identities[~found].any()
    np.testing.assert_allclose(identities[1:2], pack.embed([image])[0], atol=1e-6)


# --- the torch twin -------------------------------------------------------------------------------------------------


def test_the_torch_twin_is_the_onnx_net(pack: FacePack) -> None:
    crops = np.random.default_rng(1).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    twin = differentiable_arcface(pack.arcface_path)
    ours = twin(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1)
    np.testing.assert_allclose(ours.numpy(), pack.embed_aligned(crops), atol=1e-4)


def test_the_twins_gradient_is_that_of_finite_differences(pack: FacePack) -> None:
    twin = differentiable_arcface(pack.arcface_path).double()
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(1, 3, 112, 112, generator=g, dtype=torch.float64) * 2 - 1).requires_grad_()
    target = F.normalize(torch.randn(512, generator=g, dtype=torch.float64), dim=0)
    cosine = (twin(x)[0] * target).sum()
    (gradient,) = torch.autograd.grad(cosine, x)
    direction = torch.randn(x.shape, generator=g, dtype=torch.float64)
    step = 1e-3
    with torch.no_grad():
        change = ((twin(x + step * direction) - twin(x - step * direction))[0] * target).sum() / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(change), rel=1e-2)
    assert not list(twin.parameters())  # an optimiser has nothing to change


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Erf", ["data"], ["embedding"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in ("data", "embedding")]
    save(tmp_path / "odd.onnx", [node], info[:1], info[1:], {})
    with pytest.raises(InputError, match="operator Erf"):
        differentiable_arcface(tmp_path / "odd.onnx")


@pytest.mark.parametrize("side", [128, 200])
def test_batch_alignment_is_the_crop_and_carries_gradient(image: np.ndarray, side: int) -> None:
    import cv2

    g = np.random.default_rng(0)
    picture = cv2.resize(image, (side, side))
    points = np.stack([LANDMARKS * side / 128 + g.normal(0, 3, (5, 2)) for _ in range(3)])
    x = (torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1).expand(3, -1, -1, -1).clone().requires_grad_()
    crops = align_batch(x, torch.from_numpy(points))
    for ours, at in zip(crops.detach(), points, strict=True):
        theirs = align(picture, at).astype(np.float32)
        grey_levels = np.abs((ours.permute(1, 2, 0).numpy() + 1) * 127.5 - theirs)
        assert grey_levels.mean() < 1.0  # OpenCV rounds positions to 1/32 pixel and colours to whole levels
        assert np.quantile(grey_levels, 0.99) < 6
    (gradient,) = torch.autograd.grad(crops.sum(), x)
    inside = gradient[0, 0, side // 2, side // 2]
    assert float(inside) > 0  # each pixel's total weight in the crop


def test_batch_alignment_finds_its_pixels_in_bf16_too() -> None:
    """bf16 has 8 bits: between 256 and 512 it counts every other pixel, and Stage II decodes its faces in it."""
    stripes = torch.tensor([-1.0, 1.0]).repeat_interleave(4).repeat(64)  # exact in bf16
    x, points = stripes.expand(1, 3, 512, 512), torch.from_numpy(LANDMARKS[None] * 3 + 100)
    exact = align_batch(x, points)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((align_batch(x.bfloat16(), points) - exact).abs().max()) < 0.01
