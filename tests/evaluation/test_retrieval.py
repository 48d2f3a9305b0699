"""Search in blocks against whole tables, loops and scikit-learn; its chance levels against enumerations."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics, retrieval

seeds = st.integers(0, 10_000)


def unit(n, dim=8, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)).float()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that do not divide anything."""
    monkeypatch.setattr(retrieval, "QUERIES", 3)
    monkeypatch.setattr(retrieval, "FACES", 7)


def crowd(seed, persons=9, most=4):
    """Queries of all persons and a shuffled gallery in which each has 1 to 4 faces."""
    g = np.random.default_rng(seed)
    owner = g.permutation(np.repeat(np.arange(persons), g.integers(1, most + 1, persons)))
    return unit(persons, seed=seed), np.arange(persons), unit(len(owner), seed=seed + 1), owner


# --- one face a person: the same as metrics


@settings(max_examples=30)
@given(seeds)
def test_with_one_face_a_person_it_is_metrics(seed):
    query, gallery = unit(40, seed=seed), unit(40, seed=seed + 1)
    found = retrieval.search(query, np.arange(40), gallery, np.arange(40))
    scores = metrics.score_matrix(query.numpy(), gallery.numpy())
    assert found.rank.tolist() == metrics.rank(scores).tolist()
    assert found.recall(5).tolist() == metrics.recall(scores, 5).tolist()
    for of in (2, 5, 10):
        np.testing.assert_allclose(found.matching(of), metrics.matching(scores, of))
    np.testing.assert_allclose(found.average_precision, 1 / found.rank)
    assert found.median_rank == np.median(metrics.rank(scores))


def test_a_constant_prediction_is_last_however_it_is_rounded():
    gallery = unit(300, 512)
    same_face = gallery[:1].expand(300, -1)  # the gallery holds but one face, in 300 places of the blocks
    found = retrieval.search(gallery, np.arange(300), same_face, np.arange(300))
    assert set(found.rank.tolist()) == {300}
    assert found.matching().tolist() == [0.5] * 300


def test_an_undetected_face_is_last_and_matches_at_chance():
    query = unit(20)
    query[4] = 0
    found = retrieval.search(query, np.arange(20), query.roll(0), np.arange(20))
    assert found.rank[4] == 20
    assert found.matching(10)[4] == pytest.approx(0.1)
    assert found.rank[5] == 1


# --- several faces a person


@given(seeds)
@settings(max_examples=30, suppress_health_check=["function_scoped_fixture"])
def test_several_faces_by_loops_and_scikit_learn(small_blocks, seed):
    query, person, gallery, owner = crowd(seed)
    found = retrieval.search(query, person, gallery, owner)
    scores = (query @ gallery.T).numpy()
    for i in person:
        own, others = scores[i][owner == i], scores[i][owner != i]
        assert found.own[i] == len(own)
        assert found.rank[i] == 1 + (others > own.max()).sum()
        assert found.below[i] == (others < own.max()).sum()
        assert found.tied[i] == 0
        assert found.average_precision[i] == pytest.approx(average_precision_score(owner == i, scores[i]))


@given(seeds)
@settings(max_examples=30, suppress_health_check=["function_scoped_fixture"])
def test_ties_count_against_us_among_several_faces_too(small_blocks, seed):
    g = np.random.default_rng(seed)
    directions = torch.eye(3)[g.integers(0, 3, 25)]
    query, gallery = directions[:5], directions[5:]
    owner = np.concatenate([np.arange(5), g.integers(0, 5, 15)])
    found = retrieval.search(query, np.arange(5), gallery, owner)
    for i in range(5):
        score = (gallery @ query[i]).numpy()
        own, others = sorted(score[owner == i], reverse=True), score[owner != i]
        assert found.rank[i] == 1 + (others >= own[0]).sum()
        assert found.tied[i] == (others == own[0]).sum()
        precision = [(r + 1) / (r + 1 + (others >= s).sum()) for r, s in enumerate(own)]
        assert found.average_precision[i] == pytest.approx(np.mean(precision))


@given(seeds)
@settings(max_examples=20)
def test_order_of_the_gallery_rotation_and_names_change_nothing(seed):
    query, person, gallery, owner = crowd(seed)
    order = np.random.default_rng(seed).permutation(len(owner))
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).standard_normal((8, 8))).float())[0]
    names = np.array(list("abcdefghi"))
    a = retrieval.search(query, person, gallery, owner)
    b = retrieval.search(query @ turn, names[person], gallery[order] @ turn, names[owner[order]])
    assert a.rank.tolist() == b.rank.tolist()
    np.testing.assert_allclose(a.average_precision, b.average_precision)


def test_a_gallery_in_half_precision_is_taken():
    query, gallery = unit(6, 32), unit(6, 32).half()
    assert retrieval.search(query, np.arange(6), gallery, np.arange(6)).rank.tolist() == [1] * 6


# --- 1:N matching


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 3), st.integers(2, 7))
def test_win_probability_is_the_mean_over_all_choices_of_rivals(rivals, truth, of):
    won = []
    for others in combinations(rivals, of - 1):
        best = max(others)
        won.append(1.0 if truth > best else 0.0 if truth < best else 1 / (1 + others.count(truth)))
    below, tied = (np.array([f]) for f in (sum(r < truth for r in rivals), rivals.count(truth)))
    assert metrics.win_probability(below, tied, 6, of)[0] == pytest.approx(np.mean(won))


def test_win_probability_keeps_its_digits_in_a_gallery_of_a_million():
    below = np.array([999_999, 500_000, 0])
    expected = [1, np.prod([(500_000 - i) / (999_999 - i) for i in range(9)]), 0]
    np.testing.assert_allclose(metrics.win_probability(below, np.zeros(3, int), 999_999, 10), expected, rtol=1e-8)


@pytest.mark.parametrize("of", [2, 3, 10])
def test_random_scores_match_at_1_in_n(of):
    scores = np.random.default_rng(0).standard_normal((1500, 1500))
    assert metrics.matching(scores, of).mean() == pytest.approx(1 / of, abs=0.02)


@pytest.mark.parametrize("of", [1, 4])
def test_matching_among_more_faces_than_there_are_is_refused(of):
    with pytest.raises(InputError, match="gallery of 3"):
        metrics.matching(np.eye(3), of)


# --- chance


@pytest.mark.parametrize(("faces", "own"), [(6, 1), (6, 2), (5, 5), (6, 3)])
def test_chance_levels_are_means_over_every_order(faces, own):
    recall, precision = [], []
    for order in set(permutations([1] * own + [0] * (faces - own))):
        places = np.flatnonzero(order) + 1
        recall.append(places[0] <= 2)
        precision.append(np.mean(np.arange(1, own + 1) / places))
    one = np.ones(1, int)
    result = retrieval.Search(faces, one * own, one, one, one, one * 1.0)
    assert result.chance_recall(2)[0] == pytest.approx(np.mean(recall))
    assert result.chance_precision[0] == pytest.approx(np.mean(precision))


def test_random_embeddings_land_on_chance():
    n = 2000
    owner = np.repeat(np.arange(n), 2)
    found = retrieval.search(unit(n, 16), np.arange(n), unit(2 * n, 16, 1), owner)
    assert found.recall(400).mean() == pytest.approx(found.chance_recall(400).mean(), abs=0.03)
    assert found.average_precision.mean() == pytest.approx(found.chance_precision.mean(), abs=0.001)


def test_perfect_embeddings_are_perfect():
    faces = unit(50)
    found = retrieval.search(faces, np.arange(50), faces.repeat(3, 1), np.tile(np.arange(50), 3))
    assert found.recall(1).tolist() == found.average_precision.tolist() == [1] * 50
    assert found.matching(10) == pytest.approx(np.ones(50))


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, p, g, o: (q, p + 1, g, o), "query 8: person 9 has no face"),
        (lambda q, p, g, o: (q[:0], p[:0], g, o), "no queries"),
        (lambda q, p, g, o: (q, p[:3], g, o), "a person to each row"),
        (lambda q, p, g, o: (q[:, :4], p, g, o), "rows of one width"),
        (lambda q, p, g, o: (2 * q, p, g, o), "query row 0 has norm 2"),
        (lambda q, p, g, o: (q, p, torch.where(torch.arange(len(g))[:, None] == 8, torch.nan, g), o), "gallery row 8"),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_what_cannot_be_searched_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        retrieval.search(*change(*crowd(0)))
