import keras
import numpy as np
import pytest
from keras import ops
from scipy import sparse

from companion.recommendation import (
    ContentSimilarity,
    ItemKNN,
    NextItem,
    Popularity,
    basket_matrix,
    basket_model,
    held_out_ranks,
    leave_one_out,
    recommend,
    text_towers,
)
from companion.retrieval import hit_rate, in_batch_loss, ndcg

ITEMS = ("bread", "butter", "jam", "nails")
BASKETS = basket_matrix([("bread", "butter"), ("bread", "butter", "jam"), ("bread", "nails")], ITEMS)


class Fixed:
    """Gives every basket the same scores."""

    def __init__(self, *scores):
        self.row = np.array(scores, float)

    def scores(self, baskets):
        return np.tile(self.row, (len(baskets), 1))


def test_baskets_become_rows():
    np.testing.assert_array_equal(BASKETS, [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]])
    assert BASKETS.dtype == bool
    with pytest.raises(ValueError, match="names from items; received 'tea' in basket 1"):
        basket_matrix([("jam",), ("jam", "tea")], ITEMS)


def test_each_item_is_asked_for_once():
    questions, targets = leave_one_out(BASKETS)
    assert len(targets) == BASKETS.sum() == 7
    assert not questions[np.arange(7), targets].any()
    restored = questions.copy()
    restored[np.arange(7), targets] = True
    np.testing.assert_array_equal(restored, BASKETS[[0, 0, 1, 1, 1, 2, 2]])
    np.testing.assert_array_equal(targets, [0, 1, 0, 1, 2, 0, 3])
    assert BASKETS.sum() == 7  # the baskets themselves are as they were


def test_ranks_leave_out_what_is_in_the_basket():
    questions = basket_matrix([("bread",), ("bread", "butter"), ()], ITEMS)
    ranks = held_out_ranks(Fixed(9, 8, 7, 6), questions, [2, 3, 3])
    np.testing.assert_array_equal(ranks, [2, 2, 4])
    assert hit_rate(ranks, 2) == pytest.approx(2 / 3)
    assert ndcg(ranks, 2) == pytest.approx(2 / 3 / np.log2(3))


def test_of_equal_scores_the_target_is_last():
    """Who scores all alike is right by no merit, and is given none."""
    questions, targets = leave_one_out(BASKETS)
    ranks = held_out_ranks(Fixed(1, 1, 1, 1), questions, targets)
    np.testing.assert_array_equal(ranks, len(ITEMS) - questions.sum(axis=1))


def test_ranks_agree_with_sorting(rng):
    baskets = rng.random((20, 9)) < 0.4
    questions, targets = leave_one_out(baskets)
    knn = ItemKNN(baskets, 1.0)
    scores = knn.scores(questions) + 1e-9 * np.arange(9)

    class Untied:
        def scores(self, some):
            return knn.scores(some) + 1e-9 * np.arange(9)

    for rank, question, target, row in zip(
        held_out_ranks(Untied(), questions, targets), questions, targets, scores, strict=True
    ):
        order = [item for item in np.argsort(-row) if not question[item]]
        assert order.index(target) + 1 == rank


def test_recommended_are_the_best_that_the_basket_lacks():
    baskets = basket_matrix([("bread",), ("nails",), ()], ITEMS)
    np.testing.assert_array_equal(
        recommend(Fixed(1, 3, 3, 9), baskets, 2), [[3, 1], [1, 2], [3, 1]]
    )  # of equal ones the earlier
    with pytest.raises(ValueError, match="received k=4, one lacks 3"):
        recommend(Fixed(1, 2, 3, 4), baskets, 4)
    with pytest.raises(ValueError, match="k must be at least 1; received k=0"):
        recommend(Fixed(1, 2, 3, 4), baskets, 0)


def test_popularity_counts():
    np.testing.assert_array_equal(Popularity(BASKETS).scores(BASKETS[:2]), [[3, 2, 1, 1]] * 2)


def test_cosines_and_their_shrinkage_by_hand():
    similarity = ItemKNN(BASKETS, 0).similarity
    np.testing.assert_allclose(similarity[0], [0, 2 / np.sqrt(6), 1 / np.sqrt(3), 1 / np.sqrt(3)])
    np.testing.assert_allclose(similarity, similarity.T)
    assert similarity[2, 3] == 0  # jam and nails never met
    np.testing.assert_allclose(ItemKNN(BASKETS, 2).similarity[0, 1], 2 / (np.sqrt(6) + 2))


def test_knn_adds_up_over_the_basket():
    knn = ItemKNN(BASKETS, 1)
    question = basket_matrix([("butter", "jam")], ITEMS)
    np.testing.assert_allclose(knn.scores(question)[0], knn.similarity[1] + knn.similarity[2])


def test_a_single_coincidence_weighs_less_with_shrinkage():
    sure = np.repeat(basket_matrix([("bread", "butter")], ITEMS), 20, axis=0)
    some = basket_matrix([("bread",)] * 10 + [("jam", "nails")], ITEMS)
    baskets = np.concatenate([sure, some])
    exact, shrunk = ItemKNN(baskets, 0).similarity, ItemKNN(baskets, 10).similarity
    assert exact[2, 3] > exact[0, 1] and shrunk[2, 3] < shrunk[0, 1]


def test_an_item_never_seen_has_no_neighbors_and_gives_no_nan():
    baskets = BASKETS & np.array([True, True, True, False])
    for shrinkage in (0, 10):
        knn = ItemKNN(baskets, shrinkage)
        assert np.isfinite(knn.similarity).all() and not knn.similarity[3].any()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_content_needs_vectors_and_no_baskets(kind):
    vectors = kind(np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]))
    content = ContentSimilarity(vectors)
    asked = basket_matrix([("bread",), ("bread", "nails")], ITEMS)
    np.testing.assert_allclose(content.scores(asked), [[1, 0.8, 0.6, 0], [1, 1.4, 1.4, 1]])
    np.testing.assert_array_equal(held_out_ranks(content, asked[:1], [1]), [1])


@pytest.mark.parametrize("make", [Popularity, ItemKNN, leave_one_out])
def test_baskets_that_are_none(make):
    with pytest.raises(ValueError, match=r"must be \(B, N\) booleans; received int64 \(2, 3\)"):
        make(np.ones((2, 3), "int64"))
    with pytest.raises(ValueError, match=r"must be \(B, N\) booleans; received bool \(3,\)"):
        make(np.ones(3, bool))


def test_bad_arguments():
    questions, targets = leave_one_out(BASKETS)
    with pytest.raises(ValueError, match="targets must not be in their baskets"):
        held_out_ranks(Popularity(BASKETS), BASKETS, [0, 0, 0])
    with pytest.raises(ValueError, match=r"targets must be \(7,\), as questions; received \(6,\)"):
        held_out_ranks(Popularity(BASKETS), questions, targets[:6])
    with pytest.raises(ValueError, match="shrinkage must be at least 0; received shrinkage=-1"):
        ItemKNN(BASKETS, -1)
    with pytest.raises(ValueError, match="num_layers must be at least 0; received num_layers=-1"):
        basket_model(4, num_layers=-1)
    with pytest.raises(ValueError, match="num_items must be at least 1; received num_items=0"):
        basket_model(0)
    with pytest.raises(ValueError, match="steps must be at least 10; received steps=1"):
        NextItem(4, 4, steps=1)
    with pytest.raises(ValueError, match=r"table must be \(V, M\); received shape \(3,\)"):
        text_towers(np.ones(3))
    with pytest.raises(ValueError, match="temperature must be above 0; received temperature=0"):
        text_towers(np.ones((3, 2)), 0)
    with pytest.raises(ValueError, match="baskets must hold at most 2 items; received 3"):
        NextItem(4, 2).scores(BASKETS)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_order_and_padding_change_nothing_and_items_do(num_layers, randomized):
    model = randomized(basket_model(6, 8, num_layers=num_layers))
    out = np.array(model(np.array([[1, 2, 5, 0], [5, 1, 2, 0], [1, 2, 6, 0]])))
    wide = np.array(model(np.array([[2, 0, 0, 1, 0, 5]])))
    assert out.shape == (3, 6)
    np.testing.assert_allclose(out[0], out[1], atol=1e-5)
    np.testing.assert_allclose(out[0], wide[0], atol=1e-5)
    assert np.abs(out[0] - out[2]).max() > 1e-3


def test_without_blocks_it_is_the_mean_of_vectors(randomized):
    model = randomized(basket_model(5, 4))
    table, (kernel, bias) = (
        model.get_layer("embedding").get_weights()[0],
        model.get_layer("logits").get_weights(),
    )
    out = np.array(model(np.array([[3, 5, 0], [0, 0, 0]])))
    np.testing.assert_allclose(out, [(table[3] + table[5]) / 2 @ kernel + bias, bias], atol=1e-5)


def test_a_basket_model_loads_as_it_was(tmp_path, randomized):
    model = randomized(basket_model(6, 8, num_layers=1))
    model.save(tmp_path / "model.keras")
    items = np.array([[1, 4, 0]])
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.array(loaded(items)), np.array(model(items)))


@pytest.fixture(scope="module")
def pairs_of_items():
    """Item 2 i and item 2 i + 1 always come together."""
    random = np.random.default_rng(0)
    return np.repeat(random.random((300, 4)) < 0.4, 2, axis=1)


def test_training_finds_what_belongs_together_and_starts_anew(pairs_of_items):
    network = NextItem(8, 8, steps=60, dropout=0.0, model_dim=16)
    questions, targets = leave_one_out(pairs_of_items[:200])
    first = network.fit(pairs_of_items[200:], seed=1).scores(questions)
    ranks = held_out_ranks(network, questions, targets)
    assert (
        hit_rate(ranks, 1)
        > 0.9
        > 0.5
        > hit_rate(held_out_ranks(Popularity(pairs_of_items), questions, targets), 1)
    )
    network.fit(pairs_of_items[:100], seed=2)
    again = network.fit(pairs_of_items[200:], seed=1).scores(questions)
    np.testing.assert_allclose(first, again, atol=1e-4)


def test_an_empty_basket_is_recommended_what_is_popular(pairs_of_items):
    baskets = pairs_of_items & np.array([True, True, False, True, True, True, True, False])
    network = NextItem(8, 8, steps=10, learning_rate=1e-6).fit(baskets)
    scores = network.scores(np.zeros((1, 8), bool))[0]
    expected = np.log(baskets.sum(axis=0) + 1) - np.log(len(baskets))
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_towers_begin_with_their_table_and_share_it():
    table = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    tower, pairs = text_towers(table, temperature=0.5)
    texts = np.eye(3, dtype="float32")
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(tower(texts)), unit, atol=1e-6)
    np.testing.assert_allclose(np.array(pairs([texts, texts[::-1]])), 2 * unit @ unit[::-1].T, atol=1e-5)
    assert len(pairs.trainable_weights) == 1


def test_a_text_of_unknown_words_teaches_nothing_and_breaks_nothing(rng):
    table = rng.normal(size=(8, 6)).astype("float32")
    texts = np.eye(8, dtype="float32")
    texts[3] = 0
    tower, pairs = text_towers(table)
    pairs.compile("sgd", in_batch_loss, jit_compile=False)
    pairs.train_on_batch([texts, np.eye(8, dtype="float32")], np.arange(8))
    assert np.isfinite(tower.get_weights()[0]).all() and (tower.get_weights()[0] != table).any()
    assert (np.array(tower(texts))[3] == 0).all()


def test_towers_learn_which_words_belong_together():
    texts = np.eye(8, dtype="float32")
    tower, pairs = text_towers(0.1 * np.random.default_rng(0).standard_normal((8, 6)))
    pairs.compile(keras.optimizers.Adam(0.02), in_batch_loss, jit_compile=False)
    shift = np.roll(texts, 4, axis=0)
    pairs.fit([texts, shift], np.arange(8), batch_size=8, epochs=80, verbose=0, shuffle=False)
    vectors = np.array(ops.convert_to_tensor(tower(texts)))
    asked = np.eye(8, dtype=bool)
    targets = np.argmax(shift, axis=1)
    np.testing.assert_array_equal(held_out_ranks(ContentSimilarity(vectors), asked, targets), np.ones(8))
