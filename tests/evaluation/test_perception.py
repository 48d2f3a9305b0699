"""FID and LPIPS: torchmetrics' networks at their full size with random weights, held against the formulae."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from v2f_core.errors import InputError
from v2f_core.evaluation import tables
from v2f_core.evaluation.perception import Perception
from v2f_core.evaluation.systems import Faces, System


@pytest.fixture(scope="module")
def perception(tmp_path_factory):
    """Both networks from files in torch's cache, as after a download; no network is asked."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(torch.hub, "get_dir", lambda: str(hub))
        with pytest.MonkeyPatch.context() as inner:  # Inception has no constructor without weights
            inner.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
            inner.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
            random = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        torch.save(random.state_dict(), hub / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")
        alexnet = torchvision.models.alexnet(weights=None)
        torch.save(alexnet.state_dict(), hub / "checkpoints" / "alexnet-owt-7be5be79.pth")
        # what torchvision names its file by is a hash, which random weights do not have
        patch.setattr("torch.hub.load_state_dict_from_url", _from(hub))
        patch.setattr("torchvision.models._api.load_state_dict_from_url", _from(hub))
        yield Perception()


def _from(hub):
    return lambda url, **_: torch.load(hub / "checkpoints" / url.rsplit("/", 1)[1], weights_only=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eight pictures, the second four with another colour."""
    folder, g = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for i in range(8):
        pixels = g.integers(0, 128, (64, 64, 3), dtype=np.uint8)
        pixels[..., 0] += 120 * (i >= 4)
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def features(perception, paths):
    pixels = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] for path in paths]
    return torch.cat([perception.inception.inception(image) for image in pixels]).double().numpy()


def test_fid_by_its_formula(perception, images):
    x, y = features(perception, images[:4]), features(perception, images[4:])
    between, x, y = x.mean(0) - y.mean(0), x - x.mean(0), y - y.mean(0)
    # the trace of (Σx Σy)^½ is the sum of the singular values of X Yᵀ / 3, 4 × 4 where Σ is 2,048 × 2,048
    root = np.linalg.svd(x @ y.T / 3, compute_uv=False).sum()
    expected = between @ between + (np.square(x).sum() + np.square(y).sum()) / 3 - 2 * root
    assert perception.fid(images[:4], images[4:]) == pytest.approx(expected, rel=1e-3)


def test_lpips_by_its_formula_and_of_an_image_with_itself(perception, images):
    net = perception.alexnet.net
    found = perception.lpips(images[:2], images[4:6])
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    for value, a, b in zip(found, images[:2], images[4:6], strict=True):
        sides = []
        for path in (a, b):
            pixels = torch.from_numpy(np.array(Image.open(path))).float().permute(2, 0, 1) / 127.5 - 1
            layers = net.net(((pixels - shift[:, None, None]) / scale[:, None, None])[None])
            sides.append([layer[0] / layer[0].square().sum(0).sqrt() for layer in layers])
        weights = [lin.model[-1].weight.flatten() for lin in net.lins]
        pairs = zip(weights, *sides, strict=True)
        expected = sum((w[:, None, None] * (x - y) ** 2).sum(0).mean() for w, x, y in pairs)
        assert value == pytest.approx(float(expected), rel=1e-3)
    assert perception.lpips(images[:1], images[:1])[0] == 0


class Numbers:
    """Says which images it was shown."""

    def fid(self, generated, real):
        return float("".join(path.stem for path in (*generated, *real)))

    def lpips(self, first, second):
        return np.array([10 * int(a.stem) + int(b.stem) for a, b in zip(first, second, strict=True)])


def test_the_table_of_sets_says_fid_of_all_faces_and_lpips_of_every_two_of_a_person(images):
    def faces(paths):
        z = np.eye(4, 512, dtype=np.float32)
        return Faces(z, np.zeros((4, 0), np.float32), np.zeros((4, 0), np.float32), list(paths))

    real = faces(images[:4])
    two = System("two", "", faces=(faces(images[4:]), faces([*images[5:], None])))
    one = System("one", "", faces=(faces(images[4:]),), answered=np.array([True, True, True, False]))
    table = tables.set_table([two, one], real, Numbers()).set_index("system")
    assert table.FID["two"] == 4567_567_0123
    assert table.LPIPS["two"] == (45 + 56 + 67) / 3  # nobody has a face to set beside 7
    assert table.FID["one"] == 456_0123
    assert np.isnan(table.LPIPS["one"])
    assert "FID" not in tables.set_table([two], real).columns


def test_without_weights_one_line_says_which_files_and_where(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"put weights-inception-2015.* and alexnet-owt.* into .*checkpoints.*OFFLINE"):
        Perception()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", unreachable)
    with pytest.raises(InputError, match=r"downloading failed \(no route\)"):
        Perception()
