"""Old checkpoints: their numbers come through, their programs never run."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from v2f_core.artefacts.loading import arrays_from_pickle, tensors_from_bin
from v2f_core.artefacts.weights import to_safetensors
from v2f_core.errors import InputError


class Runs:
    """Pickled as a call of some function with some arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ATTACKS = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "exec": lambda mark: Runs(exec, f"open({str(mark)!r}, 'w')"),
    "getattr": lambda mark: Runs(getattr, "", "join"),
    "numpy.load": lambda mark: Runs(np.load, str(mark), None, True),
    "a new type": lambda mark: Runs(type, "Mine", (), {}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_runs_something_is_refused_before_it_runs(tmp_path, attack):
    mark, path = tmp_path / "mark", tmp_path / "bad.pickle"
    for protocol in (0, 2, 5):
        path.write_bytes(pickle.dumps({"weight": ATTACKS[attack](mark)}, protocol))
        for read in (arrays_from_pickle, tensors_from_bin):
            with pytest.raises(InputError, match=r"bad\.pickle: cannot be read as a .* alone .*; refused"):
                read(path)
        assert not mark.exists()
    if attack == "os.system":
        pickle.loads(path.read_bytes())  # it would have worked
        assert mark.exists()


def by_python_2(content):
    """Pickled as Python 2 and NumPy 1 did."""
    return pickle.dumps(content, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_arrays_come_through_and_nothing_else(tmp_path):
    path = tmp_path / "arrays.pkl"
    for dtype in (np.float32, np.int64, np.bool_):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        path.write_bytes(by_python_2({"a": array, "b": array.T}))
        arrays = arrays_from_pickle(path)
        assert arrays["a"].dtype == dtype
        np.testing.assert_array_equal(arrays["a"], array)
        np.testing.assert_array_equal(arrays["b"], array.T)
    for content in ([array], {1: array}, {"a": np.array([{}], object)}, {"a": [array]}, {"a": None}):
        path.write_bytes(by_python_2(content))
        with pytest.raises(InputError, match=r"arrays\.pkl"):
            arrays_from_pickle(path)


def test_half_a_file_is_named(tmp_path):
    (tmp_path / "half.pkl").write_bytes(by_python_2({"a": np.zeros(1000)})[:500])
    for read in (arrays_from_pickle, tensors_from_bin):
        with pytest.raises(InputError, match=r"half\.pkl"):
            read(tmp_path / "half.pkl")


def test_a_torch_checkpoint_becomes_safetensors(tmp_path):
    shared = torch.randn(4, 3)
    tensors = {"a": shared, "tied": shared, "turned": shared.T, "count": torch.tensor(3)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    to_safetensors(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)


def test_vggface2_s_weights_get_torchvision_s_names(tmp_path):
    path = tmp_path / "resnet50_ft_weight.pkl"
    path.write_bytes(by_python_2({"bn1.running_mean": np.ones(2, np.float32), "fc.bias": np.zeros(3, np.float32)}))
    to_safetensors(path, tmp_path / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert sorted(written) == ["bn1.num_batches_tracked", "bn1.running_mean", "fc.bias"]
    assert written["bn1.num_batches_tracked"].dtype == torch.int64
