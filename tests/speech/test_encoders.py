"""Speech encoders: the libraries' own models from their own folders, batched, frozen, quiet and safe."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minivox.build.speech_folders import new_ast, new_ecapa, save_ast, save_ecapa
from v2f_core.errors import InputError
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder, load_encoder


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both miniatures with random weights."""
    root = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ast = new_ast()
        torch.nn.init.normal_(ast.embeddings.position_embeddings, std=0.5)
        torch.nn.init.normal_(ast.embeddings.cls_token, std=0.5)
        save_ast(ast, root / "ast")
        ecapa = new_ecapa()
        for _ in range(5):  # batch norms that have seen something
            ecapa(torch.randn(8, 60, 80) * 3 + 1)
        save_ecapa(ecapa, torch.randn(7, 192), torch.randn(10, 192), root / "ecapa")
    return {"ast": root / "ast", "ecapa": root / "ecapa"}


@pytest.fixture(params=["ast", "ecapa"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


# ---- both ----


def test_shapes_and_numbers(folders: dict[str, Path], kind: str) -> None:
    encoder = load_encoder(kind, folders[kind])
    vectors = encoder.embed(noise(3, 20_000))
    assert vectors.shape == (3, encoder.dim) == (3, {"ast": 128, "ecapa": 192}[kind])
    assert encoder.sample_rate == 16_000
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()
    assert 0.4e6 < sum(p.numel() for p in encoder.parameters()) < 0.7e6


def test_a_clip_does_not_hear_its_neighbours(folders: dict[str, Path], kind: str) -> None:
    encoder = load_encoder(kind, folders[kind])
    waves = noise(4, 20_000) * torch.tensor([1.0, 9.0, 0.01, 0.3])[:, None]
    alone = torch.cat([encoder.embed(wave[None]) for wave in waves])
    torch.testing.assert_close(encoder.embed(waves), alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.embed(waves.flip(0)).flip(0), alone, atol=2e-5, rtol=1e-4)


def test_frozen_until_unfrozen(folders: dict[str, Path], kind: str) -> None:
    encoder = load_encoder(kind, folders[kind])
    assert not any(p.requires_grad for p in encoder.parameters())
    last = list(encoder.parameters())[-1] if kind == "ast" else encoder.parts["embedding_model"].fc.conv.weight
    last.requires_grad_(True)
    assert not encoder.embed(noise(2, 20_000)).requires_grad
    encoder(noise(2, 20_000)).sum().backward()
    assert last.grad is not None
    assert last.grad.abs().sum() > 0


def test_loading_is_quiet_and_leaves_no_trace(
    folders: dict[str, Path],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in folders[kind].rglob("*")}
    load_encoder(kind, os.path.relpath(folders[kind], tmp_path)).embed(noise(1, 20_000))
    assert {p: p.stat().st_mtime_ns for p in folders[kind].rglob("*")} == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_too_short_a_clip_is_refused(folders: dict[str, Path], kind: str) -> None:
    with pytest.raises(InputError, match="clips of 100 samples: expected at least"):
        load_encoder(kind, folders[kind]).embed(noise(1, 100))


def test_missing_folder_and_files(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected an .* folder with"):
        load_encoder(kind, tmp_path / "nowhere")
    for file in folders[kind].iterdir():
        copy = shutil.copytree(folders[kind], tmp_path / f"without {file.name}")
        (copy / file.name).unlink()
        with pytest.raises(InputError, match=f"lacks {file.name}; copy the whole folder"):
            load_encoder(kind, copy)


def test_a_folder_of_the_other_kind(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"an AST folder lacks config\.json"):
        load_encoder("ast", folders["ecapa"])
    with pytest.raises(InputError, match=r"an ECAPA folder lacks hyperparams\.yaml"):
        load_encoder("ecapa", folders["ast"])


# ---- AST ----


@pytest.mark.parametrize("samples", [400, 8_000, 20_000, 40_000])
def test_features_equal_the_extractor(folders: dict[str, Path], samples: int) -> None:
    """Padded when shorter than 128 frames, cut when longer; one by one in the library, at once here."""
    from transformers import ASTFeatureExtractor

    waves = noise(3, samples)
    extractor = ASTFeatureExtractor.from_pretrained(folders["ast"])
    theirs = extractor([w.numpy() for w in waves], sampling_rate=16_000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(ASTEncoder.from_folder(folders["ast"]).features(waves).numpy(), theirs, atol=1e-4)


def test_v_spk_is_cls_and_not_the_pooler(folders: dict[str, Path]) -> None:
    from transformers import ASTFeatureExtractor, ASTModel

    waves = noise(2, 20_000)
    extractor = ASTFeatureExtractor.from_pretrained(folders["ast"])
    inputs = extractor([w.numpy() for w in waves], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        output = ASTModel.from_pretrained(folders["ast"], dtype=torch.float32).eval()(**inputs)
    found = ASTEncoder.from_folder(folders["ast"]).embed(waves)
    torch.testing.assert_close(found, output.last_hidden_state[:, 0], atol=1e-4, rtol=1e-4)
    distillation = output.last_hidden_state[:, 1]
    torch.testing.assert_close(output.pooler_output, (output.last_hidden_state[:, 0] + distillation) / 2)
    assert (found - output.pooler_output).abs().max() > 0.1


def test_the_published_geometry_padded_or_cut(tmp_path: Path) -> None:
    """1,024 frames, stride 10: padded as published, or cut to 128 frames by keeping the first positions of each row."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = ASTModel(ASTConfig(**shape)).eval()
        torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(tmp_path)
    ASTFeatureExtractor().save_pretrained(tmp_path)
    waves = noise(2, 20_000)

    whole = ASTEncoder.from_folder(tmp_path)
    assert whole.features(waves).shape == (2, 1024, 128)
    assert whole.embed(waves).shape == (2, 16)

    short = ASTModel(ASTConfig(**shape, max_length=128)).eval()
    weights = model.state_dict()
    table, rows = weights["embeddings.position_embeddings"], []
    for row in range(12):  # (128 mel − 16) // 10 + 1 rows of (1024 − 16) // 10 + 1 = 101 positions; 12 of them are kept
        rows += [table[:, 2 + 101 * row + column] for column in range(12)]
    weights["embeddings.position_embeddings"] = torch.stack([table[:, 0], table[:, 1], *rows], 1)
    short.load_state_dict(weights)
    cut = ASTEncoder.from_folder(tmp_path, max_frames=128)
    expected = ASTEncoder(short, ASTFeatureExtractor(max_length=128))
    torch.testing.assert_close(cut.embed(waves), expected.embed(waves))
    with pytest.raises(InputError, match="max_frames=2000: expected 16 to 1024"):
        ASTEncoder.from_folder(tmp_path, max_frames=2000)


def test_a_checkpoint_that_lacks_a_layer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folders["ast"], tmp_path / "ast")
    weights = load_file(copy / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"weights lack layernorm\.weight"):
        load_encoder("ast", copy)


# ---- ECAPA ----


def test_ecapa_equals_encode_batch(folders: dict[str, Path]) -> None:
    from speechbrain.inference.classifiers import EncoderClassifier
    from speechbrain.utils.fetching import LocalStrategy

    place = str(folders["ecapa"])
    theirs = EncoderClassifier.from_hparams(
        source=place, overrides={"pretrained_path": place}, local_strategy=LocalStrategy.NO_LINK
    )
    waves = noise(3, 20_000)
    torch.testing.assert_close(ECAPAEncoder.from_folder(place).embed(waves), theirs.encode_batch(waves).squeeze(1))
    assert theirs.classify_batch(waves)[0].shape == (3, 7)
    assert theirs.hparams.label_encoder.decode_torch(torch.tensor([3])) == ["voices/0003"]


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_a_pickle_with_code_is_refused_unrun(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    copy = shutil.copytree(folders["ecapa"], tmp_path / "ecapa")
    (copy / "mean_var_norm_emb.ckpt").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(InputError, match=r"mean_var_norm_emb\.ckpt: refused"):
        load_encoder("ecapa", copy)
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    "line", ["x: !apply:os.mkdir [trapped]", "x: !new:subprocess.Popen [ls]", "x: !include:a.yaml"]
)
def test_a_yaml_with_code_is_refused_unrun(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(folders["ecapa"], tmp_path / "ecapa")
    with (copy / "hyperparams.yaml").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"hyperparams\.yaml: !\w+:.* refused"):
        load_encoder("ecapa", copy)
    assert not Path("trapped").exists()
