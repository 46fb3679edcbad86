"""Search with vectors, the loss that teaches them, rankings and what they are judged by."""

import keras
import numpy as np
import pytest
from keras import ops

from companion.retrieval import (
    WeightedMean,
    fuse,
    hit_rate,
    in_batch_loss,
    mean_reciprocal_rank,
    ndcg,
    ranks_of,
    search,
    unit_length,
)

pytestmark = pytest.mark.backend
RANKS = [1, 2, 4, 0, np.inf]


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_metrics_by_hand():
    assert [hit_rate(RANKS, k) for k in (1, 2, 3, 4)] == [0.2, 0.4, 0.4, 0.6]
    assert mean_reciprocal_rank(RANKS) == pytest.approx((1 + 1 / 2 + 1 / 4) / 5)
    assert ndcg(RANKS, 3) == pytest.approx((1 + 1 / np.log2(3)) / 5)
    assert ndcg(RANKS, 4) == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(5)) / 5)


@pytest.mark.parametrize(
    "metric", [mean_reciprocal_rank, lambda ranks: ndcg(ranks, 9), lambda r: hit_rate(r, 9)]
)
def test_metrics_are_one_for_perfect_ranks_and_zero_where_nothing_was_found(metric):
    assert metric(np.ones(3, int)) == 1 and metric(np.zeros(3, int)) == 0 and metric([np.inf]) == 0


def test_ndcg_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    scores = np.random.default_rng(1).normal(size=(20, 12))
    relevant = np.random.default_rng(2).integers(12, size=20)
    expected = metrics.ndcg_score(np.eye(12)[relevant], scores, k=5)
    assert ndcg(ranks_of(scores, relevant), 5) == pytest.approx(expected)


@pytest.mark.parametrize("ranks", [[], [[1, 2]], [1.5], [-1], [np.nan], 1])
def test_ranks_that_are_none_are_refused(ranks):
    with pytest.raises(ValueError, match=r"ranks must be a row of 1, 2, …, or 0 or inf"):
        mean_reciprocal_rank(ranks)


@pytest.mark.parametrize("metric", [hit_rate, ndcg])
def test_a_list_has_one_place_at_least(metric):
    with pytest.raises(ValueError, match="k must be at least 1; received k=0"):
        metric([1], 0)


def test_search_finds_what_sorting_all_products_finds():
    queries, documents = unit(1500, 8), unit(40, 8, seed=1)  # more queries than are scored at once
    found, scores = search(queries, documents, 5)
    products = queries @ documents.T
    np.testing.assert_array_equal(found, np.argsort(-products, axis=1)[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :5])
    np.testing.assert_allclose(search(documents, documents, 1)[1], 1)
    np.testing.assert_array_equal(search(documents, documents, 1)[0][:, 0], range(40))


def test_of_equal_documents_the_earlier_comes_first_and_k_may_exceed_them():
    found, scores = search(np.ones((1, 2)), np.array([[0, 0], [1, 1], [0, 0], [1, 1]]), 9)
    assert found.tolist() == [[1, 3, 0, 2]] and scores.tolist() == [[2, 2, 0, 0]]
    assert [part.shape for part in search(np.ones((0, 2)), np.ones((4, 2)), 3)] == [(0, 3), (0, 3)]


def test_search_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(Q, M\) and \(D, M\); received \(2, 3\) and \(4, 5\)"):
        search(np.ones((2, 3)), np.ones((4, 5)), 1)
    with pytest.raises(ValueError, match=r"received \(3,\) and \(4, 3\)"):
        search(np.ones(3), np.ones((4, 3)), 1)
    with pytest.raises(ValueError, match="k must be at least 1; received k=0"):
        search(np.ones((2, 3)), np.ones((4, 3)), 0)


def test_ranks_count_those_before_and_never_flatter_a_tie():
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 5.0, 5.0]])
    assert ranks_of(scores, [2, 0, 1]).tolist() == [2, 3, 2]
    found = search(unit(30, 8), unit(40, 8, seed=1), 40)[0]
    places = ranks_of(unit(30, 8) @ unit(40, 8, seed=1).T, found[:, 6])
    assert (places == 7).all()


def test_ranks_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="scores must be numbers; received 1 that are NaN"):
        ranks_of([[1.0, np.nan, -np.inf]], [0])
    with pytest.raises(ValueError, match=r"\(Q, D\) and \(Q,\); received \(2, 3\) and \(3,\)"):
        ranks_of(np.ones((2, 3)), [0, 1, 2])
    with pytest.raises(ValueError, match=r"relevant must lie in \[0, 3\); received 0 to 3"):
        ranks_of(np.ones((2, 3)), [0, 3])
    with pytest.raises(ValueError, match=r"relevant must lie in \[0, 3\); received -1 to 0"):
        ranks_of(np.ones((2, 3)), [0, -1])


def test_fusion_adds_reciprocal_ranks_and_ignores_the_scale():
    one, other = np.array([[9.0, 5.0, 1.0]]), np.array([[1.0, 2.0, 3.0]])
    expected = [[1 / 61 + 1 / 63, 2 / 62, 1 / 63 + 1 / 61]]
    np.testing.assert_allclose(fuse(one, other), expected)
    np.testing.assert_allclose(fuse(one * 100 - 7, other), expected)
    np.testing.assert_allclose(fuse(one, one, other, constant=0), [[2 + 1 / 3, 1 + 1 / 2, 2 / 3 + 1]])
    scores = np.random.default_rng(0).normal(size=(5, 30))
    np.testing.assert_array_equal(np.argsort(-fuse(scores)), np.argsort(-scores))


def test_fusion_refuses_what_does_not_fit():
    for scores in ((), (np.ones((1, 2)), np.ones((1, 3))), (np.ones(2), np.ones(2))):
        with pytest.raises(ValueError, match=r"scores must all be \(Q, D\)"):
            fuse(*scores)
    with pytest.raises(ValueError, match="constant must be at least 0; received constant=-1"):
        fuse(np.ones((1, 2)), constant=-1)


def loss(documents, scores):
    return ops.convert_to_numpy(in_batch_loss(np.array(documents), np.array(scores, "float32")))


def test_the_loss_is_the_cross_entropy_of_the_diagonal():
    np.testing.assert_allclose(loss([7, 8], [[1, 0], [0, 1]]), np.log1p(np.exp([-1, -1])), rtol=1e-5)
    scores = np.random.default_rng(0).normal(size=(6, 6))
    expected = np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)
    np.testing.assert_allclose(loss(range(6), scores), expected, rtol=1e-4)
    np.testing.assert_allclose(loss(np.arange(6)[:, None], scores), expected, rtol=1e-4)


def test_the_same_document_is_no_negative_of_itself():
    """A query that comes twice in a batch is not taught that its document is wrong for it."""
    high = [[1, 9, 0], [9, 1, 0], [0, 0, 1]]
    twice = loss([5, 5, 6], high)
    np.testing.assert_allclose(twice[:2], np.log1p(np.exp(-1)), rtol=1e-5)
    np.testing.assert_allclose(twice[2], np.log(2 + np.e) - 1, rtol=1e-5)
    assert (loss([5, 7, 6], high)[:2] > 7).all()


def pooled(weights, vectors, tokens):
    layer = WeightedMean(5)
    layer.build(vectors.shape, tokens.shape)
    layer.log_weights.assign(np.log(weights))
    return ops.convert_to_numpy(layer(vectors, tokens))


def test_a_weighted_mean_by_hand_and_padding_counts_nothing():
    vectors = np.array([[[3.0, 0.0], [0.0, 1.0], [9.0, 9.0]]], "float32")
    expected = np.array([[3.0, 4.0]]) / 5
    np.testing.assert_allclose(pooled([1, 1, 4, 1, 1], vectors, np.array([[1, 2, 0]])), expected, rtol=1e-5)
    assert (pooled(np.ones(5), vectors, np.array([[0, 0, 0]])) == 0).all()


def test_zeros_become_zeros_and_teach_nothing():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [1e-15, 0.0]], "float32")
    expected = [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(ops.convert_to_numpy(unit_length(vectors)), expected, rtol=1e-5)
    half = ops.convert_to_numpy(unit_length(ops.cast(vectors[:2] * 1000, "float16")))  # its squares overflow
    assert half.dtype == "float16"
    np.testing.assert_allclose(half, expected[:2], rtol=1e-3)

    model = encoder(6, 4)
    model.compile("sgd", "mse", jit_compile=False)
    before = model.get_weights()
    model.train_on_batch(np.array([[1, 2], [0, 0]]), np.ones((2, 4)))
    after = model.get_weights()
    assert all(np.isfinite(array).all() for array in after)
    np.testing.assert_array_equal(after[0][0], before[0][0])  # the vector of padding
    assert (after[0][1:3] != before[0][1:3]).all()


def test_the_weights_begin_equal_and_load_again(tmp_path):
    with pytest.raises(ValueError, match="vocabulary_size must be at least 1; received vocabulary_size=0"):
        WeightedMean(0)
    model = encoder(6, 4)
    vectors, tokens = model.get_layer("embedding").weights[0], np.array([[1, 2, 2, 0]])
    mean = ops.convert_to_numpy(vectors)[[1, 2, 2]].sum(axis=0)
    expected = (mean / np.linalg.norm(mean))[None]
    np.testing.assert_allclose(ops.convert_to_numpy(model(tokens)), expected, atol=1e-6)
    model.get_layer("mean").log_weights.assign(np.arange(6.0))
    model.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(one(tokens)) for one in (model, again)))


def encoder(vocabulary_size, width):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    vectors = keras.layers.Embedding(vocabulary_size, width, name="embedding")(tokens)
    return keras.Model(tokens, WeightedMean(vocabulary_size, name="mean")(vectors, tokens))


def test_two_towers_learn_which_words_mean_the_same():
    """Queries say 1 to 8, documents 11 to 18, and both a filler word 9: no word is shared that tells."""
    keras.utils.set_random_seed(0)
    model = encoder(20, 16)
    query, document = (keras.Input((2,), dtype="int32", name=name) for name in ("query", "document"))
    scores = ops.matmul(model(query), ops.transpose(model(document))) * 10
    towers = keras.Model([query, document], scores)
    towers.compile(keras.optimizers.Adam(0.05), in_batch_loss, jit_compile=False)
    topics = np.tile(np.arange(1, 9), 20)
    pairs = [np.stack([topics + offset, np.full_like(topics, 9)], 1) for offset in (0, 10)]
    before = ranks_of(products(model, *pairs), np.arange(8))
    towers.fit(pairs, topics, batch_size=8, epochs=3, verbose=0)
    after = ranks_of(products(model, *pairs), np.arange(8))
    assert mean_reciprocal_rank(after) == 1 > mean_reciprocal_rank(before)
    weights = ops.convert_to_numpy(model.layers[-1].log_weights)
    assert weights[9] < np.median(weights[[*range(1, 9), *range(11, 19)]])  # the filler tells nothing


def products(model, queries, documents):
    queries, documents = (ops.convert_to_numpy(model(tokens[:8])) for tokens in (queries, documents))
    return queries @ documents.T
