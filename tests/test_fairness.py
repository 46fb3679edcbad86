"""The counterfactual gap: swaps by hand, a planted gap, an interval, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.fairness import augmented, counterfactual_gap, swap_words

SWAPS = {"he": "she", "Ada": "Omar", "New Port": "Old Mill"}
TEXTS = [f"he waited for train {number}" for number in range(40)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He saw Ada; ADA waved, he left.", "She saw Omar; Omar waved, she left."),
        ("The sheriff, the heron and Adam", "The sheriff, the heron and Adam"),
        ("She or he?", "He or she?"),
        ("he's from New Port, not Old Mill", "she's from Old Mill, not New Port"),
        ("she_1 he2 他he", "she_1 he2 他he"),
        ("ſhe left", "ſhe left"),  # a letter that matches s and is another
        ("", ""),
    ],
)
def test_whole_words_change_places(text, expected):
    assert swap_words(text, SWAPS) == expected


def test_no_pairs_and_signs():
    assert swap_words("he.", {}) == "he."
    assert swap_words("C++ or a+b", {"a+b": "x.y"}) == "C++ or x.y"


@given(st.lists(st.sampled_from("he she Ada Omar sat. on , the".split())).map(" ".join))
def test_swapping_twice_gives_the_text_back(text):
    assert swap_words(swap_words(text, SWAPS), SWAPS) == text


def test_the_longer_phrase_is_read_first():
    swaps = {"red team": "blue team", "red": "green"}
    assert swap_words("the red team wears red", swaps) == "the blue team wears green"


@pytest.mark.parametrize(
    "swaps", [{"he": "she", "she": "they"}, {"he": "He"}, {"": "x"}, {"a": "c", "b": "c"}]
)
def test_refuses_words_that_come_twice_or_are_empty(swaps):
    with pytest.raises(ValueError, match="swaps must hold different words, none of them empty"):
        swap_words("he", swaps)


def planted(texts):
    """A tenth more for "she", and something for the number, which both texts of a pair share."""
    return [0.4 + 0.1 * ("she" in text) + 0.005 * int(text.split()[-1]) for text in texts]


def test_a_planted_gap_is_found():
    gap = counterfactual_gap(planted, TEXTS, SWAPS)
    np.testing.assert_allclose(gap[:4], 0.1)
    assert gap.flipped == pytest.approx(20 / 40)  # numbers 0 to 19 cross one half, the others are above
    back = counterfactual_gap(planted, [swap_words(text, SWAPS) for text in TEXTS], SWAPS)
    assert back.mean == pytest.approx(-0.1) and back.size == pytest.approx(0.1)


def test_no_gap_of_a_score_that_does_not_read_the_words():
    assert counterfactual_gap(lambda texts: [len(text.split()) for text in texts], TEXTS, SWAPS) == (
        0,
        0,
        0,
        0,
        0,
    )


def test_differences_either_way_have_a_size_but_no_mean():
    def score(texts):
        return [(-1) ** int(text.split()[-1]) * ("she" in text) for text in texts]

    gap = counterfactual_gap(score, TEXTS, SWAPS, threshold=0.5)
    assert gap.mean == 0 and gap.size == 1 and gap.flipped == 0.5
    assert gap.low < -0.15 < 0.15 < gap.high  # standard error 1 / 40^.5
    narrow = counterfactual_gap(score, TEXTS, SWAPS, level=0.5)
    assert gap.low < narrow.low < narrow.high < gap.high


def test_refuses_texts_and_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="each text must hold a word of swaps; received 'they left 1'"):
        counterfactual_gap(planted, [*TEXTS, "they left 1"], SWAPS)
    with pytest.raises(ValueError, match="score must give each of 40 texts a finite number.*with one"):
        counterfactual_gap(lambda texts: [np.nan] * len(texts), TEXTS, SWAPS)
    with pytest.raises(ValueError, match=r"finite number; received shape \(40, 2\)\."):
        counterfactual_gap(lambda texts: np.zeros((len(texts), 2)), TEXTS, SWAPS)
    with pytest.raises(ValueError, match="at least 1; received 0 and 0"):
        counterfactual_gap(planted, [], SWAPS)


def test_augmented_texts_keep_their_labels():
    texts, labels = augmented(["he ran", "it rained", "Ada ran"], [1, 0, 2], SWAPS)
    assert texts == ["he ran", "it rained", "Ada ran", "she ran", "Omar ran"]
    assert labels == [1, 0, 2, 1, 2]
    with pytest.raises(ValueError, match="equally many; received 1 and 2"):
        augmented(["he"], [1, 0], SWAPS)
