"""Kneser-Ney models: numbers by hand, against nltk, sums, contexts never seen, sampling, errors."""

import math
import re

import numpy as np
import pytest
from nltk.lm import NgramCounter, Vocabulary, smoothing
from nltk.lm.models import InterpolatedLanguageModel

from companion.ngrams import KneserNey

V = 12


@pytest.fixture
def pieces(rng):
    """Thirty sequences of 0 to 24 tokens, in which some are frequent; token 11 never occurs."""
    shares = np.arange(V - 1, 0, -1) ** 2.0
    return [rng.choice(V - 1, rng.integers(25), p=shares / shares.sum()).tolist() for _ in range(30)]


class DownToUniform(smoothing.KneserNey):
    """nltk's recursion ends in the shares of single tokens; ours discounts these as well."""

    def unigram_score(self, word):
        count, total = self._continuation_counts(word)
        kinds = len(self.counts.unigrams)
        return (max(count - self.discount, 0) + self.discount * kinds / V) / total


def in_nltk(pieces, order, discount):
    """nltk's model; it is given the n-grams that end in a token only: it would also predict the marks."""
    padded = [["<s>"] * (order - 1) + [str(token) for token in piece] for piece in pieces]
    grams = [
        [tuple(piece[end - k : end]) for end in range(order, len(piece) + 1) for k in range(1, order + 1)]
        for piece in padded
    ]
    vocabulary = Vocabulary(map(str, range(V)))
    params = {"order": order, "discount": discount}
    return InterpolatedLanguageModel(
        DownToUniform, order, vocabulary=vocabulary, counter=NgramCounter(grams), params=params
    )


# Numbers by hand


def test_a_unigram_model_counts_and_leaves_something_to_all():
    model = KneserNey.train([[0, 0, 0], [1]], vocabulary_size=4, order=1, discount=0.5)
    kept = 0.5 * 2 / 4  # half a count of each of two kinds of token
    np.testing.assert_allclose(model.distribution(), np.array([2.5, 0.5, 0, 0]) / 4 + kept / 4)
    np.testing.assert_array_equal(model.distribution([3, 1]), model.distribution())


def test_a_bigram_model_counts_in_how_many_places_a_token_occurs():
    """San Francisco San Francisco San Francisco a dog: Francisco is frequent, but in one place only."""
    san, francisco, a, dog = range(4)
    model = KneserNey.train([[san, francisco] * 3 + [a, dog]], vocabulary_size=4, order=2, discount=0.5)
    places = np.array([2, 1, 1, 1])  # before San: the beginning and Francisco
    single = (places - 0.5 + 0.5 * 4 / 4) / 5
    np.testing.assert_allclose(model.distribution([dog]), single)  # nothing ever followed a dog
    after = (np.array([0, 3, 0, 0]) - 0.5) * [0, 1, 0, 0] + 0.5 * 1 * single
    np.testing.assert_allclose(model.distribution([san]), after / 3)
    after = (np.array([2, 0, 1, 0]) - 0.5) * [1, 0, 1, 0] + 0.5 * 2 * single
    np.testing.assert_allclose(model.distribution([francisco]), after / 3)
    first = np.array([0.5, 0, 0, 0]) + 0.5 * single
    np.testing.assert_allclose(model.distribution(), first)


def test_a_discount_near_1_still_counts_kinds_and_one_near_0_only_counts():
    text = [0, 1, 0, 1, 0, 2]
    sharp = KneserNey.train([text], 3, order=2, discount=1e-9)
    np.testing.assert_allclose(sharp.distribution([0]), [0, 2 / 3, 1 / 3], atol=1e-8)
    flat = KneserNey.train([[0, 1]], 3, order=2, discount=1 - 1e-9)
    np.testing.assert_allclose(flat.distribution([0]), 1 / 3, atol=1e-8)


# Against nltk


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("discount", [0.1, 0.75])
def test_equals_nltk(pieces, order, discount):
    ours, theirs = KneserNey.train(pieces, V, order, discount), in_nltk(pieces, order, discount)
    rng = np.random.default_rng(1)
    seen = [(piece[:i][-(order - 1) :], piece[i]) for piece in pieces for i in range(len(piece))]
    seen = [seen[i] for i in rng.permutation(len(seen))[:60]]
    asked = seen + [(rng.integers(V, size=order - 1).tolist(), int(rng.integers(V))) for _ in range(60)]
    for context, token in asked:
        padded = ["<s>"] * (order - 1 - len(context)) + [str(one) for one in context]
        expected = theirs.unmasked_score(str(token), tuple(padded))
        np.testing.assert_allclose(ours.probabilities(context, token), expected, rtol=1e-9)


# Properties


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_sums_to_1_after_any_context_and_no_token_is_impossible(pieces, rng, order):
    model = KneserNey.train(pieces, V, order)
    contexts = [rng.integers(V, size=length).tolist() for length in (0, 1, 2, 3, 4, 9) for _ in range(10)]
    for context in [*contexts, *(piece[:4] for piece in pieces)]:
        distribution = model.distribution(context)
        assert distribution.shape == (V,) and (distribution > 0).all()
        np.testing.assert_allclose(distribution.sum(), 1, rtol=1e-12)


def test_a_context_never_seen_leaves_all_to_the_shorter_one(pieces):
    model = KneserNey.train(pieces, V, order=3)
    never = V - 1
    np.testing.assert_array_equal(model.distribution([never, 0]), model.distribution([never, never, 0]))
    by_one = model.distribution([never, 0])
    by_none = model.distribution([0, never])
    assert abs(by_one - by_none).max() > 1e-3
    np.testing.assert_array_equal(by_none, model.distribution([never, never]))


def test_only_the_last_tokens_count(pieces):
    model = KneserNey.train(pieces, V, order=3)
    np.testing.assert_array_equal(model.distribution([5, 4, 0, 1]), model.distribution([0, 1]))


def test_sequences_do_not_run_into_one_another():
    apart = KneserNey.train([[0, 1], [2, 3]], 4, order=2)
    joined = KneserNey.train([[0, 1, 2, 3]], 4, order=2)
    assert joined.distribution([1])[2] > joined.distribution([1])[0] + 0.1
    assert apart.distribution([1])[2] == pytest.approx(apart.distribution([1])[0])
    assert apart.distribution()[2] > joined.distribution()[2] + 0.1  # it begins a sequence


def test_the_order_of_sequences_and_empty_ones_change_nothing(pieces):
    model, other = (KneserNey.train(some, V, 4) for some in (pieces, [[], *reversed(pieces), []]))
    contexts = np.random.default_rng(0).integers(V, size=(50, 3))
    tokens = contexts[::-1, 0]
    np.testing.assert_array_equal(
        model.probabilities(contexts, tokens), other.probabilities(contexts, tokens)
    )


def test_probabilities_of_many_at_once(pieces):
    model = KneserNey.train(pieces, V, order=4)
    contexts = np.random.default_rng(0).integers(V, size=(5, 7, 3))
    tokens = np.random.default_rng(1).integers(V, size=(5, 7))
    given = model.probabilities(contexts, tokens)
    assert given.shape == (5, 7) and given.dtype == np.float64
    for place in np.ndindex(5, 7):
        assert given[place] == model.distribution(contexts[place])[tokens[place]]


def test_log_probability_goes_token_by_token(pieces):
    model = KneserNey.train(pieces[:20], V, order=3)
    given = model.log_probability(pieces)
    assert [len(one) for one in given] == [len(piece) for piece in pieces]
    for piece, one in zip(pieces, given, strict=True):
        for i, token in enumerate(piece):
            assert one[i] == pytest.approx(math.log(model.distribution(piece[:i])[token]), rel=1e-12)
    assert model.log_probability([]) == []
    rows = np.arange(V).reshape(3, 4)
    np.testing.assert_array_equal(model.log_probability(rows), model.log_probability(rows.tolist()))


def test_a_longer_context_helps_where_one_is_needed():
    """0 0 1 1 0 0 1 1 ...: two tokens tell what comes next, one does not."""
    text = [0, 0, 1, 1] * 50
    bits = [-KneserNey.train([text], 2, order).log_probability([text])[0].mean() for order in (1, 2, 3)]
    assert bits[0] > 0.99 * math.log(2) and bits[1] > 0.99 * math.log(2) and bits[2] < 0.05


def test_large_vocabularies_do_not_overflow():
    size = 2_000_000_000  # to the power of 5 it is no 64-bit number
    model = KneserNey.train([[size - 1, 7, size - 2, 3, 5] * 2], size, order=5)
    assert model.probabilities([size - 1, 7, size - 2, 3], 5) > 0.3
    assert model.probabilities([size - 1, 7, size - 2, 4], 5) < 0.3


# Sampling


def test_sampling_is_seeded_and_stops(pieces):
    model = KneserNey.train(pieces, V, order=3)
    first = model.sample(40, context=[2, 3], seed=1)
    assert first == model.sample(40, context=[2, 3], seed=1) != model.sample(40, context=[2, 3], seed=2)
    assert len(first) == 40 and all(type(token) is int and 0 <= token < V for token in first)
    ended = model.sample(400, end_id=0, seed=1)
    assert ended[-1] == 0 and 0 not in ended[:-1] and len(ended) < 400


def test_samples_follow_the_distribution(pieces):
    model = KneserNey.train(pieces, V, order=2)
    drawn = np.bincount([model.sample(1, [1], seed=seed)[0] for seed in range(2000)], minlength=V) / 2000
    np.testing.assert_allclose(drawn, model.distribution([1]), atol=0.04)


# Errors


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1; received vocabulary_size=0."),
        ({"order": 0}, "order must be at least 1; received order=0."),
        ({"discount": 1}, "discount must lie in (0, 1); received discount=1."),
        ({"discount": 0.0}, "discount must lie in (0, 1); received discount=0.0."),
        ({"sequences": [[], []]}, "sequences must hold a token; received none."),
        ({"sequences": [[0], [1, 4]]}, "sequences must hold ints in [0, 4); received int64 1 to 4."),
        ({"sequences": [[0.0]]}, "sequences must hold ints in [0, 4); received float64 0.0 to 0.0."),
    ],
)
def test_bad_training(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        KneserNey.train(**{"sequences": [[0, 1]], "vocabulary_size": 4, "order": 2} | settings)


def test_bad_questions():
    model = KneserNey.train([[0, 1, 2]], 4, order=3)
    with pytest.raises(
        ValueError, match=re.escape("tokens must hold ints in [0, 4); received int64 4 to 4.")
    ):
        model.probabilities([0, 1], 4)
    with pytest.raises(ValueError, match="contexts must hold ints"):
        model.probabilities([[0, -1]], [2])
    message = "the shape of tokens and one axis more; received contexts (2,), tokens (2,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        model.probabilities([0, 1], [2, 2])
    with pytest.raises(ValueError, match="sequences must hold ints"):
        model.log_probability([[9]])
    with pytest.raises(ValueError, match="length must be at least 1; received length=0"):
        model.sample(0)
