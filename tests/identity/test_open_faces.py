"""The open face nets: crop and embedding are OpenCV's own, and only the published files are opened."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from v2f_core.artefacts.weights import open_faces
from v2f_core.errors import InputError
from v2f_core.identity.faces import FacePack, align, find_nets

pytestmark = pytest.mark.skipif(open_faces() is None, reason="the extra is not installed: make open")


@pytest.fixture(scope="module")
def pack():
    return FacePack.from_folder(open_faces())


@pytest.fixture(scope="module")
def photographs():
    """Two photographs in the public domain, as packages ship them."""
    from matplotlib import get_data_path
    from PIL import Image
    from skimage import data

    with Image.open(Path(get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        return data.astronaut(), np.asarray(image.convert("RGB"))


def theirs(photograph):
    """OpenCV's detection, crop and embedding; its class for the last does not run these weights in OpenCV 5.0."""
    detector, net = map(str, find_nets(open_faces()))
    bgr = np.ascontiguousarray(photograph[..., ::-1])
    face = cv2.FaceDetectorYN.create(detector, "", bgr.shape[1::-1], 0.6, 0.3).detect(bgr)[1][0]
    crop = cv2.FaceRecognizerSF.create(net, "").alignCrop(bgr, face)
    runner = cv2.dnn.readNetFromONNX(net)
    runner.setInput(cv2.dnn.blobFromImage(crop, 1.0, (112, 112), (0, 0, 0), swapRB=True, crop=False), "data")
    feature = runner.forward()[0]
    return face, crop, feature / np.linalg.norm(feature)


@pytest.mark.parametrize("which", [0, 1])
def test_detection_crop_and_embedding_are_opencvs(pack, photographs, which):
    photograph = photographs[which]
    face, crop, feature = theirs(photograph)
    (ours,) = pack.detect(photograph)
    assert ours.score == pytest.approx(face[14], abs=1e-3)
    np.testing.assert_allclose(ours.landmarks.ravel(), face[4:14], atol=0.05)
    assert np.abs(align(photograph, ours.landmarks)[..., ::-1].astype(int) - crop).max() <= 2
    identities, found = pack.embed([photograph])
    assert found.all()
    np.testing.assert_allclose(identities[0], feature, atol=1e-3)


def test_a_persons_pictures_are_nearer_to_each_other_than_to_another_person(pack, photographs):
    astronaut, admiral = photographs
    darker = (astronaut * 0.6).astype(np.uint8)
    turned = cv2.warpAffine(astronaut, cv2.getRotationMatrix2D((223, 120), 15, 0.8), (512, 512))
    z, found = pack.embed([astronaut, darker, turned, astronaut[:, ::-1].copy(), admiral])
    assert found.all()
    assert z.shape == (5, pack.dim) == (5, 128)
    cosines = z @ z.T
    assert cosines[:4, :4].min() > 0.6 > 0.4 > cosines[4, :4].max()


def test_a_face_that_fills_a_large_photograph_is_found(pack, photographs):
    close = cv2.resize(photographs[0][40:200, 140:300], (2400, 2400))
    (face,) = pack.detect(close)
    assert 1000 < face.bbox[2] - face.bbox[0] < 2000
    assert pack.detect(np.full((300, 400, 3), 127, np.uint8)) == []


def test_only_the_published_files_are_opened(tmp_path):
    folder = shutil.copytree(open_faces(), tmp_path / "pack")
    net = find_nets(folder)[1]
    model = onnx.load(net)
    model.producer_name = "somebody else"
    onnx.save(model, net)
    with pytest.raises(InputError, match="not as published"):
        FacePack.from_folder(folder)
