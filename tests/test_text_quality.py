import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.text_quality import distinct_n, repetition_rate, rouge, tokens

words = st.lists(st.sampled_from("abc"), max_size=7)


def test_tokens():
    assert tokens("Don't stop: NumPy 2.4, 好!") == ["don", "t", "stop", "numpy", "2", "4"]
    assert tokens("我用 NumPy2，不用 C。", "zh") == ["我", "用", "numpy2", "不", "用", "c"]


def test_rouge_by_hand():
    """Lin 2004, section 3: "police killed the gunman" and two answers of equal bigram overlap."""
    expected = "police killed the gunman"
    first, second = "police kill the gunman", "the gunman kill police"
    assert [rouge([expected], [text], 1) for text in (first, second)] == [3 / 4, 3 / 4]
    assert [rouge([expected], [text], 2) for text in (first, second)] == [1 / 3, 1 / 3]
    assert [rouge([expected], [text]) for text in (first, second)] == [3 / 4, 2 / 4]


def test_rouge_counts_a_word_no_more_often_than_the_reference_has_it():
    assert rouge(["the cat"], ["the the the"], 1) == pytest.approx(2 * (1 / 3 * 1 / 2) / (1 / 3 + 1 / 2))


def test_rouge_averages_pairs_and_scores_nothing_as_zero():
    assert rouge(["a b", "a b"], ["A, b!", "c"], 1) == 0.5
    assert rouge(["a", ""], ["", ""], "L") == rouge(["a"], ["a"], 2) == 0


def test_rouge_of_chinese_characters():
    assert rouge(["我想喝茶。"], ["我喝茶"], "L", "zh") == pytest.approx(2 * 3 / 7)
    assert rouge(["我想喝茶。"], ["我喝茶"], 2, "zh") == pytest.approx(2 * 1 / 5)


def subsequences(text):
    for size in range(len(text) + 1):
        yield from itertools.combinations(text, size)


@settings(max_examples=100, deadline=None)
@given(words, words)
def test_rouge_agrees_with_looking_at_everything(first, second):
    longest = max(map(len, set(subsequences(first)) & set(subsequences(second))))
    total = len(first) + len(second)
    assert rouge([" ".join(first)], [" ".join(second)]) == pytest.approx(2 * longest / max(total, 1))
    pairs = [Counter(itertools.pairwise(text)) for text in (first, second)]
    common = sum(min(pairs[0][pair], pairs[1][pair]) for pair in pairs[0])
    total = max(len(first) - 1, 0) + max(len(second) - 1, 0)
    assert rouge([" ".join(first)], [" ".join(second)], 2) == pytest.approx(2 * common / max(total, 1))


@settings(max_examples=50, deadline=None)
@given(words.filter(bool), words)
def test_rouge_is_symmetric_and_one_for_a_copy(first, second):
    first, second = " ".join(first), " ".join(second)
    assert rouge([first], [first]) == 1
    for kind in (1, 2, "L"):
        assert rouge([first], [second], kind) == pytest.approx(rouge([second], [first], kind))
        assert 0 <= rouge([first], [second], kind) <= 1


def test_distinct_and_repetition_by_hand():
    texts = ["a b a b", "a b c"]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # ab ba ab, ab bc
    assert distinct_n(["我爱茶", "我爱水"], 2, "zh") == 3 / 4
    assert repetition_rate(texts, 2) == pytest.approx((1 / 3 + 0) / 2)
    assert repetition_rate(["a a a a a"], 3) == pytest.approx(2 / 3)
    assert distinct_n(["a"], 2) == repetition_rate(["a"], 2) == 0


@settings(max_examples=50, deadline=None)
@given(words.filter(bool))
def test_what_comes_once_is_all_distinct_and_never_repeated(text):
    text = " ".join(text)
    once = len(set(text.split())) == len(text.split())
    assert (distinct_n([text], 1) == 1) == (repetition_rate([text], 1) == 0) == once
    assert distinct_n([text], 1) == pytest.approx(1 - repetition_rate([text], 1))


def test_bad_arguments():
    with pytest.raises(ValueError, match='kind must be 1, 2 or "L"; received 3'):
        rouge(["a"], ["a"], 3)
    with pytest.raises(ValueError, match="equally many, at least 1; received 1 and 2"):
        rouge(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="equally many, at least 1; received 0 and 0"):
        rouge([], [])
    with pytest.raises(ValueError, match='language must be "en" or "zh"; received \'fr\''):
        rouge(["a"], ["a"], language="fr")
    for measure in (distinct_n, repetition_rate):
        with pytest.raises(ValueError, match="n must be at least 1; received n=0"):
            measure(["a"], 0)
    with pytest.raises(ValueError, match="texts must hold at least one text; received none"):
        repetition_rate([])
