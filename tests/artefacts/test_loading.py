"""Damaged models: every loader refuses a file that is cut, misspelt or not of numbers, in one line that names it."""

import json
import shutil

import onnx
import pytest
import torch
from parts import LOADERS
from safetensors.torch import load_file, save_file

from v2f_core.artefacts.loading import check_config, read_header, read_json, read_onnx, read_tensors, refusing
from v2f_core.errors import InputError


def refused(part, folder, named):
    with pytest.raises(InputError) as caught:
        LOADERS[part](folder)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    assert named in line, line


def weights_of(folder):
    return sorted(path for kind in ("safetensors", "onnx", "ckpt") for path in folder.rglob(f"*.{kind}"))


@pytest.mark.parametrize("part", LOADERS)
def test_weights_that_are_cut_off_or_no_weights_are_refused(parts, tmp_path, part):
    folder = shutil.copytree(parts / part, tmp_path / part)
    for path in weights_of(folder):
        content = path.read_bytes()
        for damaged in (b"no", content[:-100], bytes(len(content))):
            path.write_bytes(damaged)
            refused(part, folder, "; ")
        path.write_bytes(content)
    LOADERS[part](folder)


@pytest.mark.parametrize("part", sorted(LOADERS.keys() - {"faces", "ecapa"}))
def test_a_tensor_that_is_not_finite_missing_or_of_another_shape_is_refused(parts, tmp_path, part):
    folder = shutil.copytree(parts / part, tmp_path / part)
    for i, path in enumerate(weights_of(folder)):
        content = path.read_bytes()
        for change in ("finite", "missing", "shape"):
            tensors = load_file(path)
            name = max(tensors, key=lambda name: tensors[name].numel())
            tensor = tensors.pop(name)
            if change == "finite":
                tensor.view(-1)[-1] = (float("nan"), float("inf"))[i % 2]
            if change != "missing":
                tensors[name] = tensor.flatten()[1:].clone() if change == "shape" else tensor
            save_file(tensors, path, {"format": "pt"})
            refused(part, folder, "NaN or infinite numbers" if change == "finite" else "; ")
            path.write_bytes(content)


def test_an_onnx_net_and_a_checkpoint_of_nan_are_refused(parts, tmp_path):
    folder = shutil.copytree(parts / "faces", tmp_path / "faces")
    for path in weights_of(folder):
        model, content = onnx.load(path), path.read_bytes()
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[0] = float("nan")
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save(model, path)
        refused("faces", folder, f"{path.name}: {tensor.name} holds NaN")
        path.write_bytes(content)
    folder = shutil.copytree(parts / "ecapa", tmp_path / "ecapa")
    state = torch.load(folder / "embedding_model.ckpt", weights_only=True)
    next(iter(state.values())).view(-1)[0] = float("nan")
    torch.save(state, folder / "embedding_model.ckpt")
    refused("ecapa", folder, "embedding_model.ckpt")


@pytest.mark.parametrize("part", sorted(LOADERS.keys() - {"faces", "ecapa"}))
def test_a_config_that_is_broken_is_refused(parts, tmp_path, part):
    folder = shutil.copytree(parts / part, tmp_path / part)
    name = {"prior": "unet/config.json", "pipeline": "model_index.json"}.get(part, "config.json")
    for content in ("{", "[]", "\xff", "{}", '{"_class_name": 7}', "[" * 100_000):
        (folder / name).write_text(content, encoding="latin-1")
        refused(part, folder, "; ")


@pytest.mark.parametrize(
    ("part", "file", "name", "value"),
    [
        ("ast", "config.json", "num_hidden_layers", 10**9),
        ("ast", "preprocessor_config.json", "num_mel_bins", 10**6),
        ("ast", "preprocessor_config.json", "std", 0.0),
        ("ge2e", "config.json", "level_dbfs", "loud"),
        ("judge", "config.json", "size", 50_000),
        ("judge", "config.json", "scale", 0),
        ("aligner", "config.json", "hidden_width", 10**6),
        ("posterior", "config.json", "kappa", float("nan")),
        ("prior", "unet/config.json", "sample_size", 10**6),
        ("prior", "unet/config.json", "norm_num_groups", 0),
        ("prior", "vae/config.json", "scaling_factor", 0.0),
        ("prior", "scheduler/scheduler_config.json", "num_train_timesteps", 10**12),
        ("prior", "scheduler/scheduler_config.json", "beta_end", 7.0),
        ("prior", "tokenizer/tokenizer_config.json", "model_max_length", 10**30),
        ("pipeline", "scheduler/scheduler_config.json", "num_train_timesteps", -1),
    ],
)
def test_a_setting_that_would_take_all_memory_or_give_nan_is_refused(parts, tmp_path, part, file, name, value):
    folder = shutil.copytree(parts / part, tmp_path / part)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {name: value}))
    refused(part, folder, "; ")


# --- the door itself


def test_an_interruption_is_no_damage():
    with pytest.raises(KeyboardInterrupt), refusing("x", "a model"):
        raise KeyboardInterrupt


def test_a_panic_of_a_rust_library_is_damage():
    class PanicException(BaseException):
        """As pyo3 names it."""

    with pytest.raises(InputError, match=r"x: cannot be read as a model \(index out of\)"), refusing("x", "a model"):
        raise PanicException("index\nout of")


@pytest.mark.parametrize(
    "read", [read_json, check_config, read_tensors, read_onnx, lambda path: read_header(path, "a")]
)
def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path, read):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=f"{path.name}: cannot be read as"):
            read(path)
