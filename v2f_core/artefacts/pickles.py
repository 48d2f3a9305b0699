"""Read the numbers of an old checkpoint without running the program it may hold, and store them as safetensors.

A pickle can run any program. Torch's ``.bin`` and ``.ckpt`` files are loaded with ``weights_only=True``. Pickles of
NumPy arrays (the published VGGFace2 weights) are read by an unpickler that knows arrays and no other class or function.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

REFUSED = "refused; get it again from its publisher"


def _text_as_bytes(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")  # how the oldest protocols store an array's bytes


_MULTIARRAY: Any = np._core.multiarray  # type: ignore[attr-defined]
_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _text_as_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1's name and NumPy 2's
    _ARRAYS[f"{_core}.multiarray", "_reconstruct"] = _MULTIARRAY._reconstruct
    _ARRAYS[f"{_core}.multiarray", "scalar"] = _MULTIARRAY.scalar
    _ARRAYS[f"{_core}.numeric", "_frombuffer"] = np._core.numeric._frombuffer  # type: ignore[attr-defined]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of an array")
        return _ARRAYS[module_name, global_name]


def arrays_from_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """The NumPy arrays of a pickled dictionary.

    Raises:
        InputError: the file is missing, or holds anything but a dictionary of arrays of numbers. Any other class or
            function is refused before it runs.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pkl"
        >>> _ = path.write_bytes(pickle.dumps({"fc.bias": np.zeros(2)}))
        >>> arrays_from_pickle(path)
        {'fc.bias': array([0., 0.])}
    """
    with refusing(path, "a pickle of arrays alone", REFUSED), Path(path).open("rb") as file:
        arrays = _ArraysOnly(file, encoding="latin1").load()  # Python 2 wrote the published VGGFace2 weights
    if not isinstance(arrays, dict) or not all(isinstance(name, str) for name in arrays):
        raise InputError(f"{path}: expected a dictionary of arrays, found {type(arrays).__name__}")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise InputError(f"{path}: {name} is no array of numbers; {REFUSED}")
    return dict(arrays)


def tensors_from_bin(path: str | Path) -> dict[str, Tensor]:
    """The tensors of an old torch checkpoint (``.bin``, ``.ckpt``, ``.pth``).

    Raises:
        InputError: the file is missing, damaged or cut off, or holds more than tensors.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "pytorch_model.bin"
        >>> torch.save({"weight": torch.ones(2)}, path)
        >>> tensors_from_bin(path)
        {'weight': tensor([1., 1.])}
    """
    import torch

    with refusing(path, "a checkpoint of tensors alone", REFUSED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of an unusual form: they load, or they raise
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise InputError(f"{path}: expected a dictionary of tensors, found something else; {REFUSED}")
    return dict(tensors)


def to_safetensors(source: str | Path, target: str | Path) -> None:
    """Write the numbers of a pickle of arrays (``.pkl``) or of a torch checkpoint as safetensors.

    A ``.pkl`` is the published VGGFace2 net: its batch norms get torchvision's count of batches, which is zero.

    Raises:
        InputError: as :func:`arrays_from_pickle` and :func:`tensors_from_bin`; the target cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    if Path(source).suffix == ".pkl":
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays_from_pickle(source).items()}
        for name in [name for name in tensors if name.endswith("running_mean")]:
            tensors[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
        metadata = None
    else:
        tensors = tensors_from_bin(source)
        metadata = {"format": "pt"}  # transformers asks for it
    with atomic_write(target) as temporary:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, temporary, metadata=metadata)
