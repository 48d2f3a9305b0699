"""Old checkpoints are pickles, and a pickle can run any program: here they give up their numbers and nothing else.

``.bin`` and ``.ckpt`` of torch pass through ``weights_only=True``; pickles of NumPy arrays (SF2F's mel spectrograms,
the published VGGFace2 weights) through an unpickler that knows arrays and no other class or function. What is wanted
for good is written as safetensors.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MELS = 40  # bands of SF2F's log-mel spectrograms
REFUSED = "refused, it holds more than numbers or is damaged; get it again from its publisher"


def _text_as_bytes(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")  # how the oldest protocols store an array's bytes


_CORE: Any = np._core  # type: ignore[attr-defined]
_NUMPY = {
    "multiarray._reconstruct": _CORE.multiarray._reconstruct,
    "multiarray.scalar": _CORE.multiarray.scalar,
    "numeric._frombuffer": _CORE.numeric._frombuffer,
}
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _text_as_bytes,
}
for _core in ("core", "_core"):  # as NumPy 1 and NumPy 2 call it
    for _name, _maker in _NUMPY.items():
        _module, _, _function = _name.rpartition(".")
        _KNOWN[f"numpy.{_core}.{_module}", _function] = _maker


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _KNOWN[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of an array") from None


def arrays_from_pickle(path: str | Path) -> dict[str, Any]:
    """The NumPy arrays of a pickled dictionary, with plain text and numbers beside them.

    Raises:
        InputError: the file is missing, is no pickle of a dictionary, or names any class or function but arrays': it is
            refused before anything of it runs.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pkl"
        >>> _ = path.write_bytes(pickle.dumps({"fc.bias": np.zeros(2)}))
        >>> arrays_from_pickle(path)
        {'fc.bias': array([0., 0.])}
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="latin1").load()  # Python 2 wrote the published VGGFace2 weights
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise InputError(f"{path}: {REFUSED} ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{path}: expected a dictionary of arrays, found {type(found).__name__}")
    for name, value in found.items():
        numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        if not numbers and not isinstance(value, str | int | float):
            raise InputError(f"{path}: {name} is no array of numbers; {REFUSED}")
    return dict(found)


def read_mel(path: str | Path) -> Float32[np.ndarray, "40 frames"]:
    """A log-mel spectrogram as SF2F stores it: a pickle with the key ``LogMel_Features``, 40 bands.

    Raises:
        InputError: the file is no such pickle, or holds more than arrays (see `arrays_from_pickle`).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "id10001_J9lHsKG98U8_00026.pickle"
        >>> _ = path.write_bytes(pickle.dumps({"LogMel_Features": np.zeros((40, 5)), "spkid": "id10001"}))
        >>> read_mel(path).shape
        (40, 5)
    """
    mel = arrays_from_pickle(path).get("LogMel_Features")
    if not isinstance(mel, np.ndarray) or mel.ndim != 2 or mel.shape[0] != MELS:
        raise InputError(f"{path}: no spectrogram of {MELS} bands under LogMel_Features; expected SF2F's mel files")
    return mel.astype(np.float32)


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

    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of an unusual form: they load, or they do not
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path}: {REFUSED}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{path}: expected a dictionary of tensors, found something else; {REFUSED}")
    return dict(found)


def bin_to_safetensors(source: str | Path, target: str | Path) -> None:
    """Write an old torch checkpoint's tensors as safetensors, whole or not at all.

    Raises:
        InputError: as `tensors_from_bin`; the target cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors_from_bin(source).items()}
    with atomic_write(target) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def vggface2_to_safetensors(source: str | Path, target: str | Path) -> None:
    """Write the pickled VGGFace2 ResNet-50 as safetensors under torchvision's names.

    Its batch norms count no batches; torchvision's do, and get zeros.

    Raises:
        InputError: as `arrays_from_pickle`; the target cannot be written.
    """
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value) for name, value in arrays_from_pickle(source).items()}
    for name in [name for name in arrays if name.endswith("running_mean")]:
        arrays[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    with atomic_write(target) as temporary:
        save_file(arrays, temporary)
