"""MiniVox-L ships as embeddings only: few bytes, the same persons, and no other nets' numbers."""

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from minivox import large
from minivox.build.pack import write_hashes
from minivox.large import KINDS, compress, expand
from v2f_core.app.evaluate import evaluate
from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import load_profile
from v2f_core.artefacts.store import Embeddings
from v2f_core.data.voxceleb import open_dataset
from v2f_core.errors import InputError
from v2f_core.identity.faces import FacePack
from v2f_core.identity.photos import read_image
from v2f_core.identity.sphere import check_unit
from v2f_core.speech.audio import read_clips
from v2f_core.speech.encoders import load_encoder
from v2f_core.training.embeddings import READY, embed_dataset
from v2f_core.training.pairs import pair_up


def test_packed_vectors_are_within_half_a_step_on_each_axis_and_the_dropped_axes_are_faint():
    vectors = torch.randn(300, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -4, 24)
    packed = compress(vectors, explained=0.999)
    assert packed["axes"].shape[0] < 24
    assert packed["codes"].dtype == torch.uint8
    axes = packed["axes"].float()
    told = vectors @ axes.T - (packed["low"] + packed["codes"] * packed["step"])
    assert bool((told.abs() <= 0.5 * packed["step"] + 1e-4).all())
    lost = (vectors - expand(packed)).square().sum() / vectors.square().sum()
    assert float(lost) < 2e-3  # a thousandth by the axes, a little by the steps


@pytest.fixture
def two_persons(tmp_path):
    """Two persons of a photograph and a recording each; one photograph shows no face."""
    rows = [(name, "f", "test", kind, "", f"{name}.{kind}") for name in ("Ada", "Eve") for kind in ("face", "voice")]
    table = pd.DataFrame(rows, columns=["person", "sex", "split", "kind", "session", "path"])
    factors = pd.DataFrame({"name": ["Ada", "Eve"], "age": [30, 40]})
    stores = {}
    for name, kind in KINDS.items():
        items = [f"Ada.{kind}", f"Eve.{kind}"][: 1 if kind == "face" else 2]
        if kind == "voice":
            items = [*items, "Eve.voice"]  # a second window
        vectors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[: len(items)]
        hashes = {"weights_sha256": folder_hash(load_profile().part(name))}
        stores[name] = Embeddings(vectors, items, [], hashes)
    large.pack(table, factors, stores, tmp_path / "assets" / "minivox_large")
    write_hashes(tmp_path / "assets")
    return tmp_path / "assets" / "minivox_large"


def unpacked_by(folder, cache, encoder="ast"):
    profile = replace(load_profile(), dataset=large.unpack(cache, folder), dataset_is_packed=False, encoder=encoder)
    return profile, open_dataset(profile)


@pytest.mark.parametrize("encoder", ["ast", "ecapa", "ge2e"])
def test_an_unpacked_set_is_a_dataset_with_its_embeddings(two_persons, tmp_path, encoder):
    profile, manifest = unpacked_by(two_persons, tmp_path / "cache", encoder)
    voices, faces = embed_dataset(profile, manifest)
    torch.testing.assert_close(voices.of(["Eve.voice"])[0], torch.tensor([[0, 0.5, 0.5]]), atol=0.01, rtol=0)
    assert [item for item, _ in faces.skipped] == ["Eve.face"]
    pairs = pair_up(manifest, voices, faces, "test")
    assert (pairs.persons, pairs.left_out) == (["Ada"], ["Eve"])
    assert large.unpack(tmp_path / "cache", two_persons) == manifest.root  # made once


def test_embeddings_by_other_nets_are_refused(two_persons, tmp_path):
    profile, manifest = unpacked_by(two_persons, tmp_path / "cache")
    with pytest.raises(InputError, match=r"embeddings/ast: made by other weights than .*ecapa"):
        embed_dataset(replace(profile, ast=profile.ecapa), manifest)


@pytest.mark.parametrize("name", [large.NUMBERS, large.TABLE, large.PEOPLE])
def test_a_damaged_file_is_named(two_persons, tmp_path, name):
    path = two_persons / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=f"{name}: missing or damaged"):
        large.unpack(tmp_path / "cache", two_persons)


def test_a_cache_that_cannot_be_written_to_is_named(two_persons, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file: cannot be written to .*V2F_CACHE"):
        large.unpack(tmp_path / "file", two_persons)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return unpacked_by(large.PACKED, tmp_path_factory.mktemp("cache"))


def test_the_shipped_set_has_its_persons_and_nobody_of_minivoxs_test_split(shipped):
    _, manifest = shipped
    assert Counter(manifest.persons().split) == {"train": 2890, "val": 100, "test": 1000}
    minivox = open_dataset(load_profile())
    assert not set(minivox.persons("test").index) & set(manifest.persons().index)
    assert set(minivox.persons("val").index) == set(manifest.persons("val").index)


def test_shipped_embeddings_are_those_of_the_files(shipped):
    """Of three persons whose files MiniVox has."""
    profile, manifest = shipped
    minivox = open_dataset(load_profile())
    voices, faces = minivox.voices("val").path[::99].tolist(), minivox.faces("val").path[::99].tolist()
    for encoder in ("ast", "ecapa", "ge2e"):
        known = embed_dataset(replace(profile, encoder=encoder), manifest)[0].of(voices)[0]
        net = load_encoder(encoder, profile.part(encoder))
        windows = [net.embed(read_clips(minivox.root / path, profile.clip_seconds)) for path in voices]
        again = torch.stack([rows.mean(dim=0) for rows in windows])
        assert float(F.cosine_similarity(known, again).min()) > 0.99
    pictures = [read_image(minivox.root / path) for path in faces]
    identities, _ = FacePack.from_folder(profile.part("faces")).embed(pictures)
    known = check_unit(embed_dataset(profile, manifest)[1].of(faces)[0])
    assert float(F.cosine_similarity(known, torch.from_numpy(identities)).min()) > 0.99


def test_evaluate_makes_stage_1s_table_of_the_shipped_set_and_says_what_is_left_out(shipped, tmp_path, capsys):
    """Of some of its persons."""
    profile, manifest = shipped
    few = manifest.persons().groupby(["split", "sex"]).head(30).index
    (tmp_path / "few").mkdir()
    manifest.table[manifest.table.person.isin(few)].to_csv(tmp_path / "few" / "manifest.csv", index=False)
    (tmp_path / "few" / READY).symlink_to(manifest.root / READY)
    evaluate(tmp_path / "out", replace(profile, dataset=tmp_path / "few"), systems="none", limit=8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["stage1.csv", "stage1.md"]
    table = pd.read_csv(tmp_path / "out" / "stage1.csv").set_index(["gallery", "system"])
    assert table.loc["all", "full"]["n"] == 8
    assert "embeddings along, and no photographs" in capsys.readouterr().out
