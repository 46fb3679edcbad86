import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.evaluation import (
    accuracy,
    bleu,
    chrf,
    confidence_interval,
    confusion_matrix,
    cross_entropy,
    exact_match,
    macro_f1,
    perplexity,
    perplexity_from_loss,
)

EXPECTED = ["cat", "cat", "cat", "dog", "dog", "owl"]
PREDICTED = ["cat", "cat", "dog", "dog", "cat", "dog"]

# Labels


def test_labels_by_hand():
    assert accuracy(EXPECTED, PREDICTED) == 3 / 6
    # cat: precision 2/3, recall 2/3; dog: 1/3 and 1/2; owl: nothing right
    assert macro_f1(EXPECTED, PREDICTED) == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)
    matrix = confusion_matrix(EXPECTED, PREDICTED, labels=["owl", "dog", "cat"])
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 2]]


def test_labels_decide_order_and_classes():
    assert confusion_matrix(EXPECTED, PREDICTED).tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert confusion_matrix([0, 1], [0, 1], labels=[2, 1, 0]).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert macro_f1([0, 1], [0, 1], labels=[0, 1, 2]) == pytest.approx(2 / 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_labels_agree_with_counting(pairs):
    expected, predicted = zip(*pairs, strict=True)
    counts, scores = Counter(pairs), []
    for label in set(expected) | set(predicted):
        right = counts[label, label]
        scores.append(2 * right / (expected.count(label) + predicted.count(label)))
    assert macro_f1(expected, predicted) == pytest.approx(np.mean(scores))
    matrix = confusion_matrix(expected, predicted, labels=range(4))
    assert all(matrix[i, j] == counts[i, j] for i in range(4) for j in range(4))
    assert accuracy(expected, predicted) == pytest.approx(np.trace(matrix) / len(pairs))


def test_numbers_are_plain():
    labels, texts = np.array([0, 1, 1]), ["a"]
    scores = [metric(labels, labels) for metric in (accuracy, macro_f1)]
    scores += [metric(texts, texts) for metric in (exact_match, bleu, chrf)]
    scores += [perplexity([0], [[0.0, 0.0]]), *confidence_interval(accuracy, labels, labels)]
    assert {type(score) for score in scores} == {float}


@pytest.mark.parametrize("metric", [accuracy, macro_f1, confusion_matrix])
def test_bad_labels_are_named(metric):
    with pytest.raises(ValueError, match="must be equally many, at least 1; received 2 and 1"):
        metric([0, 1], [0])
    with pytest.raises(ValueError, match="must be equally many, at least 1; received 0 and 0"):
        metric([], [])
    with pytest.raises(ValueError, match=r"must be rows of labels; received shapes \(2,\) and \(2, 3\)"):
        metric([0, 1], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="must be labels of one kind; received int64 and <U1"):
        metric([0, 1], ["0", "1"])


@pytest.mark.parametrize("metric", [accuracy, macro_f1, confusion_matrix])
def test_labels_that_are_none_are_named(metric):
    for strange in (None, b"a", (1,)):
        labels = np.empty(2, object)
        labels[:] = ["a", strange]
        message = rf"must be ints or strings; received {re.escape(repr(strange))}\."
        with pytest.raises(TypeError, match=message):
            metric(labels, ["a", "b"])
        with pytest.raises(TypeError, match=message):
            metric(["a", "b"], labels)
    assert metric(np.array(["a", "b"], object), ["a", "b"]) is not None


@pytest.mark.parametrize("metric", [macro_f1, confusion_matrix])
def test_unlisted_labels_are_named(metric):
    with pytest.raises(ValueError, match=r"labels must list every label; received none for \['dog', 'owl'\]"):
        metric(EXPECTED, PREDICTED, labels=["cat"])


# Texts


def test_exact_match_by_hand():
    assert exact_match(["a b", "c", "我"], ["a b", "C", "我"]) == pytest.approx(2 / 3)


def test_bleu_by_hand():
    # of the words 5 in 6 are shared, of the pairs 3 in 5, of the triples 2 in 4, of the fours 1 in 3
    expected, predicted = ["the cat sat on the mat"], ["the cat sat on a mat"]
    precisions = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    assert bleu(expected, predicted) == pytest.approx(100 * math.prod(precisions) ** (1 / 4))


def test_bleu_punishes_brevity():
    score = bleu(["one two three four five six"], ["one two three four five"])
    assert score == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_bleu_agrees_with_nltk():
    from nltk.translate.bleu_score import corpus_bleu

    expected = ["it is raining heavily outside this morning", "she reads a long book in the garden every day"]
    predicted = ["it is raining heavily outside today", "she reads a book in the garden nearly every day"]
    theirs = corpus_bleu([[text.split()] for text in expected], [text.split() for text in predicted])
    assert bleu(expected, predicted) == pytest.approx(100 * theirs)


def test_chinese_is_compared_by_character():
    expected, predicted = ["我今天早上去北京看朋友"], ["我今天早上去上海看朋友"]
    from nltk.translate.bleu_score import corpus_bleu

    theirs = corpus_bleu([[list(expected[0])]], [list(predicted[0])])
    assert bleu(expected, predicted, language="zh") == pytest.approx(100 * theirs)
    assert bleu(expected, predicted) < 10 < bleu(expected, predicted, language="zh")


def test_chrf_agrees_with_nltk():
    from nltk.translate.chrf_score import sentence_chrf

    for expected, predicted in [
        ("the garden is green", "the gardens are green"),
        ("我爱北京天安门", "我爱上海天安门"),
    ]:
        theirs = sentence_chrf(expected, predicted, beta=2.0)
        assert chrf([expected], [predicted]) == pytest.approx(100 * theirs, abs=0.01)


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_scores_reach_both_ends(metric):
    texts = ["a long enough sentence to count", "and one more of them here"]
    assert metric(texts, texts) == pytest.approx(100)
    assert metric(["abcdef"], ["uvwxyz"]) == pytest.approx(0)
    assert metric(["a b c d"], [""]) == 0


@pytest.mark.parametrize("metric", [exact_match, bleu, chrf])
def test_bad_texts_are_named(metric):
    with pytest.raises(TypeError, match="predicted must be a collection of strings; received str"):
        metric(["a"], "a")
    with pytest.raises(TypeError, match=r"expected\[1\] must be a string; received int"):
        metric(["a", 1], ["a", "b"])
    with pytest.raises(ValueError, match="must be equally many, at least 1; received 1 and 2"):
        metric(["a"], ["a", "b"])


def test_an_unknown_language_is_named():
    with pytest.raises(ValueError, match='language must be "en" or "zh"; received \'de\''):
        bleu(["a"], ["a"], language="de")


# Perplexity


def test_perplexity_by_hand():
    assert perplexity([0, 1], [[0.5, 0.5], [0.75, 0.25]], from_logits=False) == pytest.approx(math.sqrt(8))
    assert perplexity(np.zeros((2, 3), int), np.zeros((2, 3, 7))) == pytest.approx(7)
    assert perplexity_from_loss(math.log(50)) == pytest.approx(50)


def test_padding_does_not_count():
    scores = np.random.default_rng(0).normal(size=(2, 4, 5))
    tokens = np.array([[1, 2, 3, -1], [4, 99, 0, 0]])  # what stands under padding is not read
    weights = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    real = weights.astype(bool)
    assert perplexity(tokens, scores, weights) == pytest.approx(perplexity(tokens[real], scores[real]))
    assert perplexity(tokens, scores, real) == perplexity(tokens, scores, weights)
    assert perplexity(tokens, scores, 3.0 * weights) == pytest.approx(perplexity(tokens, scores, weights))
    garbage = np.where(real[..., None], scores, np.nan)
    assert perplexity(tokens, garbage, weights) == perplexity(tokens, scores, weights)
    exponentials = np.exp(scores)
    probabilities = np.where(real[..., None], exponentials / exponentials.sum(-1, keepdims=True), 0)
    without = perplexity(tokens, probabilities, weights, from_logits=False)
    assert without == pytest.approx(perplexity(tokens, scores, weights))


def test_cross_entropy_agrees_with_keras():
    keras = pytest.importorskip("keras")
    random = np.random.default_rng(1)
    tokens, logits = random.integers(0, 6, (3, 5)), 10 * random.normal(size=(3, 5, 6))
    weights = random.random((3, 5))
    losses = keras.ops.sparse_categorical_crossentropy(tokens, logits.astype("float32"), from_logits=True)
    expected = float((np.asarray(losses) * weights).sum() / weights.sum())
    assert cross_entropy(tokens, logits, weights) == pytest.approx(expected, rel=1e-5)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    assert cross_entropy(tokens, probabilities, weights, from_logits=False) == pytest.approx(
        expected, rel=1e-5
    )


def test_perplexity_has_its_limits():
    assert perplexity([0], [[1e4, -1e4]]) == 1
    assert perplexity([1], [[1e4, -1e4]]) == math.inf
    assert perplexity([1], [[1.0, 0.0]], from_logits=False) == math.inf
    assert perplexity([0, 1], [[0, 0, -math.inf], [0, 0, -math.inf]]) == pytest.approx(2)  # of three, two
    assert perplexity([0], np.float32([[1.0000001, 0]]), from_logits=False) == 1


def test_bad_scores_are_named():
    with pytest.raises(ValueError, match=r"scores without V; received expected \(2,\), scores \(3, 4\)"):
        perplexity([0, 1], np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"expected must be ints in \[0, 4\); received int64 0 to 4"):
        perplexity([0, 4], np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"expected must be ints in \[0, 4\); received float64"):
        perplexity([0.0, 1.0], np.zeros((2, 4)))
    for weights in ([0, 0], [1, -1], [1, math.nan], [1, math.inf]):
        with pytest.raises(ValueError, match="weights must be finite, at least 0, and not all 0"):
            perplexity([0, 1], np.zeros((2, 4)), weights=weights)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="scores must be numbers; received NaN"):
            perplexity([0, 1], [[0, 0], [0, bad]])
        with pytest.raises(ValueError, match="scores must be probabilities that sum to 1"):
            perplexity([0, 1], [[0.5, 0.5], [0.5, bad]], from_logits=False)
    with pytest.raises(ValueError, match="nothing but -infinity"):
        perplexity([0], [[-math.inf, -math.inf]])
    with pytest.raises(ValueError, match="scores must be probabilities that sum to 1"):
        perplexity([0, 1], np.zeros((2, 4)), from_logits=False)
    with pytest.raises(ValueError, match="loss must be a number of nats, at least 0; received -1"):
        perplexity_from_loss(-1)
    with pytest.raises(ValueError, match="loss must be a number of nats, at least 0; received nan"):
        perplexity_from_loss(math.nan)


# Spread


def test_confidence_interval_follows_the_normal_law():
    random = np.random.default_rng(0)
    predicted = (random.random(400) < 0.8).astype(int)
    share = accuracy(np.ones(400, int), predicted)
    low, high = confidence_interval(accuracy, np.ones(400, int), predicted)
    reach = 1.96 * math.sqrt(share * (1 - share) / 400)
    assert (low, high) == pytest.approx((share - reach, share + reach), abs=0.006)
    narrow = confidence_interval(accuracy, np.ones(400, int), predicted, level=0.5)
    assert low < narrow[0] < share < narrow[1] < high


def test_confidence_interval_repeats_and_takes_texts():
    texts, others = ["a b c d", "e f g h", "i j k l"], ["a b c d", "e f x h", "i j k"]
    first = confidence_interval(chrf, texts, others, resamples=20, seed=3)
    assert first == confidence_interval(chrf, texts, others, resamples=20, seed=3)
    assert first[0] < chrf(texts, others) < first[1]


def test_a_bad_level_is_named():
    with pytest.raises(ValueError, match="resamples must be at least 1; received 0"):
        confidence_interval(accuracy, [1], [1], resamples=0)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\); received 95"):
        confidence_interval(accuracy, [1], [1], level=95)
