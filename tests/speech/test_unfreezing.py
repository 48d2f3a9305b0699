"""The top of an encoder is trained and nothing below it; what was trained is saved as its library keeps it."""

from pathlib import Path

import pytest
import torch

from minivox.build.speech_folders import new_ast, new_ecapa, save_ast, save_ecapa
from v2f_core.errors import InputError
from v2f_core.speech.encoders import ASTEncoder, load_encoder, save_encoder, unfreeze

# what each layer is called in the library, from the bottom
NAMES = {
    "ast": [("layers.0.",), ("layers.1.",), ("layers.2.",), ("layers.3.", "layernorm.")],
    "ecapa": [("blocks.0.",), ("blocks.1.",), ("blocks.2.",), ("blocks.3.",), ("mfa.",), ("asp.", "asp_bn."), ("fc.",)],
}
INNER = {"ast": "model.", "ecapa": "parts.embedding_model."}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Both miniatures with random weights."""
    root = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ast = new_ast()
        save_ast(ast, root / "ast")
        ecapa = new_ecapa()
        ecapa(torch.randn(4, 40, 80) * 3 + 1)  # batch norms that have seen something
        save_ecapa(ecapa, torch.randn(7, 192), torch.randn(10, 192), root / "ecapa")
    return {"ast": root / "ast", "ecapa": root / "ecapa"}


@pytest.fixture(params=["ast", "ecapa"])
def kind(request):
    return request.param


def upper(kind, count):
    """The beginnings of the names that ``count`` layers from the top have."""
    return tuple(INNER[kind] + name for layer in NAMES[kind][len(NAMES[kind]) - count :] for name in layer)


def trained_a_step(kind, folder, count):
    """An encoder after one large step on all its parameters that can move, and its state before."""
    encoder = load_encoder(kind, folder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    top = unfreeze(encoder, count).train()
    encoder(noise(3, 8_000)).square().sum().backward()
    with torch.no_grad():
        for parameter in top.parameters():
            parameter -= 0.01 * parameter.grad.sign()
    return encoder.eval(), before


def test_exactly_the_upper_layers_get_gradients_and_change(folders, kind):
    for count in range(0 if kind == "ast" else 1, len(NAMES[kind]) + 1, 2):
        if count == 0:
            assert not list(unfreeze(load_encoder(kind, folders[kind]), 0).parameters())
            continue
        encoder, before = trained_a_step(kind, folders[kind], count)
        names, parameters = upper(kind, count), dict(encoder.named_parameters())
        assert {name for name, p in parameters.items() if p.requires_grad} == {
            n for n in parameters if n.startswith(names)
        }
        assert all((p.grad is not None) == name.startswith(names) for name, p in parameters.items())
        for name, value in encoder.state_dict().items():
            # of the buffers too, only those of trained batch norms; a bias before a norm may get no gradient at all
            if not name.startswith(names):
                assert torch.equal(value, before[name]), name
        moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
        assert all(any(name.startswith(layer) for name in moved) for layer in names)


def test_batch_statistics_move_in_the_trained_part_alone(folders):
    encoder, before = trained_a_step("ecapa", folders["ecapa"], 2)
    moved = {n for n, v in encoder.state_dict().items() if "running" in n and not torch.equal(v, before[n])}
    assert moved
    assert all("asp" in name for name in moved)


def test_more_layers_than_there_are(folders, kind):
    with pytest.raises(InputError, match=rf"unfreeze=8: this encoder has {len(NAMES[kind])} layers"):
        unfreeze(load_encoder(kind, folders[kind]), 8)


def test_what_was_saved_hears_the_same(folders, kind, tmp_path: Path):
    encoder, _ = trained_a_step(kind, folders[kind], 2)
    save_encoder(encoder, folders[kind], tmp_path / "tuned")
    waves = noise(2, 20_000, seed=5)
    again = load_encoder(kind, tmp_path / "tuned")
    assert torch.equal(again.embed(waves), encoder.embed(waves))
    assert not torch.equal(again.embed(waves), load_encoder(kind, folders[kind]).embed(waves))
    assert {p.name for p in (tmp_path / "tuned").iterdir()} == {p.name for p in folders[kind].iterdir()}


def test_a_shortened_ast_keeps_all_its_positions_on_disk(tmp_path):
    """As the full profile loads the published one: 128 of 1,024 frames; here 48 of 96."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, max_length=96)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ASTModel(config)
        torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(tmp_path / "source")
    ASTFeatureExtractor(max_length=96).save_pretrained(tmp_path / "source")
    short = ASTEncoder.from_folder(tmp_path / "source", 48)
    with torch.no_grad():
        for parameter in unfreeze(short, 1).parameters():
            parameter += 0.1
    save_encoder(short, tmp_path / "source", tmp_path / "tuned")
    waves = noise(2, 6_000)
    assert torch.equal(ASTEncoder.from_folder(tmp_path / "tuned", 48).embed(waves), short.embed(waves))
    whole = ASTEncoder.from_folder(tmp_path / "tuned").model.embeddings.position_embeddings
    assert torch.equal(whole, model.embeddings.position_embeddings)
