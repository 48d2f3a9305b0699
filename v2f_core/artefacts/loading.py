"""The one door for models that others made: a file loads whole, with finite numbers, or is refused in one line.

A pickle can run any program. Torch's ``.bin`` and ``.ckpt`` files are loaded with ``weights_only=True``. The published
VGGFace2 weights, a pickle of arrays, are read by an unpickler that knows no other class or function.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from v2f_core.errors import InputError

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

MOST_BYTES = 16_000_000  # of a JSON file; a tokenizer's vocabulary has one
REFUSED = "refused; get it again from its publisher"
LARGEST, MOST_LAYERS = 100_000, 1000  # numbers in a config: memory and time are taken before the weights are looked at


@contextmanager
def refusing(path: str | Path, kind: str, remedy: str = "get it again") -> Iterator[None]:
    """Turn whatever a library raises in the block into one line, such as

    ``prior/unet: cannot be read as a UNet (invalid literal for int() …); get it again``. ``kind`` is what was expected
    there, ``remedy`` the way out. An `InputError` gets the path, if it lacks it.
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except BaseException as error:
        # Rust's libraries (safetensors, tokenizers) panic with a class of their own; a full GPU is no fault of a file
        name = type(error).__name__
        if name == "OutOfMemoryError" or not (isinstance(error, Exception) or name == "PanicException"):
            raise
        raise InputError(f"{path}: cannot be read as {kind} ({one_line(error)}); {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No logs, bars or deprecation warnings of the libraries; what matters about a folder is checked here."""
    from transformers.utils import logging as hf_logging

    bars, disabled = hf_logging.is_progress_bar_enabled(), logging.root.manager.disable
    hf_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if bars:
            hf_logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """A library's message on one line, cut short; its class where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def checked_folder(folder: str | Path, files: tuple[str, ...], kind: str, remedy: str = "copy it whole") -> Path:
    """The folder; an ``InputError`` if it or one of its files is not there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {kind} folder with {', '.join(files)}")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise InputError(f"{folder}: {kind} folder lacks {', '.join(missing)}; {remedy}")
    return folder


def read_json(path: str | Path, remedy: str = "get it again") -> dict[str, Any]:
    """A JSON file of at most 16 MB that holds names with values; an ``InputError`` for any other."""
    path = Path(path)
    with refusing(path, "JSON", remedy):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        return _names(path.read_text(encoding="utf-8"))


def _names(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError("expected names with values")
    return content


def check_config(path: str | Path) -> dict[str, Any]:
    """A model's JSON settings, none of which would take all memory or hours before the weights are looked at."""
    config = read_json(path)
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        most = MOST_LAYERS if "layers" in name else LARGEST
        numbers = [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]
        # infinite ones mean "no limit", as in diffusers' schedulers
        if len(values) > MOST_LAYERS or not all(-LARGEST <= n <= most or math.isinf(n) for n in numbers):
            raise InputError(f"{path}: {name} is {str(value)[:50]}; expected a model's setting; get it again")
    return config


def read_tensors(path: str | Path, remedy: str = "get it again") -> dict[str, Tensor]:
    """The tensors of a safetensors file; an ``InputError`` if one is NaN or infinite."""
    from safetensors.torch import load_file

    with refusing(path, "safetensors", remedy):
        tensors = load_file(path)
        check_finite(tensors, path, remedy)
        return tensors


def read_header(path: str | Path, key: str, remedy: str = "get it again") -> dict[str, Any]:
    """The JSON under a key of a safetensors file's metadata; the tensors are not read."""
    from safetensors import safe_open

    with refusing(path, f"a file with the header {key!r}", remedy), safe_open(path, "pt") as file:
        return _names(file.metadata()[key])


def check_finite(weights: Mapping[str, Tensor] | nn.Module, path: str | Path, remedy: str = "get it again") -> None:
    """Refuse weights that are NaN or infinite: what they compute is NaN, and a picture of it is black."""
    import torch

    tensors = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    for name, value in tensors.items():
        # lowest and highest: one pass and no copy, and NaN is both
        if value.is_floating_point() and value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinite numbers; {remedy}")


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """An ONNX net with all of its weights in the file; none may be NaN, infinite, or in other files."""
    import onnx
    import torch

    with refusing(path, "an ONNX net", "fetch the pack again"):
        model = onnx.load(str(path), load_external_data=False)
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        if not model.graph.input or not model.graph.output:
            raise ValueError("no input or no output")
        check_finite({name: torch.tensor(value) for name, value in weights.items()}, path)
        return model


# --- pickles

_ARRAYS: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    "_codecs.encode": lambda text, _="latin1": text.encode("latin1"),  # the bytes of an array
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in _ARRAYS:
            raise pickle.UnpicklingError(f"{name} is no part of an array")
        return _ARRAYS[name]


def arrays_from_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """The NumPy arrays of a dictionary pickled by Python 2. Any other class or function is refused before it runs."""
    with refusing(path, "a pickle of arrays alone", REFUSED), Path(path).open("rb") as file:
        arrays = dict(_ArraysOnly(file, encoding="latin1").load())
        for name, array in arrays.items():
            if not isinstance(name, str) or not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                raise ValueError(f"{name} is no array of numbers")
        return arrays


def tensors_from_bin(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint (``.bin``, ``.ckpt``), which may hold nothing else."""
    import torch

    with refusing(path, "a checkpoint of tensors alone", REFUSED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of an unusual form: they load, or they raise
        tensors = dict(torch.load(path, map_location="cpu", weights_only=True))
        if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise ValueError("expected a dictionary of tensors")
        return tensors
