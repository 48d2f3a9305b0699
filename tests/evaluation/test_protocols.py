"""Galleries: who stands in which, who in none, and what chance finds there."""

import numpy as np
import pandas as pd
import pytest
import torch

from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.protocols import ALL, SF2F, WITHIN, chance, first_of_each_sex, galleries, photographs, sizes
from v2f_core.training.embeddings import Embeddings
from v2f_core.training.pairs import pair_up


def test_everybody_stands_in_one_gallery_and_with_their_sex_in_another_if_there_is_another():
    labels = galleries(list("fmfmm"))
    assert {name: sizes(column) for name, column in labels.items()} == {ALL: [5], WITHIN: [2, 3]}
    assert galleries(["f", "f", "m", "", ""])[WITHIN].tolist() == ["f", "f", "", "", ""]
    assert list(galleries(["", ""])) == list(galleries(["f", "m"])) == [ALL]


def test_300_persons_bring_three_galleries_of_100_and_the_rest_stand_in_none():
    labels = galleries(["f", "m"] * 155)[SF2F]
    assert [sorted(set(labels[i : i + 100])) for i in (0, 100, 200)] == [["1-100"], ["101-200"], ["201-300"]]
    assert (set(labels[300:]), sizes(labels)) == ({""}, [100, 100, 100])
    assert SF2F not in galleries(["f", "m"] * 149)


@pytest.mark.parametrize(("sexes", "k"), [("f" * 12 + "m" * 8, 10), ("f" * 6 + "m" * 6, 10), ("f" * 30 + "m" * 10, 5)])
def test_chance_is_what_random_orders_find_and_never_above_1(sexes, k):
    labels = galleries(list(sexes))[WITHIN]
    g, n = np.random.default_rng(0), len(sexes)
    hits = [metrics.within(lambda s: metrics.recall(s, k), g.random((n, n)), labels) for _ in range(400)]
    by_gallery = [np.mean([h[labels == name].mean() for h in hits]) for name in "fm"]
    assert chance(labels, k) == pytest.approx(np.mean(by_gallery), abs=0.02)
    assert chance(labels, k) <= 1


def test_a_limit_takes_the_first_of_each_sex_alike():
    sexes = ["f"] * 20 + ["m"] * 20
    assert first_of_each_sex(sexes, 9) == [*range(5), *range(20, 24)]
    assert first_of_each_sex(sexes, 100) == list(range(40))
    with pytest.raises(InputError, match="at least 8 persons"):
        first_of_each_sex(sexes, 7)


def test_photographs_follow_the_identities_and_skip_what_was_skipped(tmp_path):
    rows = [
        (who, sex, "test", "face", "", f"{who}/{i}.png") for who, sex in (("Bea", "f"), ("Ada", "f")) for i in (0, 1)
    ]
    rows += [(who, "f", "test", "voice", "v", f"{who}.wav") for who in ("Ada", "Bea")]
    manifest = Manifest(tmp_path, pd.DataFrame(rows, columns=COLUMNS))
    faces = Embeddings(torch.eye(3), ["Ada/1.png", "Bea/0.png", "Bea/1.png"], [("Ada/0.png", "dark")], {})
    voices = Embeddings(torch.eye(2), ["Ada.wav", "Bea.wav"], [], {})
    test = pair_up(manifest, voices, faces, "test")
    found = photographs(manifest, faces, test)
    assert found == [[tmp_path / "Ada/1.png"], [tmp_path / "Bea/0.png", tmp_path / "Bea/1.png"]]
    for person, paths in enumerate(found):  # path k is identity k
        part = test.face[test.face_start[person] : test.face_start[person + 1]]
        expected = [faces.vectors[faces.items.index(path.relative_to(tmp_path).as_posix())] for path in paths]
        torch.testing.assert_close(part, torch.stack(expected))
