"""Counts of neighbors and GloVe's fit to them: against loops over pairs and a dense matrix."""

import numpy as np
import pytest

from companion import cooccurrence, glove, word_corpus
from companion.adagrad import SparseAdaGrad
from companion.cooccurrence import Cooccurrence, count_cooccurrence, glove_loss, glove_weight, train_glove
from companion.word_corpus import encode_corpus


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def corpus(rng):
    """Sixty sentences over eight words, some of them empty or of one word, some that repeat words."""
    return encode_corpus([rng.choice(list("abcdefgh"), size) for size in rng.integers(0, 12, 60)], 1)


def counted(corpus, window, piece=10**9):
    """(V, V): 1 / distance for each word and each of its neighbors, one by one."""
    matrix = np.zeros((len(corpus.words),) * 2)
    starts = [0, *corpus.ends[:-1]]
    for start, end in zip(starts, corpus.ends, strict=True):
        for i in range(start, end):
            for j in range(max(start, i - window), min(end, i + window + 1)):
                if i != j and i // piece == j // piece:
                    matrix[corpus.ids[i], corpus.ids[j]] += 1 / abs(i - j)
    return matrix


def dense(matrix, size):
    """The upper half as an array; each entry must be there once."""
    assert (matrix.rows <= matrix.columns).all() and (matrix.counts > 0).all()
    places = matrix.rows * size + matrix.columns
    assert (np.diff(places) > 0).all()
    half = np.zeros((size, size))
    half[matrix.rows, matrix.columns] = matrix.counts
    return half


# Counting


def test_neighbors_by_hand():
    corpus = encode_corpus([["a", "b", "a", "c"], ["a", "c"], ["c"]], 1)
    assert corpus.words == ["a", "c", "b"]
    matrix = count_cooccurrence(corpus, 2)
    assert isinstance(matrix, Cooccurrence) and matrix.rows.dtype == matrix.columns.dtype == np.int32
    expected = [[1, 2, 2], [0, 0, 1 / 2], [0, 0, 0]]  # a a: distance 2, once for each of the two places
    close(dense(matrix, 3), expected)


@pytest.mark.parametrize("window", [1, 2, 5, 20])
@pytest.mark.parametrize("buffer", [1, 100, 1 << 22])
def test_counts_are_those_of_loops(monkeypatch, corpus, window, buffer):
    monkeypatch.setattr(cooccurrence, "BUFFER", buffer)
    whole = counted(corpus, window)
    close(whole, whole.T)
    close(dense(count_cooccurrence(corpus, window), 8), np.triu(whole), 1e-12)


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pairs_across_two_pieces_are_lost_and_no_others(monkeypatch, corpus, piece):
    monkeypatch.setattr(word_corpus, "PIECE", piece)
    monkeypatch.setattr(cooccurrence, "BUFFER", 50)
    close(dense(count_cooccurrence(corpus, 4), 8), np.triu(counted(corpus, 4, piece)), 1e-12)


def test_words_alone_have_no_neighbors():
    matrix = count_cooccurrence(encode_corpus([["a"], ["b"], []], 1), 3)
    assert [len(part) for part in matrix] == [0, 0, 0]


# The loss


def test_weights_rise_from_0_to_1():
    counts = np.array([0, 100 / 16, 100, 100.5, 1e6], "float32")
    close(glove_weight(counts, 100.0, 0.75), [0, 1 / 8, 1, 1, 1])  # 16^-0.75 = 1/8
    close(glove_weight(counts[:2], 25.0, 0.5), [0, 1 / 2])
    rising = np.asarray(glove_weight(np.arange(100, dtype="float32"), 100.0, 0.75))
    assert (np.diff(rising) > 0).all()


def test_the_loss_is_equation_8_of_the_paper(rng):
    counts = rng.uniform(0.1, 300, 20).astype("float32")
    word, context = rng.standard_normal((2, 20, 5), dtype="float32")
    word_bias, context_bias = rng.standard_normal((2, 20), dtype="float32")
    scores = (word * context).sum(axis=1) + word_bias + context_bias
    expected = [
        min(1, (x / 100) ** 0.75) * (w @ c + b + d - np.log(x)) ** 2
        for x, w, c, b, d in zip(counts, word, context, word_bias, context_bias, strict=True)
    ]
    close(glove_loss(scores, counts, 100.0, 0.75), expected)


def test_the_loss_by_hand():
    scores, counts = np.log([2, 2, 1 / 8]) + [0, 3, -4], np.array([2, 2, 1 / 8], "float32")
    close(glove_loss(scores.astype("float32"), counts, 2.0, 0.75), [0, 9, 16 / 8])  # (1/16)^0.75 = 1/8


# Training


@pytest.fixture
def tables(monkeypatch):
    """The two tables that train_glove makes: [(values at the start, SparseAdaGrad)]."""
    made = []

    class Watched(SparseAdaGrad):
        def __init__(self, values, **settings):
            super().__init__(values, **settings)
            made.append((values.astype("float64"), self))

    monkeypatch.setattr(cooccurrence, "SparseAdaGrad", Watched)
    return made


def fit(corpus, epochs=1, learning_rate=1e-12, window=3, x_max=5.0, alpha=0.6, seed=0):
    matrix = count_cooccurrence(corpus, window)
    return train_glove(corpus, matrix, 4, x_max, alpha, epochs, learning_rate, seed, False)


def entries(corpus, window=3):
    """Row, column and count of each entry of the whole matrix."""
    matrix = counted(corpus, window)
    return *np.nonzero(matrix), matrix[matrix > 0]


def errors(words, contexts, rows, columns, counts):
    """w . c + b_w + b_c - log X of each entry; the last column is the bias."""
    scores = (words[rows, :-1] * contexts[columns, :-1]).sum(axis=1)
    return scores + words[rows, -1] + contexts[columns, -1] - np.log(counts)


@pytest.mark.parametrize("sizes", [{}, {"BATCH": 7, "CHUNK": 10}])
def test_before_any_step_the_loss_is_the_mean_over_the_whole_matrix(monkeypatch, corpus, tables, sizes):
    for name, size in sizes.items():
        monkeypatch.setattr(cooccurrence, name, size)
    _, losses = fit(corpus, epochs=2)
    (words, _), (contexts, _) = tables
    rows, columns, counts = entries(corpus)
    assert words.shape == contexts.shape == (8, 5) and not np.array_equal(words, contexts)
    terms = np.minimum(1, (counts / 5) ** 0.6) * errors(words, contexts, rows, columns, counts) ** 2
    close(losses, [terms.mean()] * 2)  # with learning_rate=1e-12 nothing moves


def test_a_step_is_adagrad_on_the_whole_matrix(corpus, tables):
    vectors, _ = fit(corpus, learning_rate=0.05)
    (words, _), (contexts, _) = tables
    rows, columns, counts = entries(corpus)
    slopes = 2 * np.minimum(1, (counts / 5) ** 0.6) * errors(words, contexts, rows, columns, counts)
    expected = []
    for own, other, mine, theirs in ((words, contexts, rows, columns), (contexts, words, columns, rows)):
        factors = np.concatenate([other[theirs, :-1], np.ones((len(rows), 1))], axis=1)
        sums, squares = np.zeros_like(own), np.ones_like(own)
        np.add.at(sums, mine, slopes[:, None] * factors)
        np.add.at(squares, mine, (slopes[:, None] * factors) ** 2)
        expected.append(own - 0.05 * sums / np.sqrt(squares))
    for (_, table), wanted in zip(tables, expected, strict=True):
        close(table.values, wanted)
    close(vectors, expected[0][:, :-1] + expected[1][:, :-1])


def test_vectors_are_the_sum_of_both_tables_without_the_biases(corpus, tables):
    vectors, losses = fit(corpus, epochs=30, learning_rate=0.1)
    (_, words), (_, contexts) = tables
    assert vectors.shape == (8, 4) and vectors.dtype == np.float32 and losses[-1] < losses[0] / 4
    np.testing.assert_array_equal(vectors, words.values.numpy()[:, :-1] + contexts.values.numpy()[:, :-1])


def test_scores_come_near_the_logarithms_of_the_counts(corpus, tables):
    fit(corpus, epochs=300, learning_rate=0.2, x_max=1.0)
    rows, columns, counts = entries(corpus)
    left = errors(*(table.values.numpy() for _, table in tables), rows, columns, counts)
    assert np.abs(left).mean() < 0.2 * np.log(counts).std()


def test_every_epoch_sees_the_entries_in_another_order(monkeypatch, corpus):
    seen = []

    def halves(matrix, chosen):
        seen.append(chosen.tolist())
        return real(matrix, chosen)

    real = cooccurrence._both_halves
    monkeypatch.setattr(cooccurrence, "_both_halves", halves)
    fit(corpus, epochs=2)
    first, second = seen
    assert first != second and sorted(first) == sorted(second) == list(range(len(first)))


# glove()


def test_it_counts_then_fits(corpus, tables):
    sentences = [["a", "b", "c", "a"], ["b", "c"]] * 5
    made = glove(iter(sentences), 3, window=2, x_max=4, min_count=1, epochs=3, seed=5, progress=False)
    encoded = encode_corpus(sentences, 1)
    matrix = count_cooccurrence(encoded, 2)
    vectors, losses = train_glove(encoded, matrix, 3, 4.0, 0.75, 3, 0.05, 5, False)
    assert made.words == encoded.words and made.counts.tolist() == encoded.counts.tolist()
    np.testing.assert_array_equal(made.vectors, vectors)
    assert made.history == {"loss": losses} and len(losses) == 3 and made.subwords is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"vector_dim": 0}, r"vector_dim must be at least 1; received vector_dim=0\."),
        ({"window": 0}, r"window must be at least 1; received window=0\."),
        ({"epochs": 0}, r"epochs must be at least 1; received epochs=0\."),
        ({"min_count": 0}, r"min_count must be at least 1; received min_count=0\."),
        ({"x_max": 0}, r"x_max must be above 0 and finite; received x_max=0\."),
        ({"alpha": -0.5}, r"alpha must be above 0 and finite; received alpha=-0.5\."),
        ({"learning_rate": 0}, r"learning_rate must be above 0 and finite; received learning_rate=0\."),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite; .*=nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite; .*=inf"),
    ],
)
def test_impossible_settings_are_refused_before_the_corpus_is_read(arguments, message):
    def sentences():
        raise AssertionError("the corpus was read")
        yield

    with pytest.raises(ValueError, match=message):
        glove(sentences(), **arguments)


def test_a_corpus_without_neighbors_is_refused():
    message = r"corpus must hold sentences of two frequent words or more; received none\."
    with pytest.raises(ValueError, match=message):
        glove([["a"], ["a", "rare"]] * 5, min_count=6)


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_that_runs_away_is_stopped(epochs):
    with pytest.raises(FloatingPointError, match=r"(nan|inf).*: lower learning_rate=1e\+30\."):
        glove([["a", "b", "c"]] * 50, 4, epochs=epochs, learning_rate=1e30, progress=False)
