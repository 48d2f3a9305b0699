"""Speech encoders equal their libraries' models, load without running code, and train their top layers alone."""

import os
import shutil

import numpy as np
import pytest
import torch

from minivox.build.speech_folders import new_ast, new_ecapa, save_ast, save_ecapa
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.errors import InputError
from v2f_core.speech.audio import AudioWarning
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder, load_encoder, save_encoder, unfreeze


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
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
    return {"ast": root / "ast", "ecapa": root / "ecapa", "ge2e": MINI_ASSETS / "ge2e"}


@pytest.fixture(params=["ast", "ecapa", "ge2e"])
def kind(request):
    return request.param


# ---- both ----


def test_a_clip_does_not_hear_its_neighbours_and_must_not_be_too_short(folders, kind):
    encoder = load_encoder(kind, folders[kind])
    with pytest.raises(InputError, match="clips of 100 samples: expected at least"):
        encoder.embed(noise(1, 100))
    waves = noise(4, 20_000) * torch.tensor([1.0, 9.0, 0.01, 0.3])[:, None]
    alone = torch.cat([encoder.embed(wave[None]) for wave in waves])
    torch.testing.assert_close(encoder.embed(waves.flip(0)).flip(0), alone, atol=2e-5, rtol=1e-4)


def test_loading_is_quiet_and_leaves_no_trace(folders, kind, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in folders[kind].rglob("*")}
    load_encoder(kind, os.path.relpath(folders[kind], tmp_path)).embed(noise(1, 20_000))
    assert {p: p.stat().st_mtime_ns for p in folders[kind].rglob("*")} == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_missing_folder_and_files(folders, kind, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected an? .* folder with"):
        load_encoder(kind, tmp_path / "nowhere")
    for file in folders[kind].iterdir():
        copy = shutil.copytree(folders[kind], tmp_path / f"without {file.name}")
        (copy / file.name).unlink()
        with pytest.raises(InputError, match=f"lacks {file.name}; copy it whole"):
            load_encoder(kind, copy)


# ---- AST ----


@pytest.mark.parametrize("samples", [400, 8_000, 20_000, 40_000])
def test_features_equal_the_extractor(folders, samples):
    """Padded when shorter than 128 frames, cut when longer; one by one in the library, at once here."""
    from transformers import ASTFeatureExtractor

    waves = noise(3, samples)
    extractor = ASTFeatureExtractor.from_pretrained(folders["ast"])
    theirs = extractor([w.numpy() for w in waves], sampling_rate=16_000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(ASTEncoder.from_folder(folders["ast"]).features(waves).numpy(), theirs, atol=1e-4)


def test_v_spk_is_cls_and_not_the_pooler_and_long_clips_are_told_of(folders):
    from transformers import ASTFeatureExtractor, ASTModel

    waves = noise(2, 40_000)
    extractor = ASTFeatureExtractor.from_pretrained(folders["ast"])
    inputs = extractor([w.numpy() for w in waves], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        output = ASTModel.from_pretrained(folders["ast"], dtype=torch.float32).eval()(**inputs)
    with pytest.warns(AudioWarning, match=r"clips of 2\.50 s: this AST hears the first 1\.29 s"):
        found = ASTEncoder.from_folder(folders["ast"]).embed(waves)
    torch.testing.assert_close(found, output.last_hidden_state[:, 0], atol=1e-4, rtol=1e-4)
    assert (found - output.pooler_output).abs().max() > 0.1  # which averages it with the distillation token


# ---- ECAPA ----


def test_ecapa_equals_encode_batch(folders):
    from speechbrain.inference.classifiers import EncoderClassifier
    from speechbrain.utils.fetching import LocalStrategy

    place = str(folders["ecapa"])
    theirs = EncoderClassifier.from_hparams(
        source=place, overrides={"pretrained_path": place}, local_strategy=LocalStrategy.NO_LINK
    )
    waves = noise(3, 20_000)
    torch.testing.assert_close(ECAPAEncoder.from_folder(place).embed(waves), theirs.encode_batch(waves).squeeze(1))


# ---- the top layers, trained and saved ----

# what each layer is called in the library, from the bottom
NAMES = {
    "ast": [("layers.0.",), ("layers.1.",), ("layers.2.",), ("layers.3.", "layernorm.")],
    "ge2e": [("lstm.",), ("linear.",)],
    "ecapa": [("blocks.0.",), ("blocks.1.",), ("blocks.2.",), ("blocks.3.",), ("mfa.",), ("asp.", "asp_bn."), ("fc.",)],
}
INNER = {"ast": "model.", "ecapa": "net.", "ge2e": ""}


def trained_a_step(kind, folder, count):
    """An encoder after one large step on all its parameters that can move, and its state before."""
    encoder = load_encoder(kind, folder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    top = unfreeze(encoder, count).train()
    (encoder(noise(3, 8_000)) * noise(encoder.dim)).sum().backward()
    with torch.no_grad():
        for parameter in top.parameters():
            parameter -= 0.01 * parameter.grad.sign()
    return encoder.eval(), before


def test_exactly_the_upper_layers_get_gradients_and_change(folders, kind):
    assert not any(p.requires_grad for p in load_encoder(kind, folders[kind]).parameters())
    for count in (1, len(NAMES[kind]) - 1):
        encoder, before = trained_a_step(kind, folders[kind], count)
        names = tuple(INNER[kind] + name for layer in NAMES[kind][len(NAMES[kind]) - count :] for name in layer)
        for name, parameter in encoder.named_parameters():
            assert name.startswith(names) == parameter.requires_grad == (parameter.grad is not None), name
        # of the buffers, too, only those of trained batch norms; a bias before a norm may get no gradient at all
        moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
        assert all(name.startswith(names) for name in moved)
        assert all(any(name.startswith(layer) for name in moved) for layer in names)


def test_what_was_saved_hears_the_same(folders, kind, tmp_path):
    encoder, _ = trained_a_step(kind, folders[kind], 2)
    save_encoder(encoder, folders[kind], tmp_path / "tuned")
    waves = noise(2, 20_000, seed=5)
    again = load_encoder(kind, tmp_path / "tuned")
    assert torch.equal(again.embed(waves), encoder.embed(waves))
    assert not torch.equal(again.embed(waves), load_encoder(kind, folders[kind]).embed(waves))
    assert {p.name for p in (tmp_path / "tuned").iterdir()} == {p.name for p in folders[kind].iterdir()}


def test_an_ast_cut_to_few_frames_keeps_its_first_positions_and_saves_them_all(tmp_path):
    """As the full profile loads the published one, of 1,024 frames and stride 10: cut to 128."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = ASTModel(ASTConfig(**shape)).eval()
        torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(tmp_path / "source")
    ASTFeatureExtractor().save_pretrained(tmp_path / "source")
    waves = noise(2, 20_000)
    assert ASTEncoder.from_folder(tmp_path / "source").features(waves).shape == (2, 1024, 128)

    short = ASTModel(ASTConfig(**shape, max_length=128)).eval()
    weights = model.state_dict()
    table, rows = weights["embeddings.position_embeddings"], []
    for row in range(12):  # (128 mel − 16) // 10 + 1 rows of (1024 − 16) // 10 + 1 = 101 positions; 12 of them are kept
        rows += [table[:, 2 + 101 * row + column] for column in range(12)]
    weights["embeddings.position_embeddings"] = torch.stack([table[:, 0], table[:, 1], *rows], 1)
    short.load_state_dict(weights)
    cut = ASTEncoder.from_folder(tmp_path / "source", max_frames=128)
    torch.testing.assert_close(cut.embed(waves), ASTEncoder(short, ASTFeatureExtractor(max_length=128)).embed(waves))
    with pytest.raises(InputError, match="max_frames=2000: expected 16 to 1024"):
        ASTEncoder.from_folder(tmp_path / "source", max_frames=2000)
    with pytest.raises(InputError, match="unfreeze=8: this encoder has 2 layers"):
        unfreeze(cut, 8)

    with torch.no_grad():
        for parameter in unfreeze(cut, 1).parameters():
            parameter += 0.1
    save_encoder(cut, tmp_path / "source", tmp_path / "tuned")
    assert torch.equal(ASTEncoder.from_folder(tmp_path / "tuned", 128).embed(waves), cut.embed(waves))
    whole = ASTEncoder.from_folder(tmp_path / "tuned").model.embeddings.position_embeddings
    assert torch.equal(whole, model.embeddings.position_embeddings)
